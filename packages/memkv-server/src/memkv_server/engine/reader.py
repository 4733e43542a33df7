# SPDX-License-Identifier: Apache-2.0
"""The way out: finding values, checking that they are what was asked for, pinning them while they are sent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from memkv_core.log import RateLimitedLog
from memkv_server.engine.base import Namespace, ReadBatch, Status
from memkv_server.engine.counters import Counters
from memkv_server.engine.drive import NoRoomError
from memkv_server.engine.evict import HEAT_BITS, HEAT_MASK, SecondChance
from memkv_server.engine.hits import Hits
from memkv_server.engine.index import Index, place_address, place_length
from memkv_server.engine.plan import ReadPlan, runs_of
from memkv_server.engine.pool import Segment, SegmentPool
from memkv_server.engine.segment import DIGESTS, RecordHeader, RecordState, decode_record, hash_key
from memkv_server.events import limited_event

_LOG: Final = RateLimitedLog(logging.getLogger(__name__))


class Reader:
    """Reads of one engine. A record is believed only after its header's checksum, namespace and full key agree."""

    def __init__(self, pool: SegmentPool, index: Index, counters: Counters, policy: SecondChance) -> None:
        self._pool = pool
        self._index = index
        self._counters = counters
        self._batches_held = 0  # planned and not released, of those that hold memory
        self._policy = policy
        self._hits = Hits(pool, index, policy, self.drop_corrupt, self.drop_unreadable)
        self.clock_s: Callable[[], int] | None = None  # where there is a namespace with a TTL

    def expire(self, namespace_hash: int, key_hashes: Iterable[bytes]) -> None:
        """Before keys are looked up: drops those of them that have outlived the namespace's TTL."""
        account = self._index.usage.get(namespace_hash)
        if account is not None and account.ttl_s is not None and self.clock_s is not None:
            self._index.expire_keys(account, key_hashes, self.clock_s() - account.ttl_s)

    def has_expired(self, namespace_hash: int, key_hash: bytes) -> bool:
        """Whether a record is of a namespace with a TTL, and older."""
        account = self._index.usage.get(namespace_hash)
        if account is None or account.ttl_s is None or account.ages is None or self.clock_s is None:
            return False
        return account.ages.get(key_hash, 0) <= self.clock_s() - account.ttl_s

    def read(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> ReadBatch:
        """See ``Engine.read``. The digest of the payload is the client's to check: here it is not touched."""
        plan = self.plan(namespace, keys, capacities)
        if plan.missing:
            self.fetch(plan)
        return self.finish(plan)

    def plan(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> ReadPlan:
        """Finds the records. Where some are ``missing`` they stay pinned, and ``fetch`` comes before ``finish``.

        For which there is no room in memory is a miss.
        """
        plan = self._plan(namespace, keys, capacities, patient=False)
        assert plan is not None
        return plan

    def plan_patiently(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> ReadPlan | None:
        """The same; None, and nothing is held, where there will be room once other batches have been released."""
        return self._plan(namespace, keys, capacities, patient=True)

    def _plan(
        self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int], *, patient: bool
    ) -> ReadPlan | None:
        shards = self._index.shards
        hashes = [hash_key(key, namespace.hash) for key in keys]
        if self.clock_s is not None:
            self.expire(namespace.hash, hashes)
        places = [shards[key_hash[0]].get(key_hash) for key_hash in hashes]
        runs = runs_of(places)
        missing, refused = self._pool.drive.hold(runs)
        if refused and patient and self._batches_held:
            self._pool.drive.release([run for position, run in enumerate(runs) if position not in refused])
            return None
        plan = ReadPlan(namespace, keys, capacities, hashes, places, runs)
        if refused:
            missing = self._hold_some(plan, missing, refused)
            runs = plan.held
        if missing:
            plan.missing = [runs[position] for position in missing]
            slots = {place_address(place) >> self._pool.segment_shift for place in places if place is not None}
            plan.pinned = [self._pool.segments[slot] for slot in slots]
            for segment in plan.pinned:
                segment.pins += 1
        self._batches_held += bool(plan.held)
        return plan

    def _hold_some(self, plan: ReadPlan, missing: list[int], refused: list[int]) -> list[int]:
        """Of runs that the drive has no room for, holds the records that still fit; the others are misses.

        Returns which of ``plan.held`` are missing.
        """
        drive, runs = self._pool.drive, plan.held
        held = [run for position, run in enumerate(runs) if position not in refused]
        absent = {runs[position] for position in missing}
        outside = [runs[position] for position in refused]
        for position, place in enumerate(plan.places):
            if place is None:
                continue
            extent = place_address(place), place_length(place)
            if not any(start <= extent[0] < start + length for start, length in outside):
                continue
            found, no_room = drive.hold([extent])
            if no_room:
                plan.places[position] = None
                self._counters.crowded_out_records += 1
                continue
            held.append(extent)
            if found:
                absent.add(extent)
        plan.held = held
        return [position for position, extent in enumerate(held) if extent in absent]

    def fetch(self, plan: ReadPlan) -> None:
        """Brings into memory what is missing, and notes what cannot be read. Any thread may call it."""
        drive = self._pool.drive
        for failed in drive.fetch(plan.missing):
            # Of the records of a run that failed only those are lost that cannot be read by themselves.
            start, length = plan.missing[failed]
            for position, place in enumerate(plan.places):
                if place is None or not start <= place_address(place) < start + length:
                    continue
                if drive.fetch([(place_address(place), place_length(place))]):
                    plan.unreadable.add(position)

    def finish(self, plan: ReadPlan) -> ReadBatch:
        """The batch, now that all of it is in memory."""
        batch = self._hits.collect(plan)
        for segment in plan.pinned:
            self._pool.unpin(segment)
        return batch

    def load(self, hashes: Sequence[bytes]) -> None:
        """Brings the records under these key hashes into memory, side by side; whether it could, ``locate`` says."""
        drive = self._pool.drive
        runs = runs_of([self._index.get(key_hash) for key_hash in hashes])
        with contextlib.suppress(NoRoomError):  # then one by one
            missing = drive.missing(runs)
            if missing:
                drive.fetch([runs[position] for position in missing])

    def release(self, batch: ReadBatch) -> None:
        """Unpins; a second call finds nothing to unpin."""
        pins, batch.pins = batch.pins, []
        for segments, held in pins:
            self._batches_held -= bool(held)
            self._pool.drive.release(held)
            for segment in segments:
                self._pool.unpin(segment)

    def exists(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine.exists``; from the index alone."""
        shards, seed = self._index.shards, namespace.hash
        if self.clock_s is not None:
            self.expire(seed, [hash_key(key, seed) for key in keys])
        return bytes([(key_hash := hash_key(key, seed)) in shards[key_hash[0]] for key in keys])

    def lookup(self, namespace: Namespace, keys: Sequence[bytes]) -> int:
        """See ``Engine.lookup``; from the index alone."""
        shards, seed = self._index.shards, namespace.hash
        if self.clock_s is not None:
            self.expire(seed, [hash_key(key, seed) for key in keys])
        for position, key in enumerate(keys):
            key_hash = hash_key(key, seed)
            if key_hash not in shards[key_hash[0]]:
                return position
        return len(keys)

    def locate(self, namespace: Namespace, key: bytes) -> tuple[bytes, int, Segment, int, RecordHeader] | None:
        """Key hash, place, segment, position in its memory and header of the record under ``key``; None: a miss."""
        key_hash = hash_key(key, namespace.hash)
        if self.clock_s is not None:
            self.expire(namespace.hash, [key_hash])
        place = self._index.get(key_hash)
        if place is None:
            return None
        address = place_address(place)
        if self._pool.load([(address, place_length(place))]):
            self.drop_unreadable(namespace.hash, key_hash, place)
            return None
        segment = self._pool.segments[address >> self._pool.segment_shift]
        at = segment.origin + address - segment.address
        header = decode_record(segment.memory, at, segment.origin + segment.end, segment.seed)
        if header is None or header.state != RecordState.COMMITTED:
            self.drop_corrupt(namespace.hash, key_hash, place)
            return None
        if header.key != key or header.namespace_hash != namespace.hash:
            return None
        return key_hash, place, segment, at, header

    def verify(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine.verify``."""
        self.load([hash_key(key, namespace.hash) for key in keys])
        return bytes([self._verify(namespace, key) for key in keys])

    def is_present(
        self, namespace: Namespace, key: bytes, length: int, digest: bytes, digest_kind: int, meta: bytes | None
    ) -> bool:
        """Whether exactly this value is stored, its bytes read again; what does not match its digest is dropped.

        Without a ``meta`` whatever meta is stored is left as it is.
        """
        try:
            found = self.locate(namespace, key)
        except NoRoomError:
            return False  # it is stored anew
        if found is None:
            return False
        key_hash, place, segment, at, header = found
        if (header.value_bytes, header.digest, header.digest_kind) != (length, digest, digest_kind):
            return False
        if meta is not None and meta != header.meta:
            return False
        if not self.intact(segment, at, header):
            self.drop_corrupt(namespace.hash, key_hash, place)
            return False
        heat = place & HEAT_MASK
        self._index.shards[key_hash[0]][key_hash] = place - heat + self._policy.touched[heat]
        return True

    def intact(self, segment: Segment, at: int, header: RecordHeader) -> bool:
        """Whether the payload matches the digest in its header."""
        payload_at = at + header.layout(self._pool.alignment)[0]
        digest = DIGESTS.get(header.digest_kind)
        return (
            digest is not None and digest(segment.view[payload_at : payload_at + header.value_bytes]) == header.digest
        )

    def drop_corrupt(self, namespace_hash: int, key_hash: bytes, place: int) -> None:
        """Takes a record that failed a check out of the index; its next put stores it anew."""
        if self._drop(namespace_hash, key_hash, place):
            self._counters.corrupt_records += 1
            words = "a record is dropped, its bytes are not those that were put: it is a miss; see `memkv drive scrub`"
            path = self._pool.drive.path or self._pool.drive.mode
            limited_event(_LOG, f"corrupt {path}", "record_corrupt", words, path=path)

    def drop_unreadable(self, namespace_hash: int, key_hash: bytes, place: int) -> None:
        """The same for one that the drive does not give back."""
        self._counters.unreadable_records += self._drop(namespace_hash, key_hash, place)

    def _drop(self, namespace_hash: int, key_hash: bytes, place: int) -> bool:
        known = self._index.get(key_hash)
        if known is None or known >> HEAT_BITS != place >> HEAT_BITS:
            return False  # a key that stands twice in one batch, or was put again
        self._index.remove(namespace_hash, key_hash, place)
        return True

    def _verify(self, namespace: Namespace, key: bytes) -> Status:
        counters = self._counters
        before = counters.corrupt_records + counters.unreadable_records
        found = self.locate(namespace, key)
        if found is None:
            dropped = counters.corrupt_records + counters.unreadable_records - before
            return Status.BAD_DIGEST if dropped else Status.MISS
        key_hash, place, segment, at, header = found
        if self.intact(segment, at, header):
            return Status.HIT
        self.drop_corrupt(namespace.hash, key_hash, place)
        return Status.BAD_DIGEST
