# SPDX-License-Identifier: Apache-2.0
"""Reads the records of one segment of a store image: those its footer names, or those a scan meets.

This is not the server's own code for it (``engine/recovery.py``), on purpose: a checker that shared the reader that it
checks would share its mistakes. The formats are the same, and so must be what both find; a test holds them to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from memkv_core.limits import KEY_BYTES_MAX, META_BYTES_MAX
from memkv_server.drives.findings import Damage
from memkv_server.drives.image import UnreadableError
from memkv_server.engine.limits import SCAN_BYTES
from memkv_server.engine.segment import (
    DIGESTS,
    ENTRY,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEGMENT_DATA_AT,
    TRAILER_BYTES,
    UNIT_BYTES,
    UNIT_SHIFT,
    RecordHeader,
    RecordState,
    decode_footer,
    decode_record,
    hash_key,
    trailer_entry_count,
)

HEADER_BYTES_MAX: Final = RECORD_HEADER_BYTES + KEY_BYTES_MAX + META_BYTES_MAX
_HEADER_BYTES_GUESS: Final = 512
_ENTRY_BYTES: Final = ENTRY.size

Report = Callable[[Damage, int, str], None]
"""Takes a damage, its offset in the segment, and the cause in words."""


class Source(Protocol):
    """Where the bytes of segments come from: a ``Part`` of an image, or what has been read of a drive in use."""

    @property
    def file(self) -> str: ...

    @property
    def base(self) -> int:
        """Where the segments begin in the file."""

    def read(self, at: int, length: int) -> bytes:
        """See ``Part.read``."""

    def read_around(self, at: int, length: int) -> tuple[bytes, int]:
        """See ``Part.read_around``."""


@dataclass(frozen=True, slots=True)
class SegmentPlace:
    """One segment of a store."""

    part: Source
    address: int
    size: int
    alignment: int
    sequence: int
    seed: int

    def read(self, at: int, length: int) -> bytes:
        """Bytes of the segment; see ``Part.read``."""
        return self.part.read(self.address + at, length)


@dataclass(slots=True)
class Record:
    """What stands in the footer for one record, and whether the record is as it should be."""

    key_hash: bytes
    namespace_hash: int
    sequence: int
    at: int
    length: int
    state: int
    intact: bool = True
    stamp: int = 0  # see engine/segment.py; only a scan reads it

    def encode(self, state: int) -> bytes:
        """Its footer entry."""
        return ENTRY.pack(
            self.key_hash, self.namespace_hash, self.sequence, self.at >> UNIT_SHIFT, self.length >> UNIT_SHIFT, state
        )


def footer_of(place: SegmentPlace) -> tuple[bytes, int] | None:
    """(entries, tail in bytes) of a sealed segment; None where its footer is damaged or cannot be read."""
    try:
        trailer = place.read(place.size - TRAILER_BYTES, TRAILER_BYTES)
        count = trailer_entry_count(trailer, TRAILER_BYTES)
        length = count * _ENTRY_BYTES + TRAILER_BYTES
        if length > place.size - SEGMENT_DATA_AT:
            return None
        footer = place.read(place.size - length, length)
    except UnreadableError:
        return None
    # The segment begins so far before the footer; its records must end before the entries do begin.
    found = decode_footer(footer, length - place.size, length, place.sequence, place.seed)
    return (found[0], found[1] << UNIT_SHIFT) if found is not None else None


def footer_records(entries: bytes, place: SegmentPlace, data: bool, report: Report) -> Iterator[Record]:
    """Each record that a footer names, looked at; with ``data`` its payload is read as well."""
    for key_hash, namespace_hash, sequence, offset, length, state in ENTRY.iter_unpack(entries):
        record = Record(key_hash, namespace_hash, sequence, offset << UNIT_SHIFT, length << UNIT_SHIFT, state)
        if state == RecordState.COMMITTED:
            record.intact = record_is_intact(record, place, data, report)
        yield record


def record_is_intact(record: Record, place: SegmentPlace, data: bool, report: Report) -> bool:
    """Whether the record that a footer names stands there; with ``data`` its value is compared with its digest."""
    try:
        header = header_at(place, record.at)
    except UnreadableError as error:
        report(Damage.UNREADABLE, record.at, f"a record's header cannot be read: {error.cause}")
        return False
    if header is None or not header.committed:
        report(Damage.RECORD, record.at, "the header of a record is damaged")
        return False
    length = header.layout(place.alignment)[1]
    found = hash_key(header.key, header.namespace_hash), header.namespace_hash, header.sequence, header.state, length
    if found != (record.key_hash, record.namespace_hash, record.sequence, record.state, record.length):
        report(Damage.RECORD, record.at, "the footer names another record than stands there")
        return False
    return not data or payload_is_intact(place, record.at, header, report)


def header_at(place: SegmentPlace, at: int) -> RecordHeader | None:
    """The record header there, or None. Raises UnreadableError."""
    room = place.size - at
    if room < RECORD_HEADER_BYTES:
        return None
    head = place.read(at, min(_HEADER_BYTES_GUESS, room))
    fields = RECORD_HEADER.unpack_from(head)
    if fields[0] != RECORD_MAGIC:
        return None
    needed = RECORD_HEADER_BYTES + fields[8] + fields[9]
    if needed > min(room, HEADER_BYTES_MAX):
        return None
    if needed > len(head):
        head = place.read(at, needed)
    return decode_record(head, 0, len(head), place.seed)


def payload_is_intact(place: SegmentPlace, at: int, header: RecordHeader, report: Report) -> bool:
    """Whether the payload can be read and matches the digest in its header."""
    digest = DIGESTS.get(header.digest_kind)
    payload_at = at + header.layout(place.alignment)[0]
    try:
        payload = place.read(payload_at, header.value_bytes)
    except UnreadableError as error:
        report(Damage.UNREADABLE, at, f"a value of {header.value_bytes} bytes cannot be read: {error.cause}")
        return False
    if digest is None or digest(memoryview(payload)) != header.digest:
        report(Damage.PAYLOAD, at, f"a value of {header.value_bytes} bytes does not match its digest")
        return False
    return True


@dataclass(slots=True)
class Scan:
    """How a scan went. ``tail`` is where the chain of records ends, from the segment's start."""

    tail: int = SEGMENT_DATA_AT
    torn: bool = False  # something committed stands behind a gap
    durable_sequence: int = 0  # all records up to this one are known to have been durable


