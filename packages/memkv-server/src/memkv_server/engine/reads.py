# SPDX-License-Identifier: Apache-2.0
"""Reads that wait for the drive, on threads of their own: meanwhile the lane serves the others.

::

    lane     begin ──plan──┬─ (other connections) ─┬─ finish ──► sent ──► release
                           │ what is missing       │ notify
    thread                 └──────── fetch ────────┘

What the plan found stays pinned, and held in memory as it arrives, until it is released.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from memkv_server.engine.base import Namespace, ReadBatch, Reading
from memkv_server.engine.limits import CROWDED_WAIT_S, FETCH_THREADS
from memkv_server.engine.plan import ReadPlan, misses
from memkv_server.engine.reader import Reader

Request = tuple[Namespace, Sequence[bytes], Sequence[int]]


class Finished:
    """A ``Reading`` that had to wait for nothing."""

    __slots__ = ("_batch", "_release")
    settled = True

    def __init__(self, batch: ReadBatch, release: Callable[[ReadBatch], None]) -> None:
        self._batch = batch
        self._release = release

    def finish(self) -> ReadBatch:
        """See ``Reading``."""
        return self._batch

    def abandon(self) -> None:
        """See ``Reading``."""
        self._release(self._batch)


class _Fetching:
    """A ``Reading`` whose bytes are on their way. ``fetched`` is set by the thread, all else is the lane's."""

    __slots__ = ("_reads", "fetched", "plan")

    def __init__(self, reads: Reads, plan: ReadPlan) -> None:
        self._reads = reads
        self.plan = plan
        self.fetched = False

    @property
    def settled(self) -> bool:
        """See ``Reading``. A drive that was taken out of service is not waited for."""
        return self.fetched or self._reads.closed

    def finish(self) -> ReadBatch:
        """See ``Reading``."""
        return misses(len(self.plan.keys)) if self._reads.closed else self._reads.reader.finish(self.plan)

    def abandon(self) -> None:
        """See ``Reading``."""
        self._reads.abandoned.append(self)


class _Waiting:
    """A ``Reading`` for which there is no room in memory yet: others are still being sent."""

    __slots__ = ("_reads", "begun", "request", "until_s")

    def __init__(self, reads: Reads, request: Request) -> None:
        self._reads = reads
        self.request = request
        self.until_s = time.monotonic() + CROWDED_WAIT_S
        self.begun: Reading | None = None

    @property
    def settled(self) -> bool:
        """See ``Reading``."""
        return self.begun.settled if self.begun is not None else self._reads.closed

    def finish(self) -> ReadBatch:
        """See ``Reading``."""
        return self.begun.finish() if self.begun is not None else misses(len(self.request[1]))

    def abandon(self) -> None:
        """See ``Reading``."""
        if self.begun is not None:
            self.begun.abandon()
        elif self in self._reads.waiting:
            self._reads.waiting.remove(self)


class Reads:
    """Those of one engine. The lane's thread calls it; ``notify`` is called by a thread when a read has settled.

    Where a drive's memory is held by other batches a read waits for it, in turn and up to CROWDED_WAIT_S; after that,
    what finds no room is a miss.
    """

    def __init__(self, reader: Reader, notify: Callable[[], None]) -> None:
        self.reader = reader
        self.closed = False
        self.abandoned: list[_Fetching] = []
        self.waiting: deque[_Waiting] = deque()
        self._notify = notify
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="memkv-fetch")  # begin when needed

    def begin(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> Reading:
        """Begins a read."""
        request = namespace, keys, capacities
        plan = self.reader.plan_patiently(*request)
        if plan is not None:
            return self._fetch(plan)
        waiting = _Waiting(self, request)
        self.waiting.append(waiting)
        return waiting

    def poll(self) -> None:
        """Begins what has waited for memory, and gives back what abandoned reads hold once they have ended. Cheap."""
        if self.abandoned:
            ended = [reading for reading in self.abandoned if reading.fetched]
            self.abandoned = [reading for reading in self.abandoned if not reading.fetched]
            for reading in ended:
                self.reader.release(self.reader.finish(reading.plan))
        while self.waiting:
            first = self.waiting[0]
            late = time.monotonic() >= first.until_s
            plan = self.reader.plan(*first.request) if late else self.reader.plan_patiently(*first.request)
            if plan is None:
                return
            first.begun = self._fetch(plan)
            self.waiting.popleft()

    def close(self) -> None:
        """Nothing is begun any more, and what is under way is a miss."""
        self.closed = True

    def join(self) -> None:
        """After ``close``: returns when no thread touches the drive. Any thread."""
        self._threads.shutdown()

    def _fetch(self, plan: ReadPlan) -> Reading:
        if not plan.missing:
            return Finished(self.reader.finish(plan), self.reader.release)
        reading = _Fetching(self, plan)
        self._threads.submit(self._run, reading)
        return reading

    def _run(self, reading: _Fetching) -> None:
        try:
            self.reader.fetch(reading.plan)
        finally:
            reading.fetched = True
            self._notify()
