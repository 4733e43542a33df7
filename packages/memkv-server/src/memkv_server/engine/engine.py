# SPDX-License-Identifier: Apache-2.0
"""The storage engine of a lane: segments on one drive. See ``base.py`` for the contract."""

from __future__ import annotations

import contextlib
import heapq
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memkv_core.errors import StorageError
from memkv_core.log import RateLimitedLog
from memkv_server.engine.account import Account, Rules
from memkv_server.engine.age import AgeClock
from memkv_server.engine.base import Barrier, Namespace, ReadBatch, Reading, Reservation
from memkv_server.engine.cleaner import Cleaner
from memkv_server.engine.counters import Counters
from memkv_server.engine.drive import Drive
from memkv_server.engine.durability import SETTLED, Durability, Immediate, Level, Ticket
from memkv_server.engine.evict import SecondChance
from memkv_server.engine.group_commit import Committer, CommitThread, GroupCommit, Wake
from memkv_server.engine.health import DriveHealth
from memkv_server.engine.index import Index
from memkv_server.engine.limits import EXPIRE_SLICE_RECORDS, HOUSEKEEPING_S
from memkv_server.engine.namespaces import next_epoch
from memkv_server.engine.pool import SegmentPool
from memkv_server.engine.reader import Reader
from memkv_server.engine.reads import Finished, Reads
from memkv_server.engine.recovery import give_back_memory, recover
from memkv_server.engine.registry import NamespaceRegistry
from memkv_server.engine.report import engine_usage
from memkv_server.engine.reservation import PutReservation
from memkv_server.engine.writer import Writer

