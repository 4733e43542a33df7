# SPDX-License-Identifier: Apache-2.0
"""The engine under simulation: its commits have no thread, and end when the simulation says so."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from memkv_core.errors import StorageError
from memkv_server.engine.engine import SegmentEngine
from memkv_server.engine.group_commit import Committer, Outcome
from memkv_server.testing.faulty_drive import FaultyDrive


class SlowCommitter:
    """``Committer`` without a thread: a commit ends when it is asked for the second time, or waited for."""

    def __init__(self, drive: FaultyDrive, rng: Random) -> None:
        self._drive = drive
        self._rng = rng
        self._asked = 0

    def start(self) -> None:
        """See ``Committer``."""
        self._asked = 0
        self._drive.begin_sync(self._rng)

    def take(self, *, wait: bool) -> Outcome | None:
        """See ``Committer``."""
        self._asked += 1
        if self._asked < 2 and not wait:
            return None
        try:
            self._drive.end_sync()
        except StorageError as error:
            return Outcome(str(error), 0.0)
        return Outcome(None, 0.0)

    def close(self) -> None:
        """See ``Committer``."""

    def join(self) -> None:
        """See ``Committer``."""


class SimulatedEngine(SegmentEngine):
    """The engine, with its commits in the hands of the simulation."""

    def _make_committer(self, commit: Callable[[], None], notify: Callable[[], None]) -> Committer:
        assert isinstance(self._drive, FaultyDrive)
        return SlowCommitter(self._drive, self._drive.disk.rng)
