# SPDX-License-Identifier: Apache-2.0
"""The durable registry of a drive: its namespaces, with the identity each was first used with, and what was dropped.

A log; an entry is written, and synced, before what it says is used or answered. A torn entry at the end is what an
interrupted start left: nobody was told of it, and the next one takes its place. One entry, aligned to 8 bytes::

    0       4             6      7       8                12         16         24
    +-------+-------------+------+-------+----------------+----------+----------+------+----------+-------+
    | magic | name length | kind | zero  | identity       | number   | check    | name | identity | zeros |
    | u32   | u16         | u8   |       | length u32     | u32      | u64      |      |          |       |
    +-------+-------------+------+-------+----------------+----------+----------+------+----------+-------+

``check`` is the xxh3-64 of name and identity, seeded with all that stands before it and with the number of the log:
what an earlier log left behind in the same space never passes for an entry. ``number`` depends on the kind::

    OPEN       the namespace has this identity since this epoch
    DROPPED    the namespace was dropped in this epoch
    FORGOTTEN  drops up to this epoch are no longer listed
    CLOCK      the seconds of a mark (``age.py``); its sequence and ``until`` stand in place of an identity
    START      the number of the log: how often it was written anew

The log lives in one half of its space. When that is full it is written anew into the other half, without what is
superseded, and begins there with START: the half with the higher number counts. A store of before that has a log
without START in its first half, which counts as number 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import xxhash

from memkv_core.errors import StorageError
from memkv_core.limits import IDENTITY_BYTES_MAX, NAMESPACE_BYTES_MAX
from memkv_server.engine.age import Mark, thinned
from memkv_server.engine.base import Namespace
from memkv_server.engine.drive import Drive
from memkv_server.engine.limits import DROPPED_SHARE, MARK_COUNT_MAX, NAMESPACE_COUNT_MAX
from memkv_server.engine.namespaces import end_namespace, make_namespace, renew_namespace
from memkv_server.engine.segment import MASK64

_ENTRY: Final = struct.Struct("<IHBxIIQ")
_ENTRY_MAGIC: Final = 0x534E4D02  # in memory: 02 'M' 'N' 'S'
# Odd. What is 0 leaves the seed as it was before there were kinds and numbers.
_NUMBER_FACTOR: Final = 0x9E37_79B9_7F4A_7C15
_LOG_FACTOR: Final = 0xC2B2_AE3D_27D4_EB4F
_BLOCK: Final = 4096
_MARK: Final = struct.Struct("<QI")
_MARK_BYTES: Final = 40  # of its entry
assert _ENTRY.size == 24


class Kind(IntEnum):
    """What an entry says; see the module."""

    OPEN = 0
    DROPPED = 1
    START = 2
    CLOCK = 3
    FORGOTTEN = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log."""

    kind: int
    number: int
    name: str = ""
    identity: bytes = b""


def encode_entry(entry: Entry, log_number: int = 0) -> bytes:
    """Its bytes in the log with this number."""
    name = entry.name.encode()
    check = _check(name + entry.identity, len(name), entry.kind, len(entry.identity), entry.number, log_number)
    header = _ENTRY.pack(_ENTRY_MAGIC, len(name), entry.kind, len(entry.identity), entry.number, check)
    encoded = header + name + entry.identity
    return encoded + bytes(-len(encoded) % 8)


def decode_entry(log: bytes, at: int, log_number: int) -> tuple[Entry, int] | None:
    """The entry at ``at`` with its end; None where none of this log stands there whole. START tells its number."""
    if at + _ENTRY.size > len(log):
        return None
    magic, name_bytes, kind, identity_bytes, number, check = _ENTRY.unpack_from(log, at)
    name_at = at + _ENTRY.size
    identity_at = name_at + name_bytes
    end = identity_at + identity_bytes
    if magic != _ENTRY_MAGIC or end > len(log) or kind > max(Kind):
        return None
    log_number = 0 if kind == Kind.START else log_number
    if _check(log[name_at:end], name_bytes, kind, identity_bytes, number, log_number) != check:
        return None
    name = log[name_at:identity_at].decode(errors="replace")
    return Entry(kind, number, name, log[identity_at:end]), end + -(end - at) % 8


