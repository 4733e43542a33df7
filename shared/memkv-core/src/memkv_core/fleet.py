# SPDX-License-Identifier: Apache-2.0
"""The servers as a client sees them: one breaker each, and the thread that probes those that are open."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from memkv_core import forks
from memkv_core.breaker import Breaker
from memkv_core.errors import (
    AuthError,
    MemKVError,
    PoolTimeoutError,
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
        forks.watch(self)

    def allows(self, server: str) -> bool:
        """Whether calls may go to the server."""
        if not self._breakers[server].open:
            return True
        prober = self._prober
        if prober is None or not prober.is_alive():  # in the child of a fork, or it could not be started
            self._start_prober()
        return False

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._prober = None
        for breaker in self._breakers.values():
            breaker.after_fork()

    def cause(self, server: str) -> MemKVError | None:
        """What opened the server's breaker, while it is open."""
        return self._causes.get(server) if self._breakers[server].open else None

    @property
    def opened_count(self) -> int:
        return sum(breaker.opened_count for breaker in self._breakers.values())

    def success(self, server: str) -> None:
        self._breakers[server].success()

    def failure(self, server: str, error: MemKVError, timeout_s: float) -> None:
        """Counts what a call met. Neither a frame that was refused on a good session nor a wait for one of this
        client's own connections is a failure of the server's."""
        if isinstance(error, PoolTimeoutError) or not isinstance(
            error, (TransportError, AuthError, RemoteProtocolError, RefusedError)
        ):
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
            prober = threading.Thread(target=self._probe, name="memkv-probe", daemon=True)
            try:
                prober.start()
            except RuntimeError as error:  # no more threads: the next call tries again
                _LOG.warning("the probing thread cannot be started: %s", error)
                return
            self._prober = prober

    def _probe(self) -> None:
        """Probes open breakers until none is; then the thread ends."""
        while not self._closed.wait(_PROBE_INTERVAL_S):
            for server, breaker in self._breakers.items():
                if breaker.probe_due(time.monotonic()):
                    self._probe_server(server, breaker)
            with self._lock:
                if not any(breaker.open for breaker in self._breakers.values()):
                    self._prober = None
                    return

    def _probe_server(self, server: str, breaker: Breaker) -> None:
        try:
            error = self._ping(server, time.monotonic() + _PROBE_TIMEOUT_S)
        except Exception:  # noqa: BLE001 -- else this thread would end, and with it the way back for every server
            _LOG.exception("probing %s failed", server)
            breaker.probe_failed(time.monotonic())
            return
        if error is None:
            breaker.success()
            _LOG.info("server %s is used again", server)
        else:
            self._causes[server] = error
            breaker.probe_failed(time.monotonic())
