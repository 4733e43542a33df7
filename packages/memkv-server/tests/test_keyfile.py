# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import stat
from pathlib import Path

import pytest

from memkv_core.errors import ConfigError
from memkv_server.keyfile import generate_key, read_key_file, write_private


def test_a_written_key_is_read_back_and_is_its_owners_alone(tmp_path: Path) -> None:
    key, path = generate_key(), tmp_path / "auth.key"
    write_private(path, key + "\n")
    assert read_key_file(path) == key
    assert len(bytes.fromhex(key)) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_keys_differ() -> None:
    assert generate_key() != generate_key()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "auth.key"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_private(path, "other")
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"ab" * 31, "62 characters"),
        (b"zz" * 32, "character 1 of 64"),
        (b"\xff\xfe", "not text"),
        (b"a" * 5000, "longer"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "auth.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        read_key_file(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_key_file(tmp_path / "none")
    with pytest.raises(ConfigError, match="folder"):
        read_key_file(tmp_path)
