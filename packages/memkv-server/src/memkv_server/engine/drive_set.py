# SPDX-License-Identifier: Apache-2.0
"""The engine of a lane: one segment engine for each of its drives, and keys dealt out among them.

Each drive has an index, segments and an eviction of its own, so that one that fails takes nothing of another with it:
its keys are misses and its puts are refused as READ_ONLY, the others go on, and it comes back by itself (``bay.py``).
Which drive a key lives on is decided by the key (``placement.py``).
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from memkv_core.arguments import spread
from memkv_core.errors import StorageError
from memkv_core.log import RateLimitedLog
from memkv_server.capacity import Share
from memkv_server.engine.account import Rules
from memkv_server.engine.base import Barrier, Namespace, ReadBatch, Reading, Reservation, Status
from memkv_server.engine.bay import Bay
from memkv_server.engine.durability import Level, Ticket, Tickets
from memkv_server.engine.engine import SegmentEngine
from memkv_server.engine.group_commit import Wake
from memkv_server.engine.jobs import RUNNING, STOPPED, Job, Work
from memkv_server.engine.lane_namespaces import LaneNamespaces
from memkv_server.engine.limits import POOL_BYTES_DEFAULT, POOL_BYTES_MIN, WATCH_S
from memkv_server.engine.listing import Piece, list_drives
from memkv_server.engine.opening import drive_capacity, drive_weights, open_engine
from memkv_server.engine.placement import homes, slot_of
from memkv_server.engine.reservation import PutReservation
from memkv_server.engine.segment import hash_key
from memkv_server.engine.set_batches import SetReading, SetReservation, pick, whole_batch
from memkv_server.engine.usage import add_usage

_LOG: Final = RateLimitedLog(logging.getLogger(__name__))
_NO_RULES: Final = Rules()
_Part = tuple[Bay, Sequence[int]]  # a drive, and the positions in the batch of the keys that live there


class DriveSet:
    """``Engine`` over the drives of a lane, one or many. One thread calls it."""

    def __init__(self, bays: Sequence[Bay], wake: Wake | None = None) -> None:
        self._bays = bays
        self._wake = wake
        self._touched: list[SegmentEngine] = []  # by the commit or delete that was made last
        self._homes = homes([bay.path or "" for bay in bays], [bay.capacity_bytes for bay in bays])
        self._namespaces = LaneNamespaces()
        self._watch_at_s = 0.0
        for engine in self._engines():
            self._namespaces.learn(engine)
        for bay in bays:
            if bay.engine is not None:
                self._teach(bay, bay.engine)

    @classmethod
    def open(cls, bays: Sequence[Bay], wake: Wake | None = None) -> DriveSet:
        """Opens every drive. Raises StorageError where none can be opened; one of many is tried again later.

        ``wake`` is what the bays' engines ring. It is the set's from now on.
        """
        failures = []
        for bay in bays:
            try:
                bay.open()
            except StorageError as error:
                failures.append(error)
        if len(failures) == len(bays):
            for bay in bays:
                bay.close()
            if wake is not None:
                wake.close()
            raise failures[0]
        return cls(bays, wake)

    @classmethod
    def over(
        cls,
        mode: str,
        drives: Sequence[Mapping[str, Any]],
        capacity_bytes: int,
        segment_bytes: int | None = None,
        level: Level = Level.RELAXED,
        memory_bytes: int | None = None,
        rules: Rules = _NO_RULES,
    ) -> DriveSet:
        """Opens the drives of a lane: ``[{"path", "capacity_bytes"}]``, or none in mode memory. See ``open``.

        A drive may have a ``capacity_percent`` instead. ``memory_bytes`` bounds the RAM pool of each in mode direct;
        None: the default, shared by them. ``rules`` are for all of them together.
        """
        places = drives or [{"path": None, "capacity_bytes": capacity_bytes}]
        wake = Wake()
        pool_bytes = memory_bytes or max(POOL_BYTES_MIN, POOL_BYTES_DEFAULT // len(places))
        capacities = [drive_capacity(place) for place in places]
        weights = drive_weights([place["path"] for place in places], capacities)

        def bay(path: str | None, capacity: int | Share, weight: int) -> Bay:
            def open_drive(uuid: bytes | None) -> SegmentEngine:
                return open_engine(
                    mode, path, capacity, segment_bytes, uuid,
                    level=level,
                    notify=wake.ring,
                    memory_bytes=pool_bytes,
                    rules=rules.share(weight, sum(weights)),
                )  # fmt: skip

            return Bay(path, mode, weight, open_drive)

        paths = [place["path"] for place in places]
        return cls.open([bay(*each) for each in zip(paths, capacities, weights, strict=True)], wake)

    # -- namespaces --------------------------------------------------------------------------------------------------
    def open_namespace(self, name: str, identity: bytes) -> Namespace | None:
        """See ``Engine``: recorded on every drive that serves. Raises StorageError where none of them can."""
        return self._namespaces.open(self._bays, name, identity)

    def drop_namespace(self, name: str) -> dict[str, Any] | None:
        """See ``Engine``: a drive that is away is told when it is back, before it serves."""
        return self._namespaces.drop(self._bays, name)

    def list_namespaces(self, after: str, count: int) -> list[dict[str, Any]]:
        """See ``Engine``."""
        names = heapq.nsmallest(count, (name for name in self._namespaces.names() if name > after))
        whole: dict[str, Any] = {}
        for engine in self._engines():
            rows = map(engine.namespace_usage, names)
            add_usage(whole, {"namespaces": [row for row in rows if row]})
        return self._with_sessions(sorted(whole.get("namespaces", []), key=lambda row: str(row["name"])))

    def describe_namespace(self, name: str) -> dict[str, Any] | None:
        """Its recorded identity as it was presented, empty where none was; None: it is not known."""
        namespace = self._namespaces.get(name)
        return None if namespace is None else {"name": name, "identity": namespace.identity.decode(errors="replace")}

    def list_keys(self, name: str, drive: int, after: bytes, prefix: bytes, count_max: int) -> Piece | None:
        """See ``listing``; None: the namespace is not known."""
        if self._namespaces.get(name) is None:
            return None
        return list_drives([bay.engine for bay in self._bays], name, drive, after, prefix, count_max)

    def _with_sessions(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """With what is counted for the lane, and not for a drive."""
        for row in rows:
            namespace = self._namespaces.known[row["name"]]
            row.update(hits=namespace.hits, misses=namespace.misses)
        return rows

    # -- puts and deletes --------------------------------------------------------------------------------------------
    def reserve(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        lengths: Sequence[int],
        digests: Sequence[bytes],
        digest_kind: int,
        metas: Sequence[bytes] | None,
    ) -> SetReservation:
        """See ``Engine``."""
        reservation = SetReservation(len(keys))
        try:
            for bay, places in self._split(namespace, keys):
                if bay.engine is None:
                    continue
                part = _reserve(
                    bay.engine,
                    namespace,
                    pick(keys, places),
                    pick(lengths, places),
                    pick(digests, places),
                    digest_kind,
                    pick(metas, places) if metas is not None else None,
                )
                if part is None:
                    continue
                reservation.parts.append((bay.engine, part, places))
                spread(part.extents, places, reservation.extents)
        except BaseException:
            self.abort(reservation)
            raise
        return reservation

    def commit(self, reservation: Reservation) -> bytes:
        """See ``Engine``. What was meant for a drive that has gone meanwhile is READ_ONLY."""
        assert isinstance(reservation, SetReservation)
        serving = list(self._engines())
        parts, reservation.parts = reservation.parts, []
        self._touched = []
        for engine, part, places in parts:
            if not any(engine is other for other in serving):
                engine.abort(part)
                continue
            self._touched.append(engine)
            spread(engine.commit(part), places, reservation.statuses)
        return bytes(reservation.statuses)

    def abort(self, reservation: Reservation) -> None:
        """See ``Engine``."""
        assert isinstance(reservation, SetReservation)
        parts, reservation.parts = reservation.parts, []
        for engine, part, _ in parts:
            engine.abort(part)

    def delete(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine``."""
        self._touched = []

        def delete(engine: SegmentEngine, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
            self._touched.append(engine)
            return engine.delete(namespace, keys)

        return self._each(namespace, keys, Status.READ_ONLY, delete)

    def barrier(self) -> Barrier | None:
        """See ``Engine``: the barriers of all drives that the last batch touched."""
        tickets: list[Ticket] = []
        for engine in self._touched:
            ticket = engine.ticket()
            if ticket is not None:
                tickets.append(ticket)
        if not tickets:
            return None
        return tickets[0] if len(tickets) == 1 else Tickets(tickets)

    @property
    def wake_fd(self) -> int | None:
        """See ``Engine``: one for all drives."""
        return self._wake.fd if self._wake is not None else None

    # -- reads -------------------------------------------------------------------------------------------------------
    def read(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> ReadBatch:
        """See ``Engine``."""
        return whole_batch(
            len(keys),
            [
                (bay.engine, bay.engine.read(namespace, pick(keys, places), pick(capacities, places)), places)
                for bay, places in self._split(namespace, keys)
                if bay.engine is not None
            ],
        )

    def begin_read(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> Reading:
        """See ``Engine``: it settles when it has on every drive."""
        return SetReading(
            len(keys),
            [
                (bay.engine, bay.engine.begin_read(namespace, pick(keys, places), pick(capacities, places)), places)
                for bay, places in self._split(namespace, keys)
                if bay.engine is not None
            ],
        )

    def release(self, batch: ReadBatch) -> None:
        """See ``Engine``."""
        pins, batch.pins = batch.pins, []
        for engine, part in pins:
            engine.release(part)

    def exists(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine``."""
        return self._each(namespace, keys, Status.MISS, SegmentEngine.exists)

    def lookup(self, namespace: Namespace, keys: Sequence[bytes]) -> int:
        """See ``Engine``."""
        run = len(keys)
        for bay, places in self._split(namespace, keys):
            found = bay.engine.lookup(namespace, pick(keys, places)) if bay.engine is not None else 0
            if found < len(places):
                run = min(run, places[found])
        return run

    def verify(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """See ``Engine``."""
        return self._each(namespace, keys, Status.MISS, SegmentEngine.verify)

    # -- the rest ----------------------------------------------------------------------------------------------------
    def tick(self) -> bool:
        """See ``Engine``. Looks after the drives as well."""
        now_s = time.monotonic()
        if now_s >= self._watch_at_s:
            self._watch_at_s = now_s + WATCH_S
            self._watch()
        more = False
        for bay in self._bays:
            if bay.engine is not None:
                more = bay.engine.tick() or more
            if bay.job is not None:
                more = bay.job.tick() or more
        return more

    def sync(self) -> None:
        """Returns when everything put so far is on the medium. Raises StorageError."""
        for engine in self._engines():
            engine.sync()

    def fixed_memory(self) -> Sequence[memoryview]:
        """See ``Engine``."""
        return [view for engine in self._engines() for view in engine.fixed_memory()]

    def usage(self) -> Mapping[str, Any]:
        """See ``Engine``: the sums over the drives."""
        whole: dict[str, Any] = {}
        for bay in self._bays:
            part = dict(bay.engine.usage()) if bay.engine is not None else {"drives": [bay.usage()]}
            if bay.job is not None:
                part["drives"] = [{**drive, "job": bay.job.status()} for drive in part["drives"]]
            add_usage(whole, part)
        self._with_sessions(whole.get("namespaces", []))
        return whole

    def start_job(self, path: str, make_work: Callable[[SegmentEngine, Callable[[], None]], Work]) -> Job:
        """Begins work on the drive at ``path``; see ``jobs.py``. ``make_work`` is given its engine and the bell.

        Raises StorageError where there is no such drive here, or it does not serve, or other work is done on it.
        """
        bay = self._bay_at(path)
        if bay.engine is None:
            raise StorageError(f"{path} is offline ({bay.failure})", remedy="put the drive back first")
        if bay.job is not None and bay.job.state == RUNNING:
            raise StorageError(f"{path}: a {bay.job.name} is running", remedy="stop it, or wait for its end")
        bay.job = Job(make_work(bay.engine, self._wake.ring if self._wake is not None else _no_bell))
        return bay.job

    def stop_job(self, path: str) -> Job:
        """Ends the work on the drive at ``path``. Raises StorageError where there is none."""
        job = self._bay_at(path).job
        if job is None or job.state != RUNNING:
            raise StorageError(f"{path}: nothing is running", remedy="see `memkv drive list` for its drives")
        job.end(STOPPED)
        return job

    def close(self) -> None:
        """See ``Engine``."""
        for bay in self._bays:
            bay.close()
        if self._wake is not None:
            self._wake.close()

    # -- drives ------------------------------------------------------------------------------------------------------
    def _engines(self) -> Iterator[SegmentEngine]:
        return (bay.engine for bay in self._bays if bay.engine is not None)

    def _split(self, namespace: Namespace, keys: Sequence[bytes]) -> Sequence[_Part]:
        """The drives that the keys live on, each with the positions of its keys, in their order."""
        if len(self._bays) == 1:
            bay = self._bays[0]
            return [(bay, range(len(keys)))] if namespace not in bay.refused else []
        parts: dict[int, list[int]] = {}
        table, seed = self._homes, namespace.hash
        for position, key in enumerate(keys):
            parts.setdefault(table[slot_of(hash_key(key, seed))], []).append(position)
        return [
            (self._bays[number], places) for number, places in parts.items()
            if namespace not in self._bays[number].refused
        ]  # fmt: skip

    def home_of(self, namespace: Namespace, key: bytes) -> str | None:
        """The path of the drive that a key lives on, whether it serves or not."""
        if len(self._bays) == 1:
            return self._bays[0].path
        return self._bays[self._homes[slot_of(hash_key(key, namespace.hash))]].path

    @property
    def paths(self) -> list[str]:
        """The paths of its drives; none in mode memory."""
        return [bay.path for bay in self._bays if bay.path is not None]

    def known_namespace(self, name: str) -> Namespace | None:
        """What the lane knows of a name, dropped ones included."""
        return self._namespaces.known.get(name)

    def engine_at(self, path: str) -> SegmentEngine:
        """The engine of one drive. Raises StorageError where it is not there or does not serve."""
        bay = self._bay_at(path)
        if bay.engine is None:
            raise StorageError(f"{path} cannot be opened: {bay.failure}", remedy="put the drive back first")
        return bay.engine

    def _bay_at(self, path: str) -> Bay:
        for bay in self._bays:
            if bay.path == path:
                return bay
        raise StorageError(f"{path} is no drive of this lane", remedy="see `memkv drive list` for its drives")

    def _each(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        absent: Status,
        call: Callable[[SegmentEngine, Namespace, Sequence[bytes]], bytes],
    ) -> bytes:
        """The statuses of a call that is made on each drive for its own keys; ``absent`` where none serves them."""
        statuses = bytearray([absent]) * len(keys)
        for bay, places in self._split(namespace, keys):
            if bay.engine is None:
                continue
            found = call(bay.engine, namespace, pick(keys, places))
            if len(places) == len(keys):
                return found
            spread(found, places, statuses)
        return bytes(statuses)

    def _watch(self) -> None:
        for bay in self._bays:
            engine = bay.watch()
            if engine is None:
                continue
            self._namespaces.learn(engine)
            try:
                self._namespaces.teach(bay, engine)
            except StorageError as error:
                bay.reject(engine, str(error))
                continue
            bay.install(engine)
            for other in self._bays:  # what it knew and they did not
                if other is not bay and other.engine is not None:
                    self._teach(other, other.engine)

    def _teach(self, bay: Bay, engine: SegmentEngine) -> None:
        try:
            self._namespaces.teach(bay, engine)
        except StorageError as error:
            _LOG.error("namespaces", "%s: its namespaces are not up to date: %s", bay.path, error)


def _no_bell() -> None:
    """Nobody sleeps who would have to be woken."""


def _reserve(engine: SegmentEngine, *arguments: Any) -> PutReservation | None:
    """None where the drive fails at this moment: the other drives go on."""
    try:
        return engine.reserve(*arguments)
    except StorageError as error:
        _LOG.error("reserve", "%s", error)
        return None
