# SPDX-License-Identifier: Apache-2.0
"""A place for a drive: the engine on it while it serves, and the way back when it failed.

::

    SERVING ──read-only, and a trial write succeeds──► OPENING ──opened──► SERVING
       └──────────offline──────────► OFFLINE ──each try──► OPENING ──refused──► OFFLINE

A drive that failed is opened anew from its path, by a thread of its own: what it holds is read as at a start, so that
nothing is served which it lost meanwhile. Tries come at growing intervals.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from memkv_core.errors import StorageError
from memkv_server.engine.base import Namespace
from memkv_server.engine.engine import SegmentEngine
from memkv_server.engine.health import DriveState
from memkv_server.engine.jobs import FAILED, STOPPED, Job
from memkv_server.engine.limits import RETRY_S_MAX, RETRY_S_MIN, STEADY_S
from memkv_server.events import event

_LOG: Final = logging.getLogger(__name__)

OpenEngine = Callable[["bytes | None"], SegmentEngine]
"""Opens the drive of a bay; given a uuid, only the store that has it. Raises StorageError."""


class Bay:
    """One configured drive. The lane's thread calls it; ``open_engine`` runs in a thread where a drive is put back."""

    def __init__(self, path: str | None, mode: str, capacity_bytes: int, open_engine: OpenEngine) -> None:
        self.path = path
        self.mode = mode
        self.capacity_bytes = capacity_bytes
        self.engine: SegmentEngine | None = None
        self.failure: str | None = None
        self.job: Job | None = None  # the last one, running or not
        self.refused: set[Namespace] = set()  # recorded on this drive under another identity
        self._open_engine = open_engine
        self._uuid: bytes | None = None  # of the store, once it has been opened
        self._thread: threading.Thread | None = None
        self._opened: SegmentEngine | None = None  # by the thread, for ``watch`` to take
        self._stop = threading.Event()
        self._delay_s = RETRY_S_MIN
        self._try_at_s = 0.0
        self._since_s = time.monotonic()

    def open(self) -> None:
        """Opens the drive, here and now. Raises StorageError, and is then tried again later."""
        try:
            self.engine = self._open_engine(None)
            self._uuid = self.engine.uuid
        except StorageError as error:
            self.failure = str(error)
            self._start(None)
            raise

    def watch(self) -> SegmentEngine | None:
        """Looks after the drive; cheap. Returns an engine when one has come back: ``install`` or ``reject`` it."""
        if self._thread is not None:
            if self._thread.is_alive():
                return None
            self._thread, opened, self._opened = None, self._opened, None
            return opened
        engine = self.engine
        if engine is None or engine.health.state is DriveState.ONLINE:
            return None
        if engine.health.state is DriveState.OFFLINE:
            self.take_down(engine.health.failure or "")
        elif time.monotonic() >= self._try_at_s:
            self._try_at_s = time.monotonic() + self._delay_s
            if engine.probe():
                self.take_down(engine.health.failure or "")
        return None

    def take_down(self, failure: str) -> None:
        """Stops serving from the drive, and tries to open it anew."""
        engine, self.engine = self.engine, None
        self.failure = failure
        if self.job is not None:
            self.job.end(FAILED, failure)
        if time.monotonic() - self._since_s > STEADY_S:
            self._delay_s = RETRY_S_MIN
        words = f"{self.path}: the drive is taken out of service: {failure}"
        event(_LOG, "drive_offline", words, logging.ERROR, path=self.path, cause=failure)
        if engine is not None:
            engine.retire()
        self._start(engine)

    def install(self, engine: SegmentEngine) -> None:
        """Serves from it again."""
        self.engine, self.failure = engine, None
        self._uuid = engine.uuid
        self._since_s = time.monotonic()
        self._try_at_s = self._since_s + self._delay_s
        words = f"{self.path}: the drive is in service again"
        event(_LOG, "drive_online", words, logging.WARNING, path=self.path, records=engine.usage()["records"])

    def reject(self, engine: SegmentEngine, failure: str) -> None:
        """Opened, but not usable: tried again."""
        engine.retire()
        self.failure = failure
        self._start(engine)

    def usage(self) -> dict[str, Any]:
        """What is said of a drive that does not serve."""
        return {
            "path": self.path,
            "mode": self.mode,
            "state": DriveState.OFFLINE.value,
            "failure": self.failure,
            "capacity_bytes": self.capacity_bytes,
            "used_bytes": 0,
        }

    def close(self) -> None:
        """Ends the tries and closes the engine. Idempotent."""
        self._stop.set()
        if self.job is not None:
            self.job.end(STOPPED)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for engine in (self.engine, self._opened):
            if engine is not None:
                engine.close()
        self._opened = None

    def _start(self, old: SegmentEngine | None) -> None:
        self._thread = threading.Thread(target=self._reopen, args=(old,), name="memkv-drive-open", daemon=True)
        self._thread.start()

    def _reopen(self, old: SegmentEngine | None) -> None:
        if old is not None:
            old.close()
        while not self._stop.wait(self._delay_s):
            self._delay_s = min(2 * self._delay_s, RETRY_S_MAX)
            try:
                self._opened = self._open_engine(self._uuid)
                return
            except (StorageError, OSError) as error:
                self.failure = str(error)
