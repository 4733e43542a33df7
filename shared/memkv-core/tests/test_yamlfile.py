# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from memkv_core.errors import ConfigError
from memkv_core.limits import CONFIG_BYTES_MAX
from memkv_core.yamlfile import read_yaml_mapping

SECRET = "5ec2e7" * 10


def read(path: Path) -> dict[str, object]:
    return read_yaml_mapping(path, named_by="MEMKV_CONFIG")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_a_file_without_settings_is_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert read(path) == {}


def test_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("servers: [a, 'b:1']\ntimeout_ms: 7\n")
    assert read(path) == {"servers": ["a", "b:1"], "timeout_ms": 7}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (f"- {SECRET}\n", "holds a list"),
        (f"{SECRET}\n", "holds a str"),
        (f"auth_key: '{SECRET}\n", "is not valid yaml"),
        (f"auth_key: {SECRET}\n  x: 1\n", "is not valid yaml at line 2"),
        (f"a: 1\na: {SECRET}\n", "at line 2, column 1: a key is given twice"),
        (f"1: {SECRET}\n", "key 1 is not text"),
        (f"? [a]\n: {SECRET}\n", "is not"),
        (f"a: !!python/object:os.system {SECRET}\n", "is not valid yaml"),
        (f"day: 2026-99-99\nauth_key: {SECRET}\n", "cannot build"),
        ("[" * 20000, "cannot build"),
    ],
)
def test_bad_text_is_named_and_not_quoted(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert cause in str(caught.value)
    assert str(path) in str(caught.value)
    assert "MEMKV_CONFIG" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    big = tmp_path / "big"
    big.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    binary = tmp_path / "binary"
    binary.write_bytes(b"a: \xff\n")
    for path, cause in [
        (tmp_path / "absent", "no such file"),
        (tmp_path, "it is a folder"),
        (fifo, "it is not a regular file"),
        (Path("/dev/zero"), "it is not a regular file"),
        (big, f"longer than {CONFIG_BYTES_MAX} bytes"),
        (binary, "not UTF-8 text at byte 3"),
    ]:
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert cause in str(caught.value), path
        assert str(path) in str(caught.value)
