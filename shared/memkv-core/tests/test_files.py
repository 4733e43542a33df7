# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from memkv_core.files import config_folders, read_regular_file, reason_of


def test_a_file_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_regular_file(path, 100) == b"x" * 100
    (tmp_path / "link").symlink_to(path)
    assert len(read_regular_file(tmp_path / "link", 100)) == 100
    with pytest.raises(OSError, match="longer than 99 bytes"):
        read_regular_file(path, 99)


def test_what_is_no_file_and_no_descriptor_is_left_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    for path, reason in [
        (tmp_path, "it is a folder"),
        (tmp_path / "fifo", "it is not a regular file"),
        (tmp_path / "absent", "no such file or directory"),
    ]:
        with pytest.raises(OSError) as caught:
            read_regular_file(path, 10)
        assert reason_of(caught.value) == reason
    assert len(os.listdir("/proc/self/fd")) == before


def test_config_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert config_folders() == (Path("/x/memkv"), Path("/etc/memkv"))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/srv/op")
    assert config_folders()[0] == Path("/srv/op/.config/memkv")
