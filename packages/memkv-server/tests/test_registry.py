# SPDX-License-Identifier: Apache-2.0
"""The registry of namespaces: durable, bounded, and deaf to what is torn."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.errors import StorageError
from memkv_server.engine import limits, registry
from memkv_server.engine.age import Mark
from memkv_server.engine.drive import REGISTRY_FILE, FileDrive, MemoryDrive
from memkv_server.engine.namespaces import make_namespace, next_epoch
from memkv_server.engine.registry import Entry, Kind, NamespaceRegistry, decode_entries, encode_entry

NAMES = st.text(min_size=1, max_size=60)
CAPACITY = 1 << 20
SEGMENT = 64 << 10


ENTRIES = st.builds(
    Entry,
    st.sampled_from([kind for kind in Kind if kind != Kind.START]).map(int),
    st.integers(0, 2**32 - 1),
    NAMES,
    st.binary(max_size=200),
)


@given(st.lists(ENTRIES), st.binary(max_size=50), st.integers(0, 3))
def test_entries_are_what_was_encoded_up_to_the_torn_one(entries: list[Entry], rest: bytes, skipped: int) -> None:
    log = bytes(8 * skipped) + b"".join(map(encode_entry, entries))
    found = list(decode_entries(log + bytes(64), 8 * skipped))
    assert [entry for entry, _ in found] == entries
    assert not found or found[-1][1] == len(log)
    torn = encode_entry(Entry(Kind.OPEN, 0, "torn", b"identity"))[: len(rest)] + rest
    assert [entry for entry, _ in decode_entries(log + torn, 8 * skipped)][: len(entries)] == entries


@given(ENTRIES, st.data())
def test_a_flipped_bit_is_seen(entry: Entry, data: st.DataObject) -> None:
    log = bytearray(encode_entry(entry))
    used = 24 + len(entry.name.encode()) + len(entry.identity)
    at = data.draw(st.integers(0, used - 1).filter(lambda at: at != 7))  # the one byte that nothing is kept in
    log[at] ^= 1 << data.draw(st.integers(0, 7))
    assert list(decode_entries(bytes(log))) == []


def test_an_entry_of_before_there_were_drops_is_read() -> None:
    name, identity = b"old", b"{}"
    check = xxhash.xxh3_64_intdigest(name + identity, len(name) << 32 | len(identity))
    log = struct.pack("<IH2xI4xQ", 0x534E4D02, len(name), len(identity), check) + name + identity + bytes(3)
    assert [entry for entry, _ in decode_entries(log)] == [Entry(Kind.OPEN, 0, "old", b"{}")]


def test_a_namespace_is_its_name_and_its_identity() -> None:
    namespace = make_namespace("modèle", b'{"a":1}')
    assert namespace.hash == xxhash.xxh3_64_intdigest("modèle".encode())
    assert len(namespace.identity_digest) == 32
    assert namespace.identity_digest != bytes(32)
    assert make_namespace("modèle", b"").identity_digest == bytes(32)


def test_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    names = NamespaceRegistry(drive)
    kept = [names.open(f"n{number}", b"%d" % number) for number in range(20)]
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
    names = NamespaceRegistry(drive)
    names.open("whole", b"1")
    names.open("torn", b"2" * 100)
    drive.close()
    file = tmp_path / REGISTRY_FILE
    log = bytearray(file.read_bytes())
    log[len(encode_entry(Entry(Kind.OPEN, 0, "whole", b"1"))) + 60] ^= 1
    file.write_bytes(log)
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    names = NamespaceRegistry(drive)
    assert [namespace.name for namespace in names] == ["whole"]
    assert names.open("torn", b"another identity") is not None
    drive.close()
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    assert [namespace.identity for namespace in NamespaceRegistry(drive)] == [b"1", b"another identity"]
    drive.close()


def test_the_registry_is_bounded_in_bytes() -> None:
    drive = MemoryDrive.open(CAPACITY, SEGMENT)
    names = NamespaceRegistry(drive)
    identity = b"i" * 16_000
    fit = limits.REGISTRY_BYTES_MIN // 2 // 16_100
    for number in range(fit):
        assert names.open(f"n{number}", identity) is not None
    with pytest.raises(StorageError, match=f"the registry of namespaces is full, with {fit} in it"):
        names.open("one more", identity)
    assert names.open("n0", identity) is not None, "those that are known still open"
    drive.close()


def test_the_registry_is_bounded_in_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "NAMESPACE_COUNT_MAX", 3)
    drive = MemoryDrive.open(CAPACITY, SEGMENT)
    names = NamespaceRegistry(drive)
    for number in range(3):
        assert names.open(f"n{number}", b"") is not None
    with pytest.raises(StorageError, match="full, with 3 in it"):
        names.open("one more", b"")
    drive.close()


def test_names_that_cannot_be_told_apart_or_are_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = MemoryDrive.open(CAPACITY, SEGMENT)
    names = NamespaceRegistry(drive)
    for name in ("", "n" * 256):
        assert names.open(name, b"") is None
    assert names.open("n", b"i" * 16_385) is None
    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda *_: 5)
    assert names.open("one", b"") is not None
    assert names.open("another of the same hash", b"") is None
    drive.close()


def test_dropped_and_opened_again_it_has_another_hash(tmp_path: Path) -> None:
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    names = NamespaceRegistry(drive)
    first = names.open("n", b"1")
    assert first is not None
    hashes = [first.hash]
    epoch = 0
    for _ in range(5):
        epoch = next_epoch(epoch)
        names.drop("n", epoch)
        assert first.dropped
        hashes.append(first.hash)
        assert (names.get("n"), len(names), list(names)) == (None, 0, [])
        assert names.open("n", b"1") is first, "the object that sessions hold"
        hashes.append(first.hash)
    assert len(set(hashes)) == 11
    names.drop("n", next_epoch(epoch))
    other = names.open("n", b"another identity")
    assert other is not None
    assert first.dropped
    assert other.hash != first.hash
    drive.close()
    drive = FileDrive.open(tmp_path, CAPACITY, SEGMENT)
    again = NamespaceRegistry(drive)
    assert list(again) == [other]
    assert again.epoch == names.epoch
    drive.close()


def test_the_clock_gone_back_gives_a_later_epoch_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    now = next_epoch(0)
    assert now > 1_700_000_000
    monkeypatch.setattr("time.time", lambda: 5.0)
    assert next_epoch(now) == now + 1


class Opened:
    """A registry on a drive in memory, opened anew at will, and torn between two writes."""

    def __init__(self) -> None:
        self.drive = MemoryDrive.open(CAPACITY, SEGMENT)
        self.names = NamespaceRegistry(self.drive)

    def again(self) -> list[tuple[str, bytes, int]]:
        return told(NamespaceRegistry(self.drive))


def told(names: NamespaceRegistry) -> list[tuple[str, bytes, int]]:
    return sorted((each.name, each.identity, each.epoch) for each in names)


def test_a_full_log_is_written_anew_without_what_was_superseded() -> None:
    opened = Opened()
    epoch = 0
    for number in range(4000):  # 2,000 times 200 bytes would not fit
        assert opened.names.open(f"n{number % 40}", b"i" * 150) is not None
        epoch = next_epoch(epoch)
        opened.names.drop(f"n{number % 40}", epoch)
        if number % 100 == 0:
            opened.names.mark(Mark(5000 + number, number, 5001 + number))
    assert opened.names.open("n1", b"i") is not None
    assert opened.again() == told(opened.names) == [("n1", b"i", epoch)]
    again = NamespaceRegistry(opened.drive)
    assert (again.marks[-1].seconds, again.epoch) == (8900, epoch)
    assert {each.name: each.epoch for each in again.known} == {each.name: each.epoch for each in opened.names.known}
    opened.drive.close()


def test_the_oldest_drops_are_forgotten_and_that_is_remembered() -> None:
    opened = Opened()
    epoch = 1000
    for number in range(6000):
        epoch += 1
        opened.names.drop(f"n{number}", epoch)
    known = {each.name: each.epoch for each in opened.names.known}
    assert len(known) < 2100
    assert 1000 < opened.names.forgotten < min(known.values()) < max(known.values()) == epoch
    again = NamespaceRegistry(opened.drive)
    assert (again.forgotten, again.epoch) == (opened.names.forgotten, epoch)
    assert {each.name for each in again.known} == set(known)
    opened.drive.close()


def _fill(names: NamespaceRegistry) -> None:
    for number in range(1000):
        names.open(f"n{number}", b"i" * 1000)


def test_a_full_registry_takes_drops_and_then_another() -> None:
    opened = Opened()
    with pytest.raises(StorageError, match=r"is full, with \d+ in it; drop namespaces that are no longer used"):
        _fill(opened.names)
    count = len(opened.names)
    assert count > 20
    epoch = 0
    for number in range(count):
        epoch = next_epoch(epoch)
        opened.names.drop(f"n{number}", epoch)
    assert len(opened.names) == 0
    assert opened.names.open("one more", b"i" * 10_000) is not None
    assert opened.again() == told(opened.names)
    opened.drive.close()


def test_torn_at_any_write_the_log_is_the_old_or_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the log after each of the writes of a turnover, the last of them cut short anywhere."""
    opened = Opened()
    drive = opened.drive
    for number in range(30):
        assert opened.names.open(f"kept{number}", b"k" * 500) is not None
    states: list[tuple[bytes, list[tuple[str, bytes, int]]]] = []
    write = type(drive).registry_append

    def recorded(self: MemoryDrive, at: int, data: bytes) -> None:
        for part in {0, 1, 24, len(data) // 2, len(data) - 1}:
            write(self, at, data[:part])
            states.append((self.registry_load(), told(opened.names)))
        write(self, at, data)
        states.append((self.registry_load(), told(opened.names)))

    monkeypatch.setattr(MemoryDrive, "registry_append", recorded)
    epoch = 0
    for _ in range(300):
        epoch = next_epoch(epoch)
        opened.names.drop("kept3", epoch)
        assert opened.names.open("kept3", b"k" * 500) is not None
    monkeypatch.undo()
    then = before = told(opened.names)
    for log, now in reversed(states):
        if now != before:
            then, before = before, now
        drive._registry[:] = log
        found = told(NamespaceRegistry(drive))
        assert found in (before, then), "an entry is there or it is not; and nothing else ever goes"
    assert len({log[:4] for log, _ in states}) > 1, "it was written anew, back and forth"
    drive.close()