def scanned_records(place: SegmentPlace, scan: Scan, report: Report) -> Iterator[Record]:
    """Each record of a segment without a footer, from one to the next, payloads read; what is no record is passed over.

    ``scan`` is filled in on the way.
    """
    limit = place.size - TRAILER_BYTES
    at: int | None = SEGMENT_DATA_AT
    while at is not None:
        header = _header_or_none(place, at)
        length = header.layout(place.alignment)[1] if header is not None else 0
        if header is None or at + length > limit:
            gap_at, at = at, _next_committed(place, at + UNIT_BYTES, limit)
            if at is not None:
                scan.torn = True
                report(Damage.GAP, gap_at, f"{at - gap_at} bytes are no record, and records follow")
            continue
        scan.durable_sequence = max(scan.durable_sequence, header.stamp - 1)
        if header.committed:
            record = Record(
                hash_key(header.key, header.namespace_hash), header.namespace_hash, header.sequence, at, length,
                header.state, stamp=header.stamp,
            )  # fmt: skip
            if header.state == RecordState.COMMITTED:
                record.intact = payload_is_intact(place, at, header, report)
            yield record
        elif header.state != RecordState.RESERVED:
            report(Damage.RECORD, at, "the state of a record is damaged")
        at += length
        scan.tail = at


def _header_or_none(place: SegmentPlace, at: int) -> RecordHeader | None:
    try:
        return header_at(place, at)
    except UnreadableError:
        return None


def _next_committed(place: SegmentPlace, start: int, limit: int) -> int | None:
    """The next place from ``start`` on where a valid, committed header of this life stands."""
    for part in range(start, limit - RECORD_HEADER_BYTES, SCAN_BYTES):
        content, _ = place.part.read_around(place.address + part, min(SCAN_BYTES, limit - part))
        words = np.frombuffer(content[: len(content) & -4], dtype="<u4")
        for unit in np.flatnonzero(words[:: UNIT_BYTES // 4] == RECORD_MAGIC).tolist():
            at: int = part + unit * UNIT_BYTES
            header = _header_or_none(place, at)
            if header is not None and header.committed:
                return at
    return None
