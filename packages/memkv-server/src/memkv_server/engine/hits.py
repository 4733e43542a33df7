# SPDX-License-Identifier: Apache-2.0
"""The end of a read: the headers of what was found are checked, and the values handed out where they lie.

A record is believed only after its header's checksum, its namespace and its full key agree. Two ways lead there: by
arrays over the whole batch, for plain hits with keys of one length (0.6 us a key), and one by one (1.3 us, three times
that where the cache is cold) for all else: records with meta, targets that are too small, damage, and batches that are
too small for arrays to pay.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np

from memkv_core.arguments import spread, taken
from memkv_server.engine.base import ReadBatch, Status
from memkv_server.engine.evict import HEAT_BITS, HEAT_MASK, SecondChance
from memkv_server.engine.heads import are_whole, joined_keys, load_heads
from memkv_server.engine.index import ADDRESS_MASK, Index, place_address, place_length
from memkv_server.engine.plan import ReadPlan, misses
from memkv_server.engine.pool import SegmentPool
from memkv_server.engine.segment import (
    RECORD_BODY_AT,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    UNIT_BYTES,
    UNIT_SHIFT,
    RecordState,
    record_layout,
    xxh3_64,
)

_HIT: Final = bytes([Status.HIT])
Drop = Callable[[int, bytes, int], None]  # takes a record out of the index: namespace hash, key hash, place


class Hits:
    """Of one engine. ``drop_corrupt`` and ``drop_unreadable`` are called for what fails a check."""

    def __init__(
        self, pool: SegmentPool, index: Index, policy: SecondChance, drop_corrupt: Drop, drop_unreadable: Drop
    ) -> None:
        self._pool = pool
        self._index = index
        self._policy = policy
        self._drop_corrupt = drop_corrupt
        self._drop_unreadable = drop_unreadable

    def collect(self, plan: ReadPlan) -> ReadBatch:
        """The batch of a plan, all of which is in memory; pins the segments that its views lie in."""
        batch = misses(len(plan.keys))
        slots = self._by_arrays(plan, batch)
        if slots is None:
            slots = self._one_by_one(plan, batch)
        pinned = [self._pool.segments[slot] for slot in slots]
        for segment in pinned:
            segment.pins += 1
        batch.pins.append((pinned, plan.held))
        return batch

    def _by_arrays(self, plan: ReadPlan, batch: ReadBatch) -> Collection[int] | None:
        """Where all that was found are plain hits with keys of one length: fills the batch, returns the slots.

        None, and nothing has changed, where it is not so.
        """
        places = [place for place in plan.places if place is not None]
        found: Sequence[int] = range(len(places))
        if len(places) < len(plan.places):
            found = [position for position, place in enumerate(plan.places) if place is not None]
        keys = joined_keys(taken(plan.keys, found))
        if keys is None or plan.unreadable:
            return None
        pool, view, origin = self._pool, self._pool.segments[0].view, self._pool.segments[0].origin
        key_bytes = len(keys) // len(found)
        units = np.array([place >> HEAT_BITS & ADDRESS_MASK for place in places], np.int64)
        slots = (units >> pool.segment_shift - UNIT_SHIFT).tolist()
        seeds = {slot: pool.segments[slot].seed for slot in set(slots)}
        heads = load_heads(view, origin, units, key_bytes)
        if not are_whole(heads, keys, plan.namespace.hash, [seeds[slot] for slot in slots]):
            return None
        sizes = heads["value_bytes"].tolist()
        if True in map(operator.gt, sizes, taken(plan.capacities, found)):
            return None
        starts = units * UNIT_BYTES + (origin + record_layout(key_bytes, 0, 0, pool.alignment)[0])
        ends = starts + heads["value_bytes"]
        views = [view[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        spread(views, found, batch.views)
        spread(sizes, found, batch.lengths)
        spread(heads["digest"].tolist(), found, batch.digests)
        spread(_HIT * len(found), found, batch.statuses)
        spread((heads["kind_and_stamp"] & 0xFF).astype(np.uint8).tobytes(), found, batch.digest_kinds)
        self._warm(taken(plan.hashes, found), places)
        return seeds

    def _warm(self, hashes: Sequence[bytes], places: Sequence[int]) -> None:
        """These records were read now."""
        shards, touched = self._index.shards, self._policy.touched
        for at in [at for at, place in enumerate(places) if touched[heat := place & HEAT_MASK] != heat]:
            key_hash, place = hashes[at], places[at]
            if shards[key_hash[0]].get(key_hash) == place:
                shards[key_hash[0]][key_hash] = place - (place & HEAT_MASK) + touched[place & HEAT_MASK]

    def _one_by_one(self, plan: ReadPlan, batch: ReadBatch) -> Collection[int]:
        """Fills the batch, whatever there is; returns the slots."""
        keys, capacities, hashes, namespace = plan.keys, plan.capacities, plan.hashes, plan.namespace
        shift, segments, mask = self._pool.segment_shift, self._pool.segments, self._pool.alignment - 1
        slots, hits = set(), []
        for position, place in enumerate(plan.places):
            if place is None:
                continue
            key, key_hash = keys[position], hashes[position]
            if position in plan.unreadable:
                self._pool.unreadable([(place_address(place), place_length(place))])
                self._drop_unreadable(namespace.hash, key_hash, place)
                continue
            address = (place >> HEAT_BITS & ADDRESS_MASK) << UNIT_SHIFT
            segment = segments[address >> shift]
            memory = segment.memory
            at = segment.origin + address - segment.address
            magic, state, _, _, check, namespace_hash, digest, size, meta_bytes, key_bytes, kind = (
                RECORD_HEADER.unpack_from(memory, at)
            )
            meta_at = RECORD_HEADER_BYTES + key_bytes
            body = memory[at + RECORD_BODY_AT : at + meta_at + meta_bytes]
            if magic != RECORD_MAGIC or state != RecordState.COMMITTED or xxh3_64(body, segment.seed) != check:
                self._drop_corrupt(namespace.hash, key_hash, place)
                continue
            key_end = meta_at - RECORD_BODY_AT
            if body[key_end - key_bytes : key_end] != key or namespace_hash != namespace.hash:
                continue  # another key with the same 128-bit hash
            if size > capacities[position]:
                batch.statuses[position] = Status.TOO_LONG
                batch.lengths[position] = size
                continue
            payload_at = at + ((meta_at + meta_bytes + mask) & ~mask)
            batch.views[position] = segment.view[payload_at : payload_at + size]
            batch.statuses[position] = Status.HIT
            batch.lengths[position] = size
            batch.digests[position] = digest
            batch.digest_kinds[position] = kind
            if meta_bytes:
                batch.metas[position] = body[key_end:]
            hits.append(position)
            slots.add(segment.slot)
        self._warm(taken(hashes, hits), [place for at in hits if (place := plan.places[at]) is not None])
        return slots
