# SPDX-License-Identifier: Apache-2.0
"""The way in: space for a batch of values, and their publication. A few microseconds a record, digests apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from operator import itemgetter

from memkv_core.errors import InvalidArgumentError
from memkv_server.engine.account import Account
from memkv_server.engine.age import AgeClock
from memkv_server.engine.base import Namespace, Status
from memkv_server.engine.cleaner import Cleaner
from memkv_server.engine.counters import Counters
from memkv_server.engine.index import Index, place_address
from memkv_server.engine.placing import Placer
from memkv_server.engine.pool import Phase, Segment, SegmentPool
from memkv_server.engine.publish import Publisher
from memkv_server.engine.reader import Reader
from memkv_server.engine.relocation import relocate
from memkv_server.engine.reservation import PutReservation, Record
from memkv_server.engine.segment import (
    DIGESTS,
    ENTRY,
    RECORD_COMMIT,
    RECORD_COMMIT_AT,
    RECORD_STATE_AT,
    UNIT_SHIFT,
    RecordState,
    commit_check,
    encode_record,
    hash_key,
    record_layout,
)


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
        self._placer = Placer(pool, cleaner)
        self._publisher = Publisher(pool, index)

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
        shards, seed = self._index.shards, reservation.namespace.hash
        hashes = [hash_key(key, seed) for key in keys]
        known = [key_hash in shards[key_hash[0]] for key_hash in hashes]
        positions: Sequence[int] = range(len(keys))
        account = self._index.usage.get(seed)
        if account is not None and account.quota_bytes is not None:
            positions = self._within(account.quota_bytes, reservation, keys, lengths, metas)
        if True in known:
            self._pool.expect(sum(length for length, is_known in zip(lengths, known, strict=True) if not is_known))
            self._reader.load(hashes)
            positions = self._not_present(reservation, positions, known, keys, lengths, metas)
        else:
            self._pool.expect(sum(lengths))
        self._placer.place_all(reservation, positions, keys, hashes, lengths, metas)
        self._pool.expect(0)

    def _within(
        self,
        quota_bytes: int,
        reservation: PutReservation,
        keys: Sequence[bytes],
        lengths: Sequence[int],
        metas: Sequence[bytes] | None,
    ) -> Sequence[int]:
        """The positions of values that a quota of so many bytes can hold; the others are TOO_LONG."""
        positions = []
        for position, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            meta_bytes = len(metas[position]) if metas is not None else 0
            if record_layout(len(key), meta_bytes, length, self._pool.alignment)[1] > quota_bytes:
                reservation.statuses[position] = Status.TOO_LONG
            else:
                positions.append(position)
        return positions

    def _not_present(
        self,
        reservation: PutReservation,
        positions: Sequence[int],
        known: Sequence[bool],
        keys: Sequence[bytes],
        lengths: Sequence[int],
        metas: Sequence[bytes] | None,
    ) -> Sequence[int]:
        """Those of the positions whose value is not stored already; the others are PRESENT."""
        repeated: Collection[bytes] = () if len(set(keys)) == len(keys) else _repeated(keys)
        absent = []
        for position in positions:
            key = keys[position]
            if (
                known[position]
                and key not in repeated  # which of them is stored at the end is not known yet
                and self._reader.is_present(
                    reservation.namespace,
                    key,
                    lengths[position],
                    reservation.digests[position],
                    reservation.digest_kind,
                    metas[position] if metas is not None else None,
                )
            ):
                reservation.statuses[position] = Status.PRESENT
            else:
                absent.append(position)
        return absent

    def commit(self, reservation: PutReservation) -> bytes:
        """See ``Engine.commit``."""
        pool, statuses = self._pool, reservation.statuses
        if not pool.writable or reservation.namespace_hash != reservation.namespace.hash:
            status = Status.NO_SPACE if pool.writable else Status.READ_ONLY  # dropped while it was under way
            for record in reservation.records:
                statuses[record[0]] = status
            self.abort(reservation)
            return bytes(statuses)
        reservation.landed(len(statuses))
        if reservation.runs and reservation.runs[0][0] is not pool.current:
            self._move_overtaken(reservation)
        user_bytes, verified = 0, self._verified(reservation)
        if verified and len(reservation.runs) == 1:
            user_bytes = self._publisher.publish(reservation, verified[0][2], verified)
        else:
            for segment, records in groupby(verified, itemgetter(2)):
                user_bytes += self._publisher.publish(reservation, segment, list(records))
        account = self._index.usage.get(reservation.namespace_hash)
        if account is not None and account.ages is not None:
            self._keep_bounds(account, reservation)
        self._counters.user_bytes += user_bytes
        self._cleaner.written(user_bytes)
        self._finish(reservation)
        return bytes(statuses)

    def _verified(self, reservation: PutReservation) -> Sequence[Record]:
        """The records whose payload is here and matches its digest; the others get their statuses."""
        digest_of, digests, extents = DIGESTS[reservation.digest_kind], reservation.digests, reservation.extents
        if 0 not in reservation.verified and all(run[0].phase != Phase.CONDEMNED for run in reservation.runs):
            return reservation.records
        verified = []
        for record in reservation.records:
            position, segment = record[0], record[2]
            extent = extents[position]
            if extent is None or segment.phase == Phase.CONDEMNED:
                reservation.statuses[position] = Status.NO_SPACE  # given up while the payload was under way
            elif not reservation.verified[position] and digest_of(extent) != digests[position]:
                reservation.statuses[position] = Status.BAD_DIGEST
            else:
                verified.append(record)
        return verified

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

    def _report(self, records: Sequence[Record]) -> None:
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
            segment = self._placer.next_segment(size)
        if segment is None or not self._placer.has_memory(segment, size):
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


def _repeated(keys: Sequence[bytes]) -> set[bytes]:
    seen: set[bytes] = set()
    repeated: set[bytes] = set()
    for key in keys:
        (repeated if key in seen else seen).add(key)
    return repeated