_LOG: Final = RateLimitedLog(logging.getLogger(__name__))
_NO_RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is made of, for work on it beside its service (``jobs.py``), in the same thread."""

    drive: Drive
    pool: SegmentPool
    index: Index
    reader: Reader


class SegmentEngine:
    """``Engine`` over the segments of a drive. One thread calls it; only the drive's own threads run beside it.

    ``notify`` is called by any thread when a ``tick`` will settle barriers; without it the engine has a ``wake_fd``.
    """

    def __init__(
        self,
        drive: Drive,
        level: Level = Level.RELAXED,
        notify: Callable[[], None] | None = None,
        rules: Rules = _NO_RULES,
    ) -> None:
        self._drive = drive
        self.level = level
        self._wake: Wake | None = None
        self._notify = notify
        self._counters = Counters()
        self._namespaces = NamespaceRegistry(drive)
        self._index = Index(drive.geometry.segment_bytes)
        self._rules = rules
        for namespace in self._namespaces:
            self._open_account(namespace)
        self._clock = AgeClock(self._namespaces.marks, rules.ttl_s_min)
        self._housekeeping_at_s = 0.0
        self._pool = SegmentPool(drive)
        started = time.perf_counter()
        recover(self._pool, self._index, self._counters, self._clock)
        give_back_memory()
        self._counters.recovery_seconds = time.perf_counter() - started
        policy = SecondChance(drive.geometry.segment_bytes, drive.geometry.segment_count)
        self._reader = Reader(self._pool, self._index, self._counters, policy)
        self._cleaner = Cleaner(self._pool, self._index, self._counters, self._reader, policy)
        if rules.ttl_s_min is not None:
            self._reader.clock_s = self._clock.now
        self._writer = Writer(self._pool, self._index, self._counters, self._reader, self._cleaner, self._clock)
        self._reads = Reads(self._reader, notify or (lambda: None))
        self._durability = self._make_durability(notify)
        self._pool.durability = self._durability
        self._closed = False

    @classmethod
    def open(
        cls,
        drive: Drive,
        level: Level = Level.RELAXED,
        notify: Callable[[], None] | None = None,
        rules: Rules = _NO_RULES,
    ) -> SegmentEngine:
        """Rebuilds the index from what the drive holds. The engine owns the drive, and closes it where this raises."""
        try:
            return cls(drive, level, notify, rules)
        except BaseException:
            drive.close()
            raise

    def _make_durability(self, notify: Callable[[], None] | None) -> Durability:
        drive, health = self._drive, self._drive.health
        strict = self.level is Level.STRICT
        if not strict and not drive.buffers_writes:
            return Immediate(drive.written)
        if notify is None:
            self._wake = Wake()
            notify = self._wake.ring
        groups = GroupCommit(
            self._make_committer(drive.sync if strict else drive.write_back, notify),
            lambda: self._pool.record_sequence,
            health.write_failed,
            None if strict else drive.written,
        )
        groups.recovered(self._pool.record_sequence)
        return groups

    def _make_committer(self, commit: Callable[[], None], notify: Callable[[], None]) -> Committer:
        return CommitThread(commit, notify)

    @property
    def health(self) -> DriveHealth:
        """How the drive is doing."""
        return self._drive.health

    @property
    def parts(self) -> Parts:
        """See ``Parts``."""
        return Parts(self._drive, self._pool, self._index, self._reader)

    @property
    def uuid(self) -> bytes:
        """The store's, for life."""
        return self._drive.geometry.uuid

    # -- namespaces --------------------------------------------------------------------------------------------------
    @property
    def namespaces(self) -> NamespaceRegistry:
        """What is recorded on this drive. To be changed by the methods here only."""
        return self._namespaces

    def open_namespace(self, name: str, identity: bytes, epoch: int | None = None) -> Namespace | None:
        """See ``Engine``. With an ``epoch`` it is that of the lane: what the drive has of an earlier one is dropped."""
        before = self._namespaces.get(name)
        before_hash = before.hash if before is not None else None
        namespace = self._namespaces.open(name, identity, epoch)
        if namespace is not None and namespace.hash != before_hash:
            if before_hash is not None:
                self._index.retire(before_hash)
            self._open_account(namespace)
        return namespace

    def _open_account(self, namespace: Namespace) -> None:
        self._index.usage[namespace.hash] = Account(namespace.hash, self._rules.rule_for(namespace.name))

    def drop_namespace(self, name: str, epoch: int | None = None) -> dict[str, Any] | None:
        """See ``Engine``. With an ``epoch`` it is that of the lane, and is recorded even if the name is not known."""
        known = self._namespaces.get(name)
        if known is None and epoch is None:
            return None
        known_hash = known.hash if known is not None else None
        account = self._index.usage.get(known_hash) if known_hash is not None else None
        records, size = (account.records, account.bytes) if account is not None else (0, 0)
        dropped = {"name": name, "records": records, "bytes": size, "away": []}
        self._namespaces.drop(name, next_epoch(self._namespaces.epoch) if epoch is None else epoch)
        if known_hash is not None:
            self._index.retire(known_hash)
        return dropped

    def list_namespaces(self, after: str, count: int) -> list[dict[str, Any]]:
        """See ``Engine``."""
        names = heapq.nsmallest(count, (each.name for each in self._namespaces if each.name > after))
        return [self.namespace_usage(name) for name in names]

    # -- puts and deletes --------------------------------------------------------------------------------------------
    def reserve(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        lengths: Sequence[int],
        digests: Sequence[bytes],
        digest_kind: int,
        metas: Sequence[bytes] | None,
    ) -> PutReservation:
        """See ``Engine``. InvalidArgumentError for an unknown digest kind."""
        return self._writer.reserve(namespace, keys, lengths, digests, digest_kind, metas)

    def commit(self, reservation: Reservation) -> bytes:
        """See ``Engine``."""
        assert isinstance(reservation, PutReservation)
        return self._writer.commit(reservation)

    def abort(self, reservation: Reservation) -> None:
        """See ``Engine``."""
        assert isinstance(reservation, PutReservation)
        if not self._closed:
            self._writer.abort(reservation)

    def delete(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine``."""
        return self._writer.delete(namespace, keys)

    # -- reads -------------------------------------------------------------------------------------------------------
    def read(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> ReadBatch:
        """See ``Engine``."""
        return self._reader.read(namespace, keys, capacities)

    def begin_read(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> Reading:
        """See ``Engine``. Without a ``notify`` it waits for the drive."""
        if self._notify is None:
            return Finished(self._reader.read(namespace, keys, capacities), self.release)
        return self._reads.begin(namespace, keys, capacities)

    def release(self, batch: ReadBatch) -> None:
        """See ``Engine``."""
        if not self._closed:
            self._reader.release(batch)

    def exists(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine``."""
        return self._reader.exists(namespace, keys)

    def lookup(self, namespace: Namespace, keys: Sequence[bytes]) -> int:
        """See ``Engine``."""
        return self._reader.lookup(namespace, keys)

    def verify(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine``."""
        return self._reader.verify(namespace, keys)

    # -- the rest ----------------------------------------------------------------------------------------------------
    def tick(self) -> bool:
        """See ``Engine``."""
        durability, pool = self._durability, self._pool
        durability.settle()
        self._reads.poll()
        if pool.sealing or pool.freeing:
            with contextlib.suppress(StorageError):  # the drive has noted it, and takes no more writes
                pool.advance()
        durability.begin()
        more = self._cleaner.tick()
        durability.begin()  # for what was given up just now
        if time.monotonic() >= self._housekeeping_at_s:
            more = self._keep_house() or more
        return more

    def _keep_house(self) -> bool:
        """Records a mark where one is due, and takes what has expired out of the index; True while there is more."""
        mark = self._clock.next_mark(self._pool.record_sequence)
        if mark is not None:
            try:
                self._namespaces.mark(mark)
            except StorageError as error:
                _LOG.error(f"mark {self._drive.path}", "the ages of records are not recorded: %s", error)
            else:
                self._clock.marked(mark)
        more = False
        if self._reader.clock_s is not None:
            now_s, left = self._clock.now(), EXPIRE_SLICE_RECORDS
            for account in self._index.usage.values():
                if account.ttl_s is not None and account.ages:
                    before = account.expired_records
                    more = self._index.expire(account, now_s - account.ttl_s, left) or more
                    left -= account.expired_records - before
                    if left <= 0:
                        return True
        self._housekeeping_at_s = time.monotonic() + HOUSEKEEPING_S
        return more

    def barrier(self) -> Barrier | None:
        """See ``Engine``."""
        return self.ticket()

    def ticket(self) -> Ticket | None:
        """The same, as one."""
        ticket = self._durability.join()
        if ticket is SETTLED:
            return None
        ticket.request_count += 1
        return ticket

    @property
    def wake_fd(self) -> int | None:
        """See ``Engine``."""
        return self._wake.fd if self._wake is not None else None

    def sync(self) -> None:
        """Returns when everything put so far is on the medium. Raises StorageError."""
        self._drive.sync()

    def fixed_memory(self) -> Sequence[memoryview]:
        """See ``Engine``. A page of a file cannot be pinned for good, and one of mode direct's pool comes and goes."""
        return [self._drive.window(0).view] if self._drive.mode == "memory" else []

    def usage(self) -> Mapping[str, Any]:
        """See ``Engine``."""
        return {
            **engine_usage(self._drive, self._pool, self._index, self._counters, self.level),
            **self._durability.usage(),
            "namespaces": [self.namespace_usage(namespace.name) for namespace in self._namespaces],
        }

    def namespace_usage(self, name: str) -> dict[str, Any]:
        """What is said of one namespace; empty where it is not known here."""
        namespace = self._namespaces.get(name)
        if namespace is None:
            return {}
        account = self._index.usage[namespace.hash]
        return {
            "name": name,
            "identity_digest": namespace.identity_digest.hex(),
            "records": account.records,
            "bytes": account.bytes,
            "hits": namespace.hits,
            "misses": namespace.misses,
            "quota_bytes": account.quota_bytes,
            "ttl_seconds": account.ttl_s,
            "expired_records": account.expired_records,
            "over_quota_records": account.over_quota_records,
        }

    def probe(self) -> bool:
        """Whether the drive takes a trial write, for one that is read-only."""
        return self._drive.probe()

    def retire(self) -> None:
        """No call touches the drive any more but ``close``, which any thread may then make. Barriers fail."""
        self._closed = True
        self._reads.close()
        self._durability.close(f"{self._drive.path}: the drive was taken out of service")

    def close(self) -> None:
        """Syncs and gives the memory back. Idempotent. An open segment stays open: the next start scans it."""
        if not self._closed:
            self._durability.flush()
            with contextlib.suppress(StorageError):  # then what is not sealed is scanned at the next start
                self._pool.advance()
        self._closed = True
        self._reads.close()
        self._durability.close("the node stops")
        self._durability.join_thread()
        self._reads.join()
        self._drive.close()
        if self._wake is not None:
            self._wake.close()
