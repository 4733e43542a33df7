# SPDX-License-Identifier: Apache-2.0
"""The way in: space for a batch of values, and their publication. A few microseconds a record, digests apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from memkv_core.errors import InvalidArgumentError
from memkv_server.engine.account import Account
from memkv_server.engine.age import AgeClock
from memkv_server.engine.base import Namespace, Status
from memkv_server.engine.cleaner import Cleaner
from memkv_server.engine.counters import Counters
from memkv_server.engine.drive import NoRoomError
from memkv_server.engine.evict import HEAT_BITS
from memkv_server.engine.index import LENGTH_SHIFT, Index, place_address
from memkv_server.engine.pool import Phase, Segment, SegmentPool
from memkv_server.engine.reader import Reader
from memkv_server.engine.relocation import relocate
from memkv_server.engine.segment import (
    DIGESTS,
    ENTRY,
    ENTRY_BYTES,
    MASK64,
    RECORD_BODY,
    RECORD_COMMIT,
    RECORD_COMMIT_AT,
    RECORD_FRONT,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    RECORD_STATE_AT,
    SEQUENCE_FACTOR,
    STAMP_SHIFT,
    STATE_FACTOR,
    TRAILER_BYTES,
    UNIT_SHIFT,
    RecordState,
    commit_check,
    encode_record,
    hash_key,
    record_layout,
    xxh3_64,
)


class PutReservation:
    """Space taken for one put batch; see ``Reservation``. ``statuses[i]`` is final where ``extents[i]`` is None."""

    __slots__ = (
        "_landed", "digest_kind", "digests", "extents", "kind_and_stamp", "namespace", "namespace_hash", "records",
        "runs", "statuses", "verified",
    )  # fmt: skip

    def __init__(
        self, namespace: Namespace, digests: Sequence[bytes], digest_kind: int, count: int, stamp: int = 0
    ) -> None:
        self.namespace = namespace
        self.namespace_hash = namespace.hash  # as it was then: a drop gives it another
        self.digests = digests
        self.digest_kind = digest_kind
        self.kind_and_stamp = digest_kind | stamp << STAMP_SHIFT
        self.extents: list[memoryview | None] = [None] * count
        self.statuses = bytearray(count)
        # position in the batch, key hash, segment, offset in the segment, record bytes, header check
        self.records: list[tuple[int, bytes, Segment, int, int, int]] = []
        # the segments it writes to, with the tail and the entry count that each had before
        self.runs: list[tuple[Segment, int, int]] = []
        self.verified = bytearray(count)  # 1 where the value has landed and matches its digest
        self._landed = 0

    def landed(self, count: int) -> None:
        """See ``Reservation``."""
        digest_of, digests, extents = DIGESTS[self.digest_kind], self.digests, self.extents
        for position in range(self._landed, count):
            extent = extents[position]
            if extent is not None and digest_of(extent) == digests[position]:
                self.verified[position] = 1
        self._landed = max(self._landed, count)


class Writer:
    """Puts and deletes of one engine."""

    def __init__(
        self, pool: SegmentPool, index: Index, counters: Counters, reader: Reader, cleaner: Cleaner, clock: AgeClock
    ) -> None:
        self._pool = pool
        self._index = index
        self._counters = counters
        self._reader = reader
        self._cleaner = cleaner
        self._clock = clock

    def reserve(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        lengths: Sequence[int],
        digests: Sequence[bytes],
        digest_kind: int,
        metas: Sequence[bytes] | None,
    ) -> PutReservation:
        """See ``Engine.reserve``."""
        if digest_kind not in DIGESTS:
            raise InvalidArgumentError(f"digest kind {digest_kind} is unknown")
        reservation = PutReservation(namespace, digests, digest_kind, len(keys), self._pool.durability.stamp)
        if not self._pool.writable:
            reservation.statuses = bytearray([Status.READ_ONLY]) * len(keys)
            return reservation
        try:
            self._fill(reservation, keys, lengths, metas)
        except BaseException:
            self.abort(reservation)  # or its segments would count as being written for ever
            raise
        self._cleaner.keep_pace()
        return reservation

    def _fill(
        self,
        reservation: PutReservation,
        keys: Sequence[bytes],
        lengths: Sequence[int],
        metas: Sequence[bytes] | None,
    ) -> None:
        namespace, digests, digest_kind = reservation.namespace, reservation.digests, reservation.digest_kind
        shards, seed = self._index.shards, namespace.hash
        hashes = [hash_key(key, seed) for key in keys]
        known = [key_hash in shards[key_hash[0]] for key_hash in hashes]
        repeated: Collection[bytes] = () if len(set(keys)) == len(keys) else _repeated(keys)
        self._pool.expect(sum(length for length, is_known in zip(lengths, known, strict=True) if not is_known))
        if True in known:
            self._reader.load(hashes)
        account = self._index.usage.get(seed)
        quota_bytes = account.quota_bytes if account is not None else None
        for position, key in enumerate(keys):
            meta = metas[position] if metas is not None else None
            if (
                quota_bytes is not None
                and record_layout(len(key), len(meta or b""), lengths[position], self._pool.alignment)[1] > quota_bytes
            ):
                reservation.statuses[position] = Status.TOO_LONG
                continue
            if (
                known[position]
                and key not in repeated  # which of them is stored at the end is not known yet
                and self._reader.is_present(namespace, key, lengths[position], digests[position], digest_kind, meta)
            ):
                reservation.statuses[position] = Status.PRESENT
                continue
            self._place(reservation, position, key, hashes[position], meta or b"", lengths[position])
        self._pool.expect(0)

    def _place(
        self, reservation: PutReservation, position: int, key: bytes, key_hash: bytes, meta: bytes, length: int
    ) -> None:
        """Writes the header of a reserved record and hands out the memory of its payload."""
        pool = self._pool
        mask = pool.alignment - 1
        payload_at = (RECORD_HEADER_BYTES + len(key) + len(meta) + mask) & ~mask
        size = payload_at + ((length + mask) & ~mask)
        segment = pool.current
        if (
            segment is None
            or segment.tail + size + segment.entry_count * ENTRY_BYTES + (ENTRY_BYTES + TRAILER_BYTES) > segment.end
        ):
            if size > pool.record_bytes_max:
                reservation.statuses[position] = Status.TOO_LONG
                return
            segment = self._next_segment(size)
            if segment is None:
                reservation.statuses[position] = Status.NO_SPACE
                return
        offset = segment.tail
        if offset + size > segment.prepared and not self._has_memory(segment, size):
            reservation.statuses[position] = Status.NO_SPACE
            return
        runs = reservation.runs
        if not runs or runs[-1][0] is not segment:
            runs.append((segment, offset, segment.entry_count))
            segment.writers += 1
        digest = reservation.digests[position]
        at = segment.origin + offset
        # As segment.encode_record, without the call: these lines run for every value.
        body = RECORD_BODY.pack(
            reservation.namespace_hash, digest, length, len(meta), len(key), reservation.kind_and_stamp
        )
        body += key + meta
        check = xxh3_64(body, segment.seed)
        header = RECORD_FRONT.pack(RECORD_MAGIC, RecordState.RESERVED, 0, 0, check) + body
        segment.memory[at : at + len(header)] = header
        segment.tail = offset + size
        segment.entry_count += 1
        reservation.extents[position] = segment.view[at + payload_at : at + payload_at + length]
        reservation.records.append((position, key_hash, segment, offset, size, check))

    def _next_segment(self, size: int) -> Segment | None:
        """Another segment with room for ``size`` bytes, at most what an empty one has; None: all are in use."""
        pool = self._pool
        while True:
            try:
                if pool.open_next() is None and not self._cleaner.reclaim():
                    return None
            except NoRoomError:
                return None
            if not pool.free and pool.expected_bytes > 0:
                # This batch will need yet another one: made free now, while there is room to copy survivors into.
                self._cleaner.reclaim(wait=False)
            if pool.current is not None and pool.current.has_room(size):
                return pool.current

    def commit(self, reservation: PutReservation) -> bytes:
        """See ``Engine.commit``."""
        pool, statuses, extents = self._pool, reservation.statuses, reservation.extents
        index, namespace_hash = self._index, reservation.namespace_hash
        if not pool.writable or namespace_hash != reservation.namespace.hash:
            status = Status.NO_SPACE if pool.writable else Status.READ_ONLY  # dropped while it was under way
            for record in reservation.records:
                statuses[record[0]] = status
            self.abort(reservation)
            return bytes(statuses)
        digest_of, digests, shards = DIGESTS[reservation.digest_kind], reservation.digests, index.shards
        sequence = pool.record_sequence
        verified = reservation.verified
        current: Segment | None = None
        user_bytes = counted_bytes = 0
        counted_sequence = sequence
        if reservation.runs and reservation.runs[0][0] is not pool.current:
            self._move_overtaken(reservation)
        for position, key_hash, segment, offset, size, check in reservation.records:
            extent = extents[position]
            if extent is None or segment.phase == Phase.CONDEMNED:
                statuses[position] = Status.NO_SPACE  # given up while the payload was under way
                continue
            if not verified[position] and digest_of(extent) != digests[position]:
                statuses[position] = Status.BAD_DIGEST
                continue
            sequence += 1
            at = segment.origin + offset
            committed = (check + sequence * SEQUENCE_FACTOR + _COMMITTED_TERM) & MASK64  # segment.commit_check
            RECORD_COMMIT.pack_into(segment.memory, at + RECORD_COMMIT_AT, sequence, committed)
            segment.memory[at + RECORD_STATE_AT] = _COMMITTED
            units = size >> UNIT_SHIFT
            segment.entries += ENTRY.pack(key_hash, namespace_hash, sequence, offset >> UNIT_SHIFT, units, _COMMITTED)
            shard = shards[key_hash[0]]
            old = shard.get(key_hash)
            shard[key_hash] = units << LENGTH_SHIFT | (segment.address + offset) >> UNIT_SHIFT << HEAT_BITS
            if old is not None:
                index.removed(namespace_hash, old)
            if segment is not current:
                if current is not None:
                    index.added(
                        namespace_hash, current.slot, sequence - 1 - counted_sequence, user_bytes - counted_bytes
                    )
                current, counted_sequence, counted_bytes = segment, sequence - 1, user_bytes
            user_bytes += size
            statuses[position] = Status.HIT
        if current is not None:
            index.added(namespace_hash, current.slot, sequence - counted_sequence, user_bytes - counted_bytes)
        pool.record_sequence = sequence
        account = index.usage.get(namespace_hash)
        if account is not None and account.ages is not None:
            self._keep_bounds(account, reservation)
        self._counters.user_bytes += user_bytes
        self._cleaner.written(user_bytes)
        self._finish(reservation)
        return bytes(statuses)

    def _move_overtaken(self, reservation: PutReservation) -> None:
        """Moves what would otherwise be given up before what it replaces; see ``relocation.py``."""
        pool, digest_of = self._pool, DIGESTS[reservation.digest_kind]
        account = self._index.usage.get(reservation.namespace_hash)
        trimmed = account is not None and account.trimmed  # what it replaces may be out of the index already
        for number, (position, key_hash, segment, offset, size, _) in enumerate(reservation.records):
            old, extent = self._index.get(key_hash), reservation.extents[position]
            if (old is None and not trimmed) or extent is None or segment.phase == Phase.CONDEMNED:
                continue
            newest = pool.segments[place_address(old) >> pool.segment_shift] if old is not None else pool.current
            if newest is None or newest.sequence <= segment.sequence:
                continue
            if not reservation.verified[position] and digest_of(extent) != reservation.digests[position]:
                continue
            moved = relocate(pool, segment, offset, size)
            if moved is None:
                reservation.extents[position] = None
            else:
                target, offset, check, reservation.extents[position] = moved
                reservation.records[number] = (position, key_hash, target, offset, size, check)
                reservation.verified[position] = 0  # the copy was not
                if all(run[0] is not target for run in reservation.runs):
                    # It must not be sealed before the record is committed, should the next one need another.
                    reservation.runs.append((target, offset, target.entry_count - 1))
                    target.writers += 1

    def _keep_bounds(self, account: Account, reservation: PutReservation) -> None:
        """Notes how old the batch's records are, and makes room for them in the namespace's quota."""
        ages, now_s, statuses = account.ages, self._clock.now(), reservation.statuses
        assert ages is not None
        for record in reservation.records:
            if statuses[record[0]] == Status.HIT:
                ages[record[1]] = now_s
                ages.move_to_end(record[1])
        if account.quota_bytes is not None:
            self._index.keep_quota(account)

    def abort(self, reservation: PutReservation) -> None:
        """See ``Engine.abort``. What is still the end of its segment is given back to it."""
        kept = []
        for segment, tail, entry_count in reservation.runs:
            own = [record for record in reservation.records if record[2] is segment]
            if (
                segment.phase == Phase.OPEN
                and own
                and segment.tail == own[-1][3] + own[-1][4] == tail + sum(record[4] for record in own)
            ):
                # The headers of reserved records that stay behind it mislead no scan: nothing there was committed.
                segment.tail, segment.entry_count = tail, entry_count
            else:
                kept += own
        reservation.records = kept
        self._finish(reservation)

    def _finish(self, reservation: PutReservation) -> None:
        runs, reservation.runs = reservation.runs, []
        records, reservation.records = reservation.records, []
        if self._pool.drive.buffers_writes:
            self._report(records)
        if runs:
            self._pool.durability.wrote()
        for segment, _, _ in runs:
            self._pool.done_writing(segment)

    def _report(self, records: Sequence[tuple[int, bytes, Segment, int, int, int]]) -> None:
        """Tells the drive what was written: what lies together as one."""
        parts: list[tuple[Segment, int, int]] = []
        for _, _, segment, offset, size, _ in records:
            if parts and parts[-1][0] is segment and parts[-1][2] == offset:
                parts[-1] = segment, parts[-1][1], offset + size
            else:
                parts.append((segment, offset, offset + size))
        for segment, start, end in parts:
            if segment.phase == Phase.CONDEMNED:
                self._pool.drive.discard(segment.slot, start, end)
            else:
                self._pool.changed(segment, start, end)

    def delete(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine.delete``. READ_ONLY on a failed drive, NO_SPACE where not even a tombstone fits."""
        if not self._pool.writable:
            return bytes([Status.READ_ONLY]) * len(keys)
        self._reader.load([hash_key(key, namespace.hash) for key in keys])
        statuses = bytes([self._delete(namespace, key) for key in keys])
        self._cleaner.keep_pace()
        return statuses

    def _delete(self, namespace: Namespace, key: bytes) -> Status:
        found = self._reader.locate(namespace, key) is not None
        # What is not in the index may still be on the drive, in a segment that is being emptied or was set aside, or
        # dropped because it was damaged, expired or over a quota: a start or a repair would find it again, so it takes
        # a tombstone as well.
        counters, pool = self._counters, self._pool
        hidden = counters.corrupt_records or counters.unreadable_records or pool.quarantined_count
        account = self._index.usage.get(namespace.hash)
        hidden = hidden or (account is not None and account.trimmed)
        if not (found or self._cleaner.busy or hidden):
            return Status.MISS
        size = record_layout(len(key), 0, 0, pool.alignment)[1]
        segment = pool.current
        if segment is None or not segment.has_room(size):
            segment = self._next_segment(size)
        if segment is None or not self._has_memory(segment, size):
            return Status.NO_SPACE
        key_hash = hash_key(key, namespace.hash)
        at = segment.origin + segment.tail
        header, check = encode_record(namespace.hash, key, b"", bytes(16), 0, 0, segment.seed, pool.durability.stamp)
        pool.record_sequence += 1
        sequence = pool.record_sequence
        segment.memory[at : at + len(header)] = header
        committed = commit_check(check, sequence, RecordState.TOMBSTONE)
        RECORD_COMMIT.pack_into(segment.memory, at + RECORD_COMMIT_AT, sequence, committed)
        segment.memory[at + RECORD_STATE_AT] = RecordState.TOMBSTONE
        segment.entries += ENTRY.pack(
            key_hash,
            namespace.hash,
            sequence,
            segment.tail >> UNIT_SHIFT,
            size >> UNIT_SHIFT,
            RecordState.TOMBSTONE,
        )
        pool.changed(segment, segment.tail, segment.tail + size)
        segment.tail += size
        segment.entry_count += 1
        pool.durability.wrote()
        place = self._index.get(key_hash) if found else None
        if place is None:
            return Status.MISS  # or its segment was given up to make room for the tombstone
        self._index.remove(namespace.hash, key_hash, place)
        return Status.HIT

    def _has_memory(self, segment: Segment, size: int) -> bool:
        try:
            self._pool.prepare(segment, segment.tail + size)
        except NoRoomError:
            return False
        return True


_COMMITTED = int(RecordState.COMMITTED)
_COMMITTED_TERM = _COMMITTED * STATE_FACTOR


def _repeated(keys: Sequence[bytes]) -> set[bytes]:
    seen: set[bytes] = set()
    repeated: set[bytes] = set()
    for key in keys:
        (repeated if key in seen else seen).add(key)
    return repeated
