# SPDX-License-Identifier: Apache-2.0
"""Group commit on one drive: the lane asks, a thread waits for the drive, an eventfd wakes the lane.

See ``durability.py`` for the idea. The lane begins a commit at the end of a round of its loop, so everything that was
put in that round goes together; what is put while the drive is busy goes with the next one. There is never more than
one at a time, and never one for each put.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from memkv_core.errors import StorageError
from memkv_server.engine.durability import Groups, Ticket


class Outcome(NamedTuple):
    """Of one commit."""

    failure: str | None
    seconds: float


class Committer(Protocol):
    """Runs one commit at a time."""

    def start(self) -> None:
        """Begins one."""

    def take(self, *, wait: bool) -> Outcome | None:
        """The outcome of the one that was started, once; None while it runs, unless ``wait``."""

    def close(self) -> None:
        """Begins no more, and does not wait for the one that runs. Idempotent."""

    def join(self) -> None:
        """After ``close``: returns when nothing runs any more."""


class GroupCommit:
    """``Durability`` by commits in groups. The lane's thread calls it."""

    def __init__(
        self,
        committer: Committer,
        sequence: Callable[[], int],
        failed: Callable[[str], None],
        written: Callable[[], None] | None = None,
    ) -> None:
        self._groups = Groups()
        self._committer = committer
        self._sequence = sequence  # of the newest committed record
        self._failed = failed  # told why, when a commit failed
        self._written = written  # told of every write, where the drive does something by itself as well
        self._closed = False
        self._syncs = 0
        self._requests = 0
        self._seconds = 0.0

    @property
    def stamp(self) -> int:
        """One more than the newest record that is known to be on the medium."""
        return self._groups.synced_sequence + 1

    def recovered(self, sequence: int) -> None:
        """Every record up to this one is on the medium: a start has just synced them."""
        self._groups.synced_sequence = sequence

    def wrote(self) -> None:
        """See ``Durability``."""
        self._groups.wrote()
        if self._written is not None:
            self._written()

    def join(self) -> Ticket:
        """See ``Durability``."""
        return self._groups.join()

    def settle(self) -> None:
        """See ``Durability``."""
        self._settle(wait=False)

    def begin(self) -> None:
        """See ``Durability``."""
        groups = self._groups
        if groups.wanted and not groups.running and not self._closed:
            groups.begin(self._sequence())
            self._committer.start()

    def flush(self) -> None:
        """See ``Durability``."""
        while not self._closed and (self._groups.running or self._groups.wanted):
            self.begin()
            self._settle(wait=True)

    def close(self, failure: str) -> None:
        """See ``Durability``."""
        self._closed = True
        self._groups.fail(failure)
        self._committer.close()

    def join_thread(self) -> None:
        """See ``Durability``."""
        self._committer.join()

    def usage(self) -> dict[str, Any]:
        """See ``Durability``."""
        return {"syncs": self._syncs, "sync_requests": self._requests, "sync_seconds": self._seconds}

    def _settle(self, *, wait: bool) -> None:
        if not self._groups.running or self._closed:
            return
        outcome = self._committer.take(wait=wait)
        if outcome is None:
            return
        ticket = self._groups.end(outcome.failure)
        self._syncs += 1
        self._requests += ticket.request_count
        self._seconds += outcome.seconds
        if outcome.failure is not None:
            self._failed(outcome.failure)


class CommitThread:
    """``Committer`` on a thread, which begins with the first one. ``notify`` is called there when one has ended."""

    def __init__(self, commit: Callable[[], None], notify: Callable[[], None]) -> None:
        self._commit = commit
        self._notify = notify
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._outcome = Outcome(None, 0.0)
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """See ``Committer``."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="memkv-drive-commit", daemon=True)
            self._thread.start()
        self._go.release()

    def take(self, *, wait: bool) -> Outcome | None:
        """See ``Committer``."""
        return self._outcome if self._done.acquire(blocking=wait) else None

    def close(self) -> None:
        """See ``Committer``. A drive may never answer, so nobody waits for it here."""
        self._closed = True
        self._go.release()

    def join(self) -> None:
        """See ``Committer``."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            if self._closed:
                return
            started_s = time.perf_counter()
            failure: str | None = None
            try:
                self._commit()
            except (StorageError, OSError) as error:
                failure = str(error)
            self._outcome = Outcome(failure, time.perf_counter() - started_s)
            self._done.release()
            self._notify()


class Wake:
    """An eventfd for the lane's epoll: readable once it was rung. Any thread may ring it."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # a thread may ring after the end, when the number is another file's
        self._open = True

    def ring(self) -> None:
        """Makes it readable."""
        with self._lock:
            if self._open:
                os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self.fd)
