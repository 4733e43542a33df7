# SPDX-License-Identifier: Apache-2.0
"""Reads every sealed record of a drive that is in use, and drops what does not hold.

A value in the page cache may be well while the medium beneath it is not, and a record that nobody asks for is read by
nobody: both are found here, before a restart or a reader finds them. The medium is read by a thread, at a bounded
rate (``medium.py``); what was read is verified in the lane's tick, a record at a time.

Only live records of sealed segments are looked at: the segment being written is scrubbed the next time. A segment may
be evicted and written anew meanwhile. Then its sequence number is another, and nothing that was read of it counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from memkv_core.errors import StorageError
from memkv_core.log import RateLimitedLog
from memkv_server.drives.findings import Damage
from memkv_server.drives.medium import HeldPart, MediumReader
from memkv_server.drives.records import Record, SegmentPlace, record_is_intact
from memkv_server.engine import SegmentEngine
from memkv_server.engine.index import place_address
from memkv_server.engine.limits import CLEAN_SLICE_RECORDS
from memkv_server.engine.pool import Phase, Segment
from memkv_server.engine.segment import (
    ENTRY,
    ENTRY_BYTES,
    TRAILER_BYTES,
    UNIT_SHIFT,
    RecordState,
    decode_footer,
)

_LOG: Final = RateLimitedLog(logging.getLogger("memkv.server.scrub"))
_BATCH_BYTES: Final = 1 << 20
_SLICE_BYTES: Final = CLEAN_SLICE_RECORDS * ENTRY_BYTES
T = TypeVar("T")


class Scrub:
    """``Work`` on one engine; see ``engine/jobs.py``. ``notify`` rings the lane's bell."""

    name = "scrub"

    def __init__(self, engine: SegmentEngine, rate_bytes_s: int, notify: Callable[[], None]) -> None:
        parts = engine.parts
        drive = parts.drive
        if drive.path is None:
            raise StorageError("mode memory has no drive to scrub", remedy="scrub nodes of mode file or direct")
        self._parts = parts
        self._drive = drive
        self._rate = rate_bytes_s
        self._segments = [(segment, segment.sequence) for segment in parts.pool.closed if segment.phase == Phase.SEALED]
        self._bytes_total = sum(segment.tail for segment, _ in self._segments)
        self._bytes_done = 0
        self._records = 0
        self._counts = {"damaged_records": 0, "unreadable_records": 0, "damaged_footers": 0}
        self._reader = MediumReader(Path(drive.path), drive.geometry, rate_bytes_s, notify)

    def steps(self) -> Iterator[bool]:
        """See ``Work``."""
        for segment, sequence in self._segments:
            tail = segment.tail
            if self._is_there(segment, sequence):
                yield from _waited(write_back := self._reader.call(self._drive.write_back))
                write_back.result()
                entries = yield from self._read_footer(segment, sequence)
                yield from self._scrub_segment(segment, sequence, entries)
            self._bytes_done += tail

    def progress(self) -> dict[str, Any]:
        """See ``Work``."""
        return {
            "bytes": self._bytes_done,
            "bytes_total": self._bytes_total,
            "bytes_read": self._reader.bytes_read,
            "rate_bytes_s": self._rate,
            "records": self._records,
            **self._counts,
        }

    def close(self) -> None:
        """See ``Work``."""
        self._reader.close()

    def _is_there(self, segment: Segment, sequence: int) -> bool:
        """Whether the segment is still the one that it was when the scrub began."""
        return segment.sequence == sequence and segment.phase == Phase.SEALED

    def _read_footer(self, segment: Segment, sequence: int) -> Generator[bool, None, bytes]:
        size = segment.entry_count * ENTRY_BYTES + TRAILER_BYTES
        extent = segment.address + segment.end - size, size
        yield from _waited(read := self._reader.read([extent]))
        (content,) = read.result()
        footer = None
        if content is not None:
            footer = decode_footer(content, size - segment.end, size, sequence, segment.seed)
        if footer is None:
            if self._is_there(segment, sequence):
                self._counts["damaged_footers"] += 1
                self._say(Damage.FOOTER, segment, segment.end - TRAILER_BYTES, "its footer is damaged")
            return b""  # a start will scan the segment, and look at every record then
        return footer[0]

    def _scrub_segment(self, segment: Segment, sequence: int, entries: bytes) -> Iterator[bool]:
        batch: list[Record] = []
        for start in range(0, len(entries), _SLICE_BYTES):
            for entry in ENTRY.iter_unpack(entries[start : start + _SLICE_BYTES]):
                key_hash, namespace_hash, number, offset, length, state = entry
                record = Record(key_hash, namespace_hash, number, offset << UNIT_SHIFT, length << UNIT_SHIFT, state)
                if state != RecordState.COMMITTED or not self._is_live(record, segment):
                    continue
                if batch and record.at + record.length - batch[0].at > _BATCH_BYTES:
                    yield from self._scrub_batch(segment, sequence, batch)
                    batch = []
                batch.append(record)
            yield True
        if batch:
            yield from self._scrub_batch(segment, sequence, batch)

    def _scrub_batch(self, segment: Segment, sequence: int, batch: list[Record]) -> Iterator[bool]:
        if not self._is_there(segment, sequence):
            return
        extents = [(segment.address + record.at, record.length) for record in batch]
        yield from _waited(read := self._reader.read(extents))
        alignment = self._parts.pool.alignment
        for record, content in zip(batch, read.result(), strict=True):
            address = segment.address + record.at
            part = HeldPart(self._reader, address, content)
            place = SegmentPlace(part, segment.address, record.at + record.length, alignment, sequence, segment.seed)
            if (damage := _damage_of(record, place)) is not None:
                self._drop(segment, sequence, record, damage)
            self._records += 1
            yield True

    def _drop(self, segment: Segment, sequence: int, record: Record, damage: Damage) -> None:
        if not self._is_there(segment, sequence) or not self._is_live(record, segment):
            return
        place = self._parts.index.get(record.key_hash)
        assert place is not None
        reader = self._parts.reader
        if damage is Damage.UNREADABLE:
            self._counts["unreadable_records"] += 1
            self._parts.pool.unreadable([(segment.address + record.at, record.length)])
            reader.drop_unreadable(record.namespace_hash, record.key_hash, place)
        else:
            self._counts["damaged_records"] += 1
            reader.drop_corrupt(record.namespace_hash, record.key_hash, place)
        self._say(damage, segment, record.at, f"a record of {record.length} bytes is dropped")

    def _is_live(self, record: Record, segment: Segment) -> bool:
        place = self._parts.index.get(record.key_hash)
        return place is not None and place_address(place) == segment.address + record.at

    def _say(self, damage: Damage, segment: Segment, at: int, what: str) -> None:
        offset = self._reader.base + segment.address + at
        _LOG.error(
            f"{damage.value} {self._drive.path}",
            "%s: offset %d: segment %d: %s (%s); see how the drive is, and run `memkv drive check --repair` "
            "when the node is stopped",
            self._reader.file, offset, segment.slot, what, damage.value,
        )  # fmt: skip


def _damage_of(record: Record, place: SegmentPlace) -> Damage | None:
    found: list[Damage] = []
    record_is_intact(record, place, True, lambda damage, _at, _cause: found.append(damage))
    return found[0] if found else None


def _waited(future: Future[T]) -> Iterator[bool]:
    while not future.done():
        yield False
