# SPDX-License-Identifier: Apache-2.0
"""What a start does with the segments it finds: index the sealed ones, scan the rest, set the damaged ones aside.

A sealed segment is indexed from its footer, with numpy: its payloads are not read. A segment without a valid footer
(the open one, or one whose footer was damaged) is scanned from record to record, and every payload is checked
against its digest. Where the chain of records breaks, the scan goes on at the next valid header of the same life.

*A committed record whose payload does not match* is one of two things. It was acknowledged, and the medium has
damaged it: then it is a miss, and what it replaced must not come back in its place. Or it was under way when the
power failed, and nobody was told of it: then what it replaced is still the value. The stamps tell (``segment.py``):
records up to the newest that is known to have been durable are of the first kind, younger ones of the second.

What a start makes of the drive is on the medium before it is served: a sync first, for what a process that died left
in the page cache, and a sync at the end, for the footers of what was scanned. Sequence numbers go on from a random
distance, for a power loss takes back some of the last ones, and what was written under those must not pass for new.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import secrets
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from memkv_core.limits import KEY_BYTES_MAX, META_BYTES_MAX
from memkv_server.engine.age import AgeClock
from memkv_server.engine.bounds import within_bounds
from memkv_server.engine.counters import Counters
from memkv_server.engine.drive import NoRoomError
from memkv_server.engine.index import ADDRESS_BITS, Index
from memkv_server.engine.limits import JUMP_BITS, LOAD_PARTS, SCAN_BYTES
from memkv_server.engine.pool import Phase, Segment, SegmentPool
from memkv_server.engine.segment import (
    DIGESTS,
    ENTRY,
    ENTRY_BYTES,
    ENTRY_DTYPE,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEGMENT_DATA_AT,
    SEGMENT_HEADER,
    SEGMENT_STATE_AT,
    TRAILER_BYTES,
    UNIT_BYTES,
    UNIT_SHIFT,
    RecordHeader,
    RecordState,
    SegmentHeader,
    SegmentState,
    decode_footer,
    decode_record,
    decode_segment_header,
    hash_key,
    segment_seed,
    trailer_entry_count,
)

logger = logging.getLogger(__name__)

_HEADER_BYTES_MAX: Final = RECORD_HEADER_BYTES + KEY_BYTES_MAX + META_BYTES_MAX


@dataclass(slots=True)
class Scan:
    """What a scan of one segment found. ``tail`` is where the chain of records ends, from the segment's start."""

    entries: bytearray = field(default_factory=bytearray)
    damaged: list[tuple[RecordHeader, bytes]] = field(default_factory=list)  # and their entries, as tombstones
    durable_sequence: int = 0  # all records up to this one are known to have been durable
    tail: int = SEGMENT_DATA_AT
    torn: bool = False  # something committed stands behind a gap: the segment must not be written to again
    corrupt_records: int = 0


def scan_segment(pool: SegmentPool, segment: Segment) -> Scan:
    """Reads a segment record by record, and its payloads; what the drive does not give back is passed over."""
    scan = Scan()
    limit = segment.end - TRAILER_BYTES
    at: int | None = SEGMENT_DATA_AT
    ahead = 0
    while at is not None:
        if at >= ahead:  # in large pieces; what of it cannot be read, the record that needs it will say
            ahead = min(at + SCAN_BYTES, segment.end)
            piece = [(segment.address + at, ahead - at)]
            with contextlib.suppress(NoRoomError):
                if pool.drive.missing(piece):
                    pool.drive.fetch(piece)
        header = _record_at(pool, segment, at)
        size = header.layout(pool.alignment)[1] if header is not None else 0
        if header is None or at + size > limit:
            at = _next_committed(pool, segment, at + UNIT_BYTES, limit)
            scan.torn = scan.torn or at is not None
            continue
        _take(scan, pool, segment, at, size, header)
        at += size
        scan.tail = at
    return scan


def _record_at(pool: SegmentPool, segment: Segment, at: int) -> RecordHeader | None:
    size = min(_HEADER_BYTES_MAX, segment.end - at)
    if pool.load([(segment.address + at, size)]):
        return None
    return decode_record(segment.memory, segment.origin + at, segment.origin + segment.end, segment.seed)


def _take(scan: Scan, pool: SegmentPool, segment: Segment, at: int, size: int, header: RecordHeader) -> None:
    scan.durable_sequence = max(scan.durable_sequence, header.stamp - 1)
    if header.state == RecordState.RESERVED:
        return
    if not header.committed:
        scan.corrupt_records += 1
        return
    damaged = False
    if header.state == RecordState.COMMITTED:
        payload_at = segment.origin + at + header.layout(pool.alignment)[0]
        digest = DIGESTS.get(header.digest_kind)
        damaged = (
            digest is None
            or bool(pool.load([(segment.address + at, size)]))
            or digest(segment.view[payload_at : payload_at + header.value_bytes]) != header.digest
        )
    entry = ENTRY.pack(
        hash_key(header.key, header.namespace_hash),
        header.namespace_hash,
        header.sequence,
        at >> UNIT_SHIFT,
        size >> UNIT_SHIFT,
        RecordState.TOMBSTONE if damaged else header.state,
    )
    if damaged:
        scan.damaged.append((header, entry))
    else:
        scan.entries += entry


