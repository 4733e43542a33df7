# SPDX-License-Identifier: Apache-2.0
"""A put's records become visible: sequence and commit check, then the state; the footer entry; the index.

For each record these come in that order, so that a process that dies between any two instructions leaves a record that
is either reserved or committed. Many at once are done by arrays (0.4 us a record, most of it the index, against 1.3 us
one by one): each step for all of them before the next, which keeps the order of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from memkv_core.arguments import spread
from memkv_server.engine import heads
from memkv_server.engine.base import Status
from memkv_server.engine.evict import HEAT_BITS
from memkv_server.engine.heads import commit_heads
from memkv_server.engine.index import LENGTH_SHIFT, Index
from memkv_server.engine.pool import Segment, SegmentPool
from memkv_server.engine.reservation import PutReservation, Record
from memkv_server.engine.segment import (
    ENTRY,
    ENTRY_DTYPE,
    MASK64,
    RECORD_COMMIT,
    RECORD_COMMIT_AT,
    RECORD_STATE_AT,
    SEQUENCE_FACTOR,
    STATE_FACTOR,
    UNIT_SHIFT,
    RecordState,
    commit_check,
)

_COMMITTED: Final = int(RecordState.COMMITTED)
_COMMITTED_TERM: Final = np.uint64(_COMMITTED * STATE_FACTOR & MASK64)
_HIT: Final = bytes([Status.HIT])


class Publisher:
    """Of one engine."""

    def __init__(self, pool: SegmentPool, index: Index) -> None:
        self._pool = pool
        self._index = index

    def publish(self, reservation: PutReservation, segment: Segment, records: Sequence[Record]) -> int:
        """Publishes verified records of one segment, in their order; their bytes together."""
        publish = self._by_arrays if len(records) >= heads.ALIKE_MIN else self._one_by_one
        size = publish(reservation, segment, records)
        self._index.added(reservation.namespace_hash, segment.slot, len(records), size)
        return size

    def _by_arrays(self, reservation: PutReservation, segment: Segment, records: Sequence[Record]) -> int:
        positions, hashes, _, offsets, sizes, checks = zip(*records, strict=True)
        first = self._pool.record_sequence + 1
        self._pool.record_sequence += len(records)
        sequences = np.arange(first, first + len(records), dtype=np.uint64)
        offset_units = np.array(offsets, np.int64) >> UNIT_SHIFT
        units = offset_units + (segment.address >> UNIT_SHIFT)
        # As segment.commit_check; these integers are modulo 2**64 by themselves.
        committed = np.array(checks, np.uint64) + sequences * np.uint64(SEQUENCE_FACTOR) + _COMMITTED_TERM
        commit_heads(segment.view, segment.origin - segment.address, units, sequences, committed)
        entries = np.zeros(len(records), ENTRY_DTYPE)
        entries["key_hash"] = np.frombuffer(b"".join(hashes), "V16")
        entries["namespace_hash"] = reservation.namespace_hash
        entries["sequence"] = sequences
        entries["offset"] = offset_units
        entries["length"] = np.array(sizes, np.int64) >> UNIT_SHIFT
        entries["state"] = _COMMITTED
        segment.entries += entries.tobytes()
        places = [
            size >> UNIT_SHIFT << LENGTH_SHIFT | unit << HEAT_BITS
            for size, unit in zip(sizes, units.tolist(), strict=True)
        ]
        self._index.replace(reservation.namespace_hash, hashes, places)
        run = range(positions[0], positions[0] + len(positions))
        spread(_HIT * len(records), run if positions[-1] == run[-1] else positions, reservation.statuses)
        return sum(sizes)

    def _one_by_one(self, reservation: PutReservation, segment: Segment, records: Sequence[Record]) -> int:
        namespace_hash, index, total = reservation.namespace_hash, self._index, 0
        sequence = self._pool.record_sequence
        for position, key_hash, _, offset, size, check in records:
            sequence += 1
            at = segment.origin + offset
            committed = commit_check(check, sequence, _COMMITTED)
            RECORD_COMMIT.pack_into(segment.memory, at + RECORD_COMMIT_AT, sequence, committed)
            segment.memory[at + RECORD_STATE_AT] = _COMMITTED
            units = size >> UNIT_SHIFT
            segment.entries += ENTRY.pack(key_hash, namespace_hash, sequence, offset >> UNIT_SHIFT, units, _COMMITTED)
            place = units << LENGTH_SHIFT | (segment.address + offset) >> UNIT_SHIFT << HEAT_BITS
            index.replace(namespace_hash, (key_hash,), (place,))
            total += size
            reservation.statuses[position] = Status.HIT
        self._pool.record_sequence = sequence
        return total