def decode_entries(log: bytes, at: int = 0) -> Iterator[tuple[Entry, int]]:
    """Every entry with its end, up to the first that is not whole. The number of the log is in its START, if any."""
    log_number, start = 0, at
    while (found := decode_entry(log, at, log_number)) is not None:
        entry, end = found
        if entry.kind == Kind.START:
            if at != start:
                return
            log_number = entry.number
        yield entry, end
        at = end


def half_bytes(registry_bytes: int) -> int:
    """Where the second half begins."""
    return registry_bytes // 2 & -_BLOCK


def find_log(log: bytes, second: int) -> tuple[int, int]:
    """Where the log that counts begins, and its number; ``second`` is where the second half does."""
    found = [(0, 0)]
    for base in (0, second):
        start = decode_entry(log, base, 0)
        if start is not None and start[0].kind == Kind.START:
            found.append((base, start[0].number))
    return max(found, key=lambda base_and_number: base_and_number[1])


def _entry_of(mark: Mark) -> Entry:
    return Entry(Kind.CLOCK, mark.seconds, identity=_MARK.pack(mark.sequence, mark.until))


def _check(text: bytes, name_bytes: int, kind: int, identity_bytes: int, number: int, log_number: int) -> int:
    seed = (kind << 48 | name_bytes << 32 | identity_bytes) + number * _NUMBER_FACTOR + log_number * _LOG_FACTOR
    return xxhash.xxh3_64_intdigest(text, seed & MASK64)


