# SPDX-License-Identifier: Apache-2.0
"""The servers as a client sees them: one breaker each, and the thread that probes those that are open."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from memkv_core.breaker import Breaker
from memkv_core.errors import (
    AuthError,
    MemKVError,
    RefusedError,
    RemoteProtocolError,
    TransportError,
    TransportTimeoutError,
)

_LOG: Final = logging.getLogger(__name__)
_PROBE_TIMEOUT_S: Final = 1.0
_PROBE_INTERVAL_S: Final = 0.05
_DEADLINE_SPENT_S_MIN: Final = 0.25  # a shorter time-out says more about the caller's patience than about the server

Ping = Callable[[str, float], "MemKVError | None"]


class Fleet:
    """Which servers are worth a try. Thread-safe. ``ping(server, deadline_s)`` makes one round trip."""

    def __init__(self, servers: Sequence[str], ping: Ping) -> None:
        self._breakers = {server: Breaker() for server in servers}
        self._ping = ping
        self._lock = threading.Lock()
        self._prober: threading.Thread | None = None
        self._closed = threading.Event()
        self._causes: dict[str, MemKVError] = {}

    def allows(self, server: str) -> bool:
        return not self._breakers[server].open

    def cause(self, server: str) -> MemKVError | None:
        """What opened the server's breaker, while it is open."""
        return self._causes.get(server) if self._breakers[server].open else None

    @property
    def opened_count(self) -> int:
        return sum(breaker.opened_count for breaker in self._breakers.values())

    def success(self, server: str) -> None:
        self._breakers[server].success()

    def failure(self, server: str, error: MemKVError, timeout_s: float) -> None:
        """Counts what a call met. A frame that was refused on a good session is no failure of the server's."""
        if not isinstance(error, (TransportError, AuthError, RemoteProtocolError, RefusedError)):
            return
        spent = isinstance(error, TransportTimeoutError) and timeout_s >= _DEADLINE_SPENT_S_MIN
        fatal = spent or isinstance(error, (AuthError, RefusedError))
        if self._breakers[server].failure(time.monotonic(), deadline_spent=fatal):
            self._causes[server] = error
            _LOG.warning("server %s is not used for now: %s", server, error)
            self._start_prober()

    def close(self) -> None:
        self._closed.set()

    def _start_prober(self) -> None:
        with self._lock:
            if self._closed.is_set() or (self._prober is not None and self._prober.is_alive()):
                return
            self._prober = threading.Thread(target=self._probe, name="memkv-probe", daemon=True)
            self._prober.start()

    def _probe(self) -> None:
        """Probes open breakers until none is; then the thread ends."""
        while not self._closed.wait(_PROBE_INTERVAL_S):
            for server, breaker in self._breakers.items():
                if breaker.probe_due(time.monotonic()):
                    error = self._ping(server, time.monotonic() + _PROBE_TIMEOUT_S)
                    if error is None:
                        breaker.success()
                        _LOG.info("server %s is used again", server)
                    else:
                        self._causes[server] = error
                        breaker.probe_failed(time.monotonic())
            with self._lock:
                if not any(breaker.open for breaker in self._breakers.values()):
                    self._prober = None
                    return
