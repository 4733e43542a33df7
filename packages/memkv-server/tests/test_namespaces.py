# SPDX-License-Identifier: Apache-2.0
"""The registry of namespaces: durable, bounded, and deaf to what is torn."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.errors import StorageError
from memkv_server.engine import limits, namespaces
from memkv_server.engine.drive import REGISTRY_FILE, FileDrive, MemoryDrive
from memkv_server.engine.namespaces import NamespaceRegistry, decode_entries, encode_entry, make_namespace

NAMES = st.text(min_size=1, max_size=60)
CAPACITY = 1 << 20
SEGMENT = 64 << 10


@given(st.lists(st.tuples(NAMES, st.binary(max_size=200))), st.binary(max_size=50))
def test_entries_are_what_was_encoded_up_to_the_torn_one(entries: list[tuple[str, bytes]], rest: bytes) -> None:
    log = b"".join(encode_entry(name, identity) for name, identity in entries)
    found = list(decode_entries(log + bytes(64)))
    assert [(name, identity) for name, identity, _ in found] == entries
    assert not found or found[-1][2] == len(log)
    torn = encode_entry("torn", b"identity")[: len(rest)] + rest
    assert [(name, identity) for name, identity, _ in decode_entries(log + torn)][: len(entries)] == entries


def test_a_namespace_is_its_name_and_its_identity() -> None:
    namespace = make_namespace("modèle", b'{"a":1}')
    assert namespace.hash == xxhash.xxh3_64_intdigest("modèle".encode())
    assert len(namespace.identity_digest) == 32
    assert namespace.identity_digest != bytes(32)
    assert make_namespace("modèle", b"").identity_digest == bytes(32)


def test_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    registry = NamespaceRegistry(drive)
    kept = [registry.open(f"n{number}", b"%d" % number) for number in range(20)]
    drive.close()
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    again = NamespaceRegistry(drive)
    assert list(again) == kept
    assert again.open("n3", b"4") is None
    assert again.open("n3", b"3") == kept[3]
    assert len(again) == 20
    drive.close()


def test_a_torn_entry_is_written_over(tmp_path: Path) -> None:
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    registry = NamespaceRegistry(drive)
    registry.open("whole", b"1")
    registry.open("torn", b"2" * 100)
    drive.close()
    file = tmp_path / REGISTRY_FILE
    log = bytearray(file.read_bytes())
    log[len(encode_entry("whole", b"1")) + 60] ^= 1
    file.write_bytes(log)
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    registry = NamespaceRegistry(drive)
    assert [namespace.name for namespace in registry] == ["whole"]
    assert registry.open("torn", b"another identity") is not None
    drive.close()
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    assert [namespace.identity for namespace in NamespaceRegistry(drive)] == [b"1", b"another identity"]
    drive.close()


def test_the_registry_is_bounded_in_bytes() -> None:
    drive = MemoryDrive.open(CAPACITY, SEGMENT)
    registry = NamespaceRegistry(drive)
    identity = b"i" * 16_000
    fit = limits.REGISTRY_BYTES_MIN // 16_100
    for number in range(fit):
        assert registry.open(f"n{number}", identity) is not None
    with pytest.raises(StorageError, match=f"the registry of namespaces is full, with {fit} in it"):
        registry.open("one more", identity)
    assert registry.open("n0", identity) is not None, "those that are known still open"
    drive.close()


def test_the_registry_is_bounded_in_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "NAMESPACE_COUNT_MAX", 3)
    drive = MemoryDrive.open(CAPACITY, SEGMENT)
    registry = NamespaceRegistry(drive)
    for number in range(3):
        assert registry.open(f"n{number}", b"") is not None
    with pytest.raises(StorageError, match="full, with 3 in it"):
        registry.open("one more", b"")
    drive.close()


def test_names_that_cannot_be_told_apart_or_are_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = MemoryDrive.open(CAPACITY, SEGMENT)
    registry = NamespaceRegistry(drive)
    for name in ("", "n" * 256):
        assert registry.open(name, b"") is None
    assert registry.open("n", b"i" * 16_385) is None
    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda *_: 5)
    assert registry.open("one", b"") is not None
    assert registry.open("another of the same hash", b"") is None
    drive.close()