def judge(scan: Scan, durable_sequence: int) -> None:
    """Decides about the damaged records, see the module; ``durable_sequence`` is what the whole drive tells."""
    for header, entry in scan.damaged:
        if header.stamp and header.sequence > durable_sequence:
            # It stays where it is, and must not be judged again when more is known to be durable.
            scan.torn = True
        else:
            scan.corrupt_records += 1
            scan.entries += entry
    scan.damaged.clear()


def _next_committed(pool: SegmentPool, segment: Segment, start: int, limit: int) -> int | None:
    """The next place from ``start`` on where a valid, committed header of this life stands."""
    for part in range(start, limit - RECORD_HEADER_BYTES, SCAN_BYTES):
        end = min(part + SCAN_BYTES, limit)
        if pool.load([(segment.address + part, end - part)]):
            continue
        words = np.frombuffer(segment.view[segment.origin + part : segment.origin + end], dtype="<u4")
        for unit in np.flatnonzero(words[:: UNIT_BYTES // 4] == RECORD_MAGIC).tolist():
            at: int = part + unit * UNIT_BYTES
            header = _record_at(pool, segment, at)
            if header is not None and header.committed:
                return at
    return None


def recover(pool: SegmentPool, index: Index, counters: Counters, clock: AgeClock) -> None:
    """Sorts every segment of a freshly opened drive into its phase and fills the index.

    Only records of the namespaces that ``index`` has an account for are taken, the others were dropped; and of those
    what their bounds allow (``bounds.py``).
    Raises StorageError where the drive cannot be synced.
    """
    pool.drive.sync()
    found = _read_headers(pool)
    oldest = max((header.oldest_sequence for _, header in found), default=0)
    held: list[_Held] = []
    for segment, header in found:
        if header.sequence < oldest:
            # Given up before a younger one was opened; a power loss undid the mark.
            pool.drive.prepare(segment.slot, 0, SEGMENT_HEADER.size)
            segment.memory[segment.origin + SEGMENT_STATE_AT] = SegmentState.FREE
            pool.changed(segment, 0, SEGMENT_HEADER.size)
            pool.free.append(segment)
        else:
            held.append(_hold(pool, segment, header))
    durable_sequence = max((each.durable_sequence for each in held), default=0)
    tables: list[tuple[Segment, npt.NDArray[np.void]]] = []
    for each in held:
        entries = _place(pool, each, each is held[-1], durable_sequence, counters)
        if entries:
            tables.append((each.segment, np.frombuffer(entries, dtype=ENTRY_DTYPE)))
    pool.sequence = max((header.sequence for _, header in found), default=0) + 1 + secrets.randbits(JUMP_BITS)
    if tables:
        pool.record_sequence = max(int(table["sequence"].max()) for _, table in tables)
        _fill(index, tables, clock)
    pool.record_sequence = max(pool.record_sequence, clock.newest_sequence)
    pool.drive.sync()


def give_back_memory() -> None:
    """Has the allocator let go of what a recovery is done with; else it keeps about as much as the index takes."""
    with contextlib.suppress(AttributeError):  # a C library that has no such call, and mostly no such need
        ctypes.CDLL(None).malloc_trim(0)


def _read_headers(pool: SegmentPool) -> list[tuple[Segment, SegmentHeader]]:
    """The segments that hold records, oldest first; the others are sorted into free and quarantined."""
    uuid = pool.drive.geometry.uuid
    by_sequence: dict[int, tuple[Segment, SegmentHeader]] = {}
    unreadable: set[int] = set()
    for segment in pool.segments:
        if segment.slot % LOAD_PARTS == 0:
            part = pool.segments[segment.slot : segment.slot + LOAD_PARTS]
            failed = pool.load([(each.address, SEGMENT_HEADER.size) for each in part])
            unreadable = {segment.slot + position for position in failed}
        if segment.slot in unreadable:
            _quarantine(pool, segment, "its header cannot be read")
            continue
        header = decode_segment_header(segment.memory, segment.origin, uuid)
        if header is None or header.sequence in by_sequence:
            _quarantine(pool, segment, "its header is damaged")
        elif header.state in (SegmentState.FREE, SegmentState.NEVER_USED):
            pool.free.append(segment)
        else:
            segment.sequence = header.sequence
            segment.opened_at_s = header.opened_at
            segment.seed = segment_seed(uuid, header.sequence)
            by_sequence[header.sequence] = segment, header
    return [by_sequence[sequence] for sequence in sorted(by_sequence)]


def _quarantine(pool: SegmentPool, segment: Segment, reason: str) -> None:
    segment.phase = Phase.QUARANTINED
    pool.quarantined_count += 1
    logger.warning(
        "%s: offset %d: segment %d is set aside: %s; the rest is served; "
        "stop the node and run `memkv drive check --repair %s`",
        pool.file,
        segment.address,
        segment.slot,
        reason,
        pool.drive.path or "",
    )


@dataclass(slots=True)
class _Held:
    """A segment that holds records: its footer's entries and tail, or else what a scan found."""

    segment: Segment
    header: SegmentHeader
    footer: tuple[bytes, int] | None
    scan: Scan
    durable_sequence: int


def _hold(pool: SegmentPool, segment: Segment, header: SegmentHeader) -> _Held:
    footer = _load_footer(pool, segment) if header.state == SegmentState.SEALED else None
    if footer is None:
        scan = scan_segment(pool, segment)
        return _Held(segment, header, None, scan, scan.durable_sequence)
    # It was sealed when all that the footer vouches for was durable, and with it all that was older.
    table = np.frombuffer(footer[0], dtype=ENTRY_DTYPE)
    return _Held(segment, header, footer, Scan(), int(table["sequence"].max()) if len(table) else 0)


def _place(
    pool: SegmentPool, held: _Held, youngest: bool, durable_sequence: int, counters: Counters
) -> bytes | bytearray:
    """The entries of a segment, which is made the current one, sealed, or quarantined on the way."""
    segment, scan = held.segment, held.scan
    if held.footer is not None:
        segment.phase = Phase.SEALED
        segment.entry_count = len(held.footer[0]) // ENTRY_BYTES
        segment.tail = held.footer[1] << UNIT_SHIFT
        pool.closed.append(segment)
        return held.footer[0]
    judge(scan, durable_sequence)
    counters.corrupt_records += scan.corrupt_records
    if held.header.state == SegmentState.SEALED and not scan.entries:
        _quarantine(pool, segment, "its footer is damaged, and no record in it is whole")
        return b""
    segment.tail = scan.tail
    segment.entries = scan.entries
    segment.entry_count = len(scan.entries) // ENTRY_BYTES
    if youngest and held.header.state == SegmentState.OPEN and not scan.torn:
        segment.phase = Phase.OPEN
        segment.prepared = segment.tail & -SEGMENT_DATA_AT  # of the page with the tail there is more to come
        pool.current = segment
    else:
        segment.phase = Phase.CLOSED
        pool.closed.append(segment)
        pool.seal(segment)
    return scan.entries


def _load_footer(pool: SegmentPool, segment: Segment) -> tuple[bytes, int] | None:
    end = segment.origin + segment.end
    if pool.load([(segment.address + segment.end - TRAILER_BYTES, TRAILER_BYTES)]):
        return None
    segment.entry_count = min(trailer_entry_count(segment.memory, end), segment.end // ENTRY_BYTES - 2)
    if pool.load([segment.footer]):
        return None
    return decode_footer(segment.memory, segment.origin, end, segment.sequence, segment.seed)


def _fill(index: Index, tables: list[tuple[Segment, npt.NDArray[np.void]]], clock: AgeClock) -> None:
    """Of each key the newest record counts: the highest sequence number, and of its copies the youngest intact one."""
    table = np.concatenate([entries for _, entries in tables])
    counts = [len(entries) for _, entries in tables]
    base_units = np.repeat(np.array([segment.address >> UNIT_SHIFT for segment, _ in tables], dtype=np.uint64), counts)
    age = np.repeat(np.arange(len(tables), dtype=np.uint32), counts)
    halves = np.ascontiguousarray(table["key_hash"]).view(">u8").reshape(-1, 2)
    high, low = halves[:, 0].astype(np.uint64), halves[:, 1].astype(np.uint64)
    intact = table["state"] == RecordState.COMMITTED
    order = np.lexsort((age, intact, table["sequence"], low, high))
    high, low = high[order], low[order]
    newest = np.ones(len(order), dtype=bool)
    newest[:-1] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    served = np.isin(table["namespace_hash"], np.array(list(index.usage), dtype=np.uint64))
    chosen = order[newest & intact[order] & served[order]]
    if any(account.ages is not None for account in index.usage.values()):
        chosen = chosen[within_bounds(index, table[chosen], clock)]
    table, base_units = table[chosen], base_units[chosen]
    lengths = table["length"].astype(np.uint64)
    addresses = base_units + table["offset"]
    index.load(np.ascontiguousarray(table["key_hash"]), (lengths << np.uint64(ADDRESS_BITS)) | addresses)
    _count(index, table["namespace_hash"], age[chosen], lengths, [segment.slot for segment, _ in tables])


def _count(
    index: Index,
    namespaces: npt.NDArray[np.uint64],
    tables: npt.NDArray[np.uint32],
    lengths: npt.NDArray[np.uint64],
    slots: list[int],
) -> None:
    """Adds up what each namespace holds of each segment; ``tables`` says which of ``slots`` a record lies in."""
    hashes, number = np.unique(namespaces, return_inverse=True)
    group = tables.astype(np.int64) * len(hashes) + number
    groups, records = np.unique(group, return_counts=True)
    units = np.zeros(len(slots) * len(hashes), dtype=np.uint64)
    np.add.at(units, group, lengths)
    for each, count in zip(groups.tolist(), records.tolist(), strict=True):
        table, namespace = divmod(each, len(hashes))
        index.added(int(hashes[namespace]), slots[table], count, int(units[each]) << UNIT_SHIFT)
