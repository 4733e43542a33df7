# SPDX-License-Identifier: Apache-2.0
"""Servers whose path was lost, and the thread that finds out when there is one again. Thread-safe."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from memkv_core.log import RateLimitedLog

_LOG: Final = logging.getLogger("memkv_core.transport")
_LIMITED: Final = RateLimitedLog(_LOG)
_PAUSE_S_MIN: Final = 0.25  # before a suspect server is probed; doubles with each failure
_PAUSE_S_MAX: Final = 15.0
_INTERVAL_S: Final = 0.05


@dataclass
class _Suspect:
    """When it is probed next."""

    probe_at_s: float
    pause_s: float


class Suspects:
    """``probe(server)`` tries a server in the thread, and says whether it is none any more."""

    def __init__(self, probe: Callable[[str], bool]) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        self._suspects: dict[str, _Suspect] = {}
        self._closed = threading.Event()
        self.prober: threading.Thread | None = None  # while there are any

    def __len__(self) -> int:
        return len(self._suspects)

    def __contains__(self, server: str) -> bool:
        """Has it probed, too, if nobody does so."""
        if server not in self._suspects:
            return False
        if self.prober is None:  # in the child of a fork, or it could not be started
            with self._lock:
                self._start()
        return True

    def add(self, server: str) -> None:
        """It was lost, once more perhaps."""
        with self._lock:
            known = self._suspects.get(server)
            pause_s = _PAUSE_S_MIN if known is None else min(2 * known.pause_s, _PAUSE_S_MAX)
            self._suspects[server] = _Suspect(time.monotonic() + pause_s, pause_s)
            self._start()

    def close(self) -> None:
        """The thread ends soon, and no other begins."""
        self._closed.set()

    def after_fork(self) -> None:
        """In the child: the thread is the parent's."""
        self._lock = threading.Lock()
        self.prober = None

    def _start(self) -> None:
        if self._closed.is_set() or (self.prober is not None and self.prober.is_alive()):
            return
        self.prober = threading.Thread(target=self._run, name="memkv-path-probe", daemon=True)
        try:
            self.prober.start()
        except RuntimeError as error:
            _LIMITED.warning("prober", "the probing thread cannot be started: %s", error)
            self.prober = None  # no more threads: the next call tries again

    def _run(self) -> None:
        """Until none is left."""
        while not self._closed.wait(_INTERVAL_S):
            now_s = time.monotonic()
            for server in [server for server, suspect in list(self._suspects.items()) if now_s >= suspect.probe_at_s]:
                if self._is_good(server):
                    with self._lock:
                        del self._suspects[server]
                else:
                    self.add(server)
            with self._lock:
                if not self._suspects:
                    self.prober = None
                    return

    def _is_good(self, server: str) -> bool:
        try:
            return self._probe(server)
        except Exception:  # noqa: BLE001 -- else the thread would end, and with it the way back
            _LOG.exception("probing the path to %s failed", server)
            return False
