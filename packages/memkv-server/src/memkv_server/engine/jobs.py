# SPDX-License-Identifier: Apache-2.0
"""Long work on one drive of a lane beside its service, such as a scrub: done in the lane's tick, in bounded pieces.

At most one job runs on a drive. What became of the last one stays to be read in the drive's status.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from memkv_core.errors import StorageError
from memkv_server.engine.limits import TICK_BUDGET_S

RUNNING: Final = "running"
DONE: Final = "done"
STOPPED: Final = "stopped"
FAILED: Final = "failed"


class Work(Protocol):
    """What a job does. The lane's thread calls it."""

    name: str

    def steps(self) -> Iterator[bool]:
        """The work in pieces of a fraction of a millisecond: True where there is more at once, False where it waits.

        What it waits for rings the lane's bell. Raises StorageError where it cannot go on.
        """

    def progress(self) -> dict[str, Any]:
        """Numbers for the status: bytes, bytes_total and what else there is to say."""

    def close(self) -> None:
        """Ends threads and closes files; after the last step, or instead of it. Idempotent."""


class Job:
    """One piece of work from its start to its end."""

    def __init__(self, work: Work) -> None:
        self.state = RUNNING
        self.name = work.name
        self._work = work
        self._steps = work.steps()
        self._failure: str | None = None
        self._started_at = time.time()
        self._started_s = time.monotonic()
        self._seconds = 0.0

    def tick(self) -> bool:
        """A bounded piece; True while there is more to do at once."""
        deadline = time.perf_counter() + TICK_BUDGET_S
        try:
            while self.state == RUNNING:
                if not next(self._steps):
                    return False
                if time.perf_counter() >= deadline:
                    return True
        except StopIteration:
            self.end(DONE)
        except StorageError as error:
            self.end(FAILED, str(error))
        return False

    def end(self, state: str, failure: str | None = None) -> None:
        """Ends it, where it runs."""
        if self.state == RUNNING:
            self.state, self._failure = state, failure
            self._seconds = time.monotonic() - self._started_s
            self._work.close()

    def status(self) -> dict[str, Any]:
        """For the drive's status."""
        seconds = time.monotonic() - self._started_s if self.state == RUNNING else self._seconds
        return {
            "name": self.name,
            "state": self.state,
            "failure": self._failure,
            "started_at": round(self._started_at, 3),
            "seconds": round(seconds, 3),
            **self._work.progress(),
        }
