# SPDX-License-Identifier: Apache-2.0
"""Which keys a namespace holds, a piece at a time, for an operator who looks.

The index knows hashes only; the keys stand in the records. A piece goes through the index in the order of the hashes
and looks into those records that lie in a segment with something of the namespace. It ends with a cursor: all up to
this hash has been looked at. What stays where it is between two pieces is listed once; what comes or goes meanwhile may
be in the list or not. Nothing is counted as a read, warmed or dropped.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from memkv_core.limits import KEY_BYTES_MAX, META_BYTES_MAX
from memkv_server.engine.drive import NoRoomError
from memkv_server.engine.index import SHARD_COUNT, place_address, place_length
from memkv_server.engine.limits import LIST_PIECE_RECORDS, LIST_PIECE_S
from memkv_server.engine.segment import RECORD_HEADER_BYTES, RecordHeader, RecordState, decode_record

if TYPE_CHECKING:
    from memkv_server.engine.engine import Parts, SegmentEngine

_HEAD_BYTES_MAX: Final = RECORD_HEADER_BYTES + KEY_BYTES_MAX + META_BYTES_MAX
_SHARD_END: Final = b"\xff" * 15  # what follows the first byte of the last hash of a shard


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of ``{"key": hex, "size", "meta_bytes"}``, and where to go on: drive and hash. None: that was all."""

    rows: list[dict[str, Any]]
    drive: int | None
    after: bytes = b""


def list_drives(
    engines: Sequence[SegmentEngine | None], name: str, drive: int, after: bytes, prefix: bytes, count_max: int
) -> Piece:
    """A piece of a lane: of its drive number ``drive`` from beyond the hash ``after`` on (empty: from the start).

    A drive that is away, or does not know the namespace, has nothing to list.
    """
    while drive < len(engines):
        engine = engines[drive]
        namespace = engine.namespaces.get(name) if engine is not None else None
        if engine is not None and namespace is not None:
            rows, reached = list_piece(engine.parts, namespace.hash, after, prefix, count_max)
            if reached is not None:
                return Piece(rows, drive, reached)
            return Piece(rows, drive + 1 if drive + 1 < len(engines) else None)
        drive, after = drive + 1, b""
    return Piece([], None)


def list_piece(
    parts: Parts, namespace_hash: int, after: bytes, prefix: bytes, count_max: int
) -> tuple[list[dict[str, Any]], bytes | None]:
    """Up to ``count_max`` rows of keys that begin with ``prefix``, and the hash up to which all was looked at, or None.

    Takes about a millisecond of the lane's thread, or what one 256th of the index takes (0.1 us a record), and one
    access of the drive where it meets a page that is not in memory.
    """
    end_s = time.perf_counter() + LIST_PIECE_S
    shift = parts.pool.segment_shift
    held = {slot for slot, names in parts.index.slots.items() if names.get(namespace_hash, (0,))[0] > 0}
    rows: list[dict[str, Any]] = []
    first = (after[0] + (after[1:] == _SHARD_END)) if after else 0
    for number in range(first, SHARD_COUNT):
        shard = parts.index.shards[number]
        beyond = (key_hash for key_hash, place in shard.items() if place_address(place) >> shift in held)
        hashes = heapq.nsmallest(LIST_PIECE_RECORDS, (key_hash for key_hash in beyond if key_hash > after))
        for key_hash in hashes:
            header = _header_of(parts, shard[key_hash])
            if header is not None and header.namespace_hash == namespace_hash and header.key.startswith(prefix):
                size, meta_bytes = header.value_bytes, len(header.meta)
                rows.append({"key": header.key.hex(), "size": size, "meta_bytes": meta_bytes})
            if len(rows) >= count_max or time.perf_counter() > end_s:
                return rows, key_hash
        if len(hashes) == LIST_PIECE_RECORDS:
            return rows, hashes[-1]
        if time.perf_counter() > end_s:
            return rows, bytes([number]) + _SHARD_END
    return rows, None


def _header_of(parts: Parts, place: int) -> RecordHeader | None:
    """The header of the record there; None where it cannot be read or is none."""
    pool, address = parts.pool, place_address(place)
    extent = address, min(place_length(place), _HEAD_BYTES_MAX)
    try:
        if pool.drive.missing([extent]) and pool.drive.fetch([extent]):
            return None
    except NoRoomError:  # all of mode direct's memory is in use just now
        return None
    segment = pool.segments[address >> pool.segment_shift]
    at = segment.origin + address - segment.address
    header = decode_record(segment.memory, at, segment.origin + segment.end, segment.seed)
    return header if header is not None and header.state == RecordState.COMMITTED else None