class NamespaceRegistry:
    """The namespaces of one drive, those that were dropped among them. One thread uses it."""

    def __init__(self, drive: Drive) -> None:
        self.epoch = 0  # of the newest drop
        self.forgotten = 0  # drops up to this epoch are not remembered one by one
        self.marks: list[Mark] = []
        self._drive = drive
        self._known: dict[str, Namespace] = {}
        self._by_hash: dict[int, Namespace] = {}
        self._half_bytes = half_bytes(drive.geometry.registry_bytes)
        self._load(drive.registry_load())

    def __iter__(self) -> Iterator[Namespace]:
        """Those that are not dropped."""
        return iter(self._by_hash.values())

    def __len__(self) -> int:
        return len(self._by_hash)

    @property
    def known(self) -> list[Namespace]:
        """All of which something is recorded, the dropped ones as well."""
        return list(self._known.values())

    def get(self, name: str) -> Namespace | None:
        """The namespace, if it is there and not dropped."""
        known = self._known.get(name)
        return known if known is not None and not known.dropped else None

    def open(self, name: str, identity: bytes, epoch: int | None = None) -> Namespace | None:
        """See ``Engine.open_namespace``. Two names with one hash cannot both be used: the second is refused.

        With an ``epoch`` it is that of the lane; a namespace of an earlier one is superseded.
        """
        known = self._known.get(name)
        if known is not None and not known.dropped and (epoch is None or known.epoch >= epoch):
            return known if known.identity == identity and epoch in (None, known.epoch) else None
        if not 1 <= len(name.encode()) <= NAMESPACE_BYTES_MAX or len(identity) > IDENTITY_BYTES_MAX:
            return None
        epoch = self.epoch if epoch is None else epoch
        if make_namespace(name, identity, epoch).hash in self._by_hash:
            return None
        if len(self) >= NAMESPACE_COUNT_MAX:
            raise self._full()
        self._append(Entry(Kind.OPEN, epoch, name, identity))
        return self._remember(name, identity, epoch)

    def drop(self, name: str, epoch: int) -> None:
        """Records that the namespace was dropped in this epoch. Raises StorageError, and then it was not."""
        self._append(Entry(Kind.DROPPED, epoch, name))
        self._forget(name, epoch)

    def mark(self, mark: Mark) -> None:
        """Records a mark. Raises StorageError, and then it was not."""
        self._append(_entry_of(mark))
        self.marks.append(mark)
        if len(self.marks) > 2 * MARK_COUNT_MAX:
            self.marks = thinned(self.marks)

    # -- the log -----------------------------------------------------------------------------------------------------
    def _load(self, log: bytes) -> None:
        self._base, self._number = find_log(log, self._half_bytes)
        self._tail = self._base
        for entry, end in decode_entries(log, self._base):
            self._tail = end
            if entry.kind == Kind.OPEN:
                self._remember(entry.name, entry.identity, entry.number)
            elif entry.kind == Kind.DROPPED:
                self._forget(entry.name, entry.number)
            elif entry.kind == Kind.CLOCK and len(entry.identity) == _MARK.size:
                self.marks.append(Mark(entry.number, *_MARK.unpack(entry.identity)))
            elif entry.kind == Kind.FORGOTTEN:
                self.forgotten = entry.number
                self.epoch = max(self.epoch, entry.number)

    def _append(self, entry: Entry) -> None:
        data = encode_entry(entry, self._number)
        # A log of before the halves may have grown beyond the first: it stays as it is.
        end = max(self._base + self._half_bytes, self._tail if self._number == 0 else 0)
        if self._tail + len(data) > end:
            self._write_anew(entry)
            return
        self._drive.registry_append(self._tail, data)
        self._tail += len(data)

    def _write_anew(self, last: Entry) -> None:
        """Writes what counts, with this entry, into the other half. Raises StorageError where it does not fit.

        A drop always does: it takes less than the namespace that it ends.
        """
        kept, forgotten = self._drops_to_keep(last)
        marks_max = min(self._half_bytes // DROPPED_SHARE // _MARK_BYTES, MARK_COUNT_MAX)
        marks = thinned(self.marks, marks_max)
        entries = [_entry_of(mark) for mark in marks]
        if forgotten:
            entries.append(Entry(Kind.FORGOTTEN, forgotten))
        others = [each for each in self if each.name != last.name]
        entries += [Entry(Kind.OPEN, each.epoch, each.name, each.identity) for each in others]
        entries += [Entry(Kind.DROPPED, each.epoch, each.name) for each in kept]
        number = self._number + 1
        start = encode_entry(Entry(Kind.START, number))
        log = start + b"".join(encode_entry(entry, number) for entry in [*entries, last])
        # Room for what may come to it when no namespace is opened any more.
        slack_bytes = (marks_max - len(marks)) * _MARK_BYTES + _ENTRY.size if last.kind == Kind.OPEN else 0
        if len(log) + slack_bytes > self._half_bytes or self._tail > self._base + self._half_bytes:
            raise self._full()
        base = self._half_bytes - self._base
        self._drive.registry_append(base + len(start), log[len(start) :])
        self._drive.registry_append(base, start)  # from here on it counts
        self._drive.registry_append(self._base, bytes(_ENTRY.size))  # and the old one never again
        self._base, self._number, self._tail = base, number, base + len(log)
        self.forgotten, self.marks = forgotten, marks
        names = {each.name for each in kept}
        for each in self.known:
            if each.dropped and each.name not in names and each.name != last.name:
                del self._known[each.name]

    def _drops_to_keep(self, last: Entry) -> tuple[list[Namespace], int]:
        """The newest drops, as many as a part of the log holds; and up to which epoch the others are forgotten."""
        kept: list[Namespace] = []
        left_bytes = self._half_bytes // DROPPED_SHARE
        dropped = [each for each in self._known.values() if each.dropped and each.name != last.name]
        for each in sorted(dropped, key=lambda each: -each.epoch):
            left_bytes -= len(encode_entry(Entry(Kind.DROPPED, each.epoch, each.name)))
            if left_bytes < 0:
                return kept, max(self.forgotten, each.epoch)
            kept.append(each)
        return kept, self.forgotten

    def _full(self) -> StorageError:
        return StorageError(
            f"{self._drive.path or 'memory'}: the registry of namespaces is full, with {len(self)} in it",
            remedy="drop namespaces that are no longer used (memkv admin drop), or use a store with a larger capacity",
        )

    def _remember(self, name: str, identity: bytes, epoch: int) -> Namespace:
        known = self._known.get(name)
        if known is not None:
            self._by_hash.pop(known.hash, None)
        namespace = renew_namespace(known, name, identity, epoch)
        self._known[name] = self._by_hash[namespace.hash] = namespace
        self.epoch = max(self.epoch, epoch)
        return namespace

    def _forget(self, name: str, epoch: int) -> None:
        namespace = self._known.setdefault(name, make_namespace(name, b""))
        self._by_hash.pop(namespace.hash, None)
        end_namespace(namespace, epoch)
        self.epoch = max(self.epoch, epoch)
