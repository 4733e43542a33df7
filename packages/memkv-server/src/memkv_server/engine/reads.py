# SPDX-License-Identifier: Apache-2.0
"""Reads that wait for the drive, on threads of their own: meanwhile the lane serves the others.

::

    lane     begin ──plan──┬─ (other connections) ─┬─ finish ──► sent ──► release
                           │ what is missing       │ notify
    thread                 └──────── fetch ────────┘

What the plan found stays pinned, and held in memory as it arrives, until it is released.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from memkv_server.engine.base import ReadBatch
from memkv_server.engine.limits import FETCH_THREADS
from memkv_server.engine.reader import Reader, ReadPlan, misses


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


class Reads:
    """Those of one engine. The lane's thread calls it; ``notify`` is called by a thread when a read has settled."""

    def __init__(self, reader: Reader, notify: Callable[[], None]) -> None:
        self.reader = reader
        self.closed = False
        self.abandoned: list[_Fetching] = []
        self._notify = notify
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="memkv-fetch")  # begin when needed

    def begin(self, plan: ReadPlan) -> _Fetching:
        """Fetches what a plan is missing."""
        reading = _Fetching(self, plan)
        self._threads.submit(self._fetch, reading)
        return reading

    def poll(self) -> None:
        """Gives back what abandoned reads hold, once they have ended. Cheap."""
        if not self.abandoned:
            return
        ended = [reading for reading in self.abandoned if reading.fetched]
        self.abandoned = [reading for reading in self.abandoned if not reading.fetched]
        for reading in ended:
            self.reader.release(self.reader.finish(reading.plan))

    def close(self) -> None:
        """Nothing is begun any more, and what is under way is a miss."""
        self.closed = True

    def join(self) -> None:
        """After ``close``: returns when no thread touches the drive. Any thread."""
        self._threads.shutdown()

    def _fetch(self, reading: _Fetching) -> None:
        try:
            self.reader.fetch(reading.plan)
        finally:
            reading.fetched = True
            self._notify()
