# SPDX-License-Identifier: Apache-2.0
"""Eviction at work: the oldest segment is emptied in small slices, so that a free one is always kept ahead.

Three things drive it, in this order: ``tick`` while the lane has nothing better to do; ``keep_pace`` after a
reservation, which does just so much that the next segment is free before the current one is full; and ``reclaim``,
at once and to the end, when a put would otherwise be refused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np

from memkv_core.errors import StorageError
from memkv_server.engine.counters import Counters
from memkv_server.engine.drive import NoRoomError
from memkv_server.engine.evict import HEAT_BITS, HEAT_MASK, SecondChance
from memkv_server.engine.index import (
    ADDRESS_BITS,
    Index,
    pack_place,
    place_address,
    place_length,
)
from memkv_server.engine.limits import (
    CLEAN_SLICE_RECORDS,
    COPY_AHEAD_FACTOR,
    COPY_SLICE_BYTES,
    FREE_SEGMENTS_AHEAD,
    LOOK_BY_SHARE,
    SEGMENT_COUNT_ROOMY,
    TICK_BUDGET_S,
)
from memkv_server.engine.pool import Phase, Segment, SegmentPool
from memkv_server.engine.reader import Reader
from memkv_server.engine.relocation import copy_record
from memkv_server.engine.segment import (
    ENTRY,
    ENTRY_BYTES,
    ENTRY_DTYPE,
    RECORD_COMMIT,
    RECORD_COMMIT_AT,
    RECORD_STATE_AT,
    UNIT_SHIFT,
    RecordState,
    commit_check,
    decode_record,
)

_SLICE_BYTES: Final = CLEAN_SLICE_RECORDS * ENTRY_BYTES


class Cleaner:
    """Empties segments of one engine. At most one at a time is being emptied.

    First the segment's entries are gone through: what nobody read is taken out of the index. Then what the policy
    chose among the rest is copied into the current segment, while there is still room in it: hence the pace.
    """

    def __init__(
        self, pool: SegmentPool, index: Index, counters: Counters, reader: Reader, policy: SecondChance
    ) -> None:
        self._pool = pool
        self._index = index
        self._counters = counters
        self._reader = reader
        self._policy = policy
        self.tick_budget_s = TICK_BUDGET_S
        self._job: Iterator[None] | None = None
        self._looked_share = 0.0  # of the victim's entries
        self._planned_bytes = 0  # to be copied out of the victim
        self._copied_bytes = 0
        self._copying_from = 0  # the current segment's tail when copying began

    @property
    def busy(self) -> bool:
        """Whether a segment is half emptied: records of it are out of the index and would be back after a crash.

        So would those of one that is not yet marked as free on the medium.
        """
        return self._job is not None or bool(self._pool.freeing)

    @property
    def _ahead_wanted(self) -> int:
        """How many segments are kept free: one more where they are not free at once."""
        pool = self._pool
        slow = pool.durability.stamp and len(pool.segments) >= SEGMENT_COUNT_ROOMY
        return FREE_SEGMENTS_AHEAD + 1 if slow else FREE_SEGMENTS_AHEAD

    def written(self, user_bytes: int) -> None:
        """Users wrote so many bytes: some of what they read may be kept for it."""
        self._policy.written(user_bytes)

    def tick(self) -> bool:
        """Works for about 0.3 ms where there is work; True while there is more."""
        deadline = time.perf_counter() + self.tick_budget_s
        while self._step_safely():
            if time.perf_counter() >= deadline:
                return True
        return False

    def keep_pace(self) -> None:
        """Does its part of the work for what users have written into the current segment so far."""
        while self._pool.ahead < self._ahead_wanted and self._behind() and self._step_safely():
            pass

    def _step_safely(self) -> bool:
        """As ``_step``; a drive that takes no writes is left as it is."""
        if not self._pool.writable:
            return False
        try:
            return self._step()
        except StorageError:  # the drive has noted it, and takes no more writes
            self._finish_job()
            return False

    def _behind(self) -> bool:
        current = self._pool.current
        if current is None:
            return False
        if self._looked_share < 1.0:
            return self._looked_share < current.tail / (current.end * LOOK_BY_SHARE)
        users = current.tail - self._copying_from - self._copied_bytes
        room = current.end - self._copying_from - self._planned_bytes
        return users > 0 and self._copied_bytes * room <= self._planned_bytes * users * COPY_AHEAD_FACTOR

    def reclaim(self, *, wait: bool = True) -> bool:
        """Gives segments up until one is free. False, with nothing given up, where all are pinned or being written.

        One that has been given up may not be free before the drive has synced. Without ``wait`` that will do;
        otherwise the lane waits for it: two full segments were written faster than the drive syncs.
        """
        while not self._pool.free:
            if self._pool.freeing:
                if not wait:
                    return True
                if not self._pool.await_freed():
                    return False
                continue
            if self._job is None:
                if not self._pool.evictable():
                    return False
                self._job = self._empty(self._pool.closed[0])
            deque(self._job, maxlen=0)  # to its end
            self._finish_job()
        return True

    def _step(self) -> bool:
        """One slice; False where there is nothing to do."""
        if self._job is None:
            pool = self._pool
            if pool.ahead >= self._ahead_wanted or not pool.closed:
                return False
            victim = pool.closed[0]
            if victim.phase != Phase.SEALED or victim.pins:
                return False  # nothing to be won now; reclaim() will not be so polite
            self._job = self._empty(victim)
        try:
            next(self._job)
        except StopIteration:
            self._finish_job()
        return True

    def _finish_job(self) -> None:
        self._job = None
        self._looked_share, self._planned_bytes, self._copied_bytes = 0.0, 0, 0

    def _empty(self, victim: Segment) -> Iterator[None]:
        """Unindexes what nobody read, copies forward what the policy chooses, gives the segment up; in slices."""
        candidates: list[tuple[bytes, int, int]] = []  # key hash, namespace hash, place without its heat
        heats: list[int] = []
        # A footer that cannot be read is as good as damaged.
        sealed = victim.phase == Phase.SEALED
        entries = b"" if sealed and self._pool.load([victim.footer]) else victim.footer_entries()
        for start in range(0, len(entries), _SLICE_BYTES):
            part = entries[start : start + _SLICE_BYTES]
            self._look_through(victim, part, candidates, heats)
            self._looked_share = (start + len(part)) / (len(entries) + 1)
            yield
        if not entries:
            self._evict_by_place(victim)
        yield from self._reinsert(victim, candidates, heats)
        self._index.clear_slot(victim.slot)
        self._counters.evicted(time.time() - victim.opened_at_s)
        self._pool.give_up(victim)

    def _look_through(
        self, victim: Segment, part: bytes, candidates: list[tuple[bytes, int, int]], heats: list[int]
    ) -> None:
        """Of the records of these entries that are still indexed, evicts those that nobody read; notes the others.

        It is done for every record that is ever written, so the fields come from arrays and what is evicted is
        accounted for by namespace: 0.5 us a record instead of 1.2.
        """
        shards, retired, mortal = self._index.shards, self._index.retired, self._reader.clock_s is not None
        entries = np.frombuffer(part, ENTRY_DTYPE)
        entries = entries[entries["state"] == RecordState.COMMITTED]
        units = entries["offset"].astype(np.uint64) + (victim.address >> UNIT_SHIFT)
        extents = entries["length"].astype(np.uint64) << ADDRESS_BITS | units
        unread: dict[int, list[tuple[bytes, int]]] = {}
        for key_hash, namespace_hash, own in zip(
            entries["key_hash"].tolist(), entries["namespace_hash"].tolist(), extents.tolist(), strict=True
        ):
            place = shards[key_hash[0]].get(key_hash)
            if place is None or place >> HEAT_BITS != own:
                continue
            heat = place & HEAT_MASK
            if (
                heat
                and namespace_hash not in retired
                and not (mortal and self._reader.has_expired(namespace_hash, key_hash))
            ):
                candidates.append((key_hash, namespace_hash, own))
                heats.append(heat)
            elif namespace_hash in unread:
                unread[namespace_hash].append((key_hash, own))
            else:
                unread[namespace_hash] = [(key_hash, own)]
        for namespace_hash, records in unread.items():
            self._evict_all(victim.slot, namespace_hash, records)

    def _evict_all(self, slot: int, namespace_hash: int, records: list[tuple[bytes, int]]) -> None:
        """Takes records of one slot and namespace out of the index, each given as key hash and extent."""
        size = sum(own >> ADDRESS_BITS for _, own in records) << UNIT_SHIFT
        self._index.remove_all(namespace_hash, slot, [key_hash for key_hash, _ in records], size)
        if namespace_hash not in self._index.retired:
            self._counters.evicted_records += len(records)
            self._counters.evicted_bytes += size

    def _reinsert(self, victim: Segment, candidates: list[tuple[bytes, int, int]], heats: list[int]) -> Iterator[None]:
        sizes = [own >> ADDRESS_BITS << UNIT_SHIFT for _, _, own in candidates]
        chosen = set(self._policy.choose(heats, sizes))
        self._looked_share = 1.0
        self._planned_bytes = sum(sizes[position] for position in chosen)
        self._copying_from = self._pool.current.tail if self._pool.current is not None else 0
        slice_bytes = 0
        for position, (key_hash, namespace_hash, own) in enumerate(candidates):
            if slice_bytes >= COPY_SLICE_BYTES or position % CLEAN_SLICE_RECORDS == 0:
                slice_bytes = 0
                yield
            place = self._index.get(key_hash)
            if place is None or place >> HEAT_BITS != own:
                continue  # replaced or deleted meanwhile
            dropped = namespace_hash in self._index.retired
            if position in chosen and not dropped and self._copy(victim, key_hash, place):
                slice_bytes += sizes[position]
            else:
                self._evict(key_hash, namespace_hash, place)
            if position in chosen:
                self._copied_bytes += sizes[position]

    def _evict_by_place(self, victim: Segment) -> None:
        """The slow way, for a segment whose footer was damaged since it was written: by a look at the whole index.

        The namespace of a record is not looked for, since its header may be damaged as well: see ``Index``.
        """
        for key_hash, place in list(self._index.items()):
            if 0 <= place_address(place) - victim.address < victim.end:
                self._index.clear_place(key_hash)
                self._counters.evicted_records += 1
                self._counters.evicted_bytes += place_length(place)
        self._index.clear_slot(victim.slot)

    def _evict(self, key_hash: bytes, namespace_hash: int, place: int) -> None:
        self._index.remove(namespace_hash, key_hash, place)
        if namespace_hash not in self._index.retired:
            self._counters.evicted_records += 1
            self._counters.evicted_bytes += place_length(place)

    def _target(self, size: int) -> Segment | None:
        """The segment that a copy goes to, ready for it; None: there is no room."""
        target = self._pool.current
        try:
            if target is None or not target.has_room(size):
                target = self._pool.open_next()
            if target is not None:
                self._pool.prepare(target, target.tail + size)
        except NoRoomError:
            return None
        return target

    def _copy(self, victim: Segment, key_hash: bytes, place: int) -> bool:
        """Writes a record again, into the current segment and under its old sequence number; False: no room, or bad."""
        size = place_length(place)
        target = self._target(size)
        if target is None:
            return False
        try:
            unreadable = self._pool.load([(place_address(place), size)])
        except NoRoomError:
            return False
        if unreadable:
            self._counters.unreadable_records += 1
            return False
        source_at = victim.origin + place_address(place) - victim.address
        header = decode_record(victim.memory, source_at, victim.origin + victim.end, victim.seed)
        if header is None or not self._reader.intact(victim, source_at, header):
            self._counters.corrupt_records += 1
            return False
        at = target.origin + target.tail
        check = copy_record(
            victim, source_at, header, target, size,
            alignment=self._pool.alignment, stamp=self._pool.durability.stamp,
        )  # fmt: skip
        committed = commit_check(check, header.sequence, RecordState.COMMITTED)
        RECORD_COMMIT.pack_into(target.memory, at + RECORD_COMMIT_AT, header.sequence, committed)
        target.memory[at + RECORD_STATE_AT] = RecordState.COMMITTED
        target.entries += ENTRY.pack(
            key_hash,
            header.namespace_hash,
            header.sequence,
            target.tail >> UNIT_SHIFT,
            size >> UNIT_SHIFT,
            RecordState.COMMITTED,
        )
        self._pool.durability.wrote()
        self._index.shards[key_hash[0]][key_hash] = pack_place(target.address + target.tail, size)
        self._pool.changed(target, target.tail, target.tail + size)
        self._index.removed(header.namespace_hash, place)
        self._index.added(header.namespace_hash, target.slot, 1, size)
        target.tail += size
        target.entry_count += 1
        self._counters.reinserted_records += 1
        self._counters.reinserted_bytes += size
        self._policy.copied(size)
        return True
