# SPDX-License-Identifier: Apache-2.0
"""The idle connections of each route, last used first, and the bound on how many there may be. Thread-safe."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence

from memkv_core.errors import ClientClosedError
from memkv_core.transports.base import Route
from memkv_core.transports.flow import Flow


class Pool:
    """Hands out places of a route, each with an idle flow or the leave to make one; never waits by itself."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._lock = threading.Lock()  # taken as it is where nobody is waited for: half the cost
        self._changed = threading.Condition(self._lock)
        self._idle: defaultdict[Route, list[Flow]] = defaultdict(list)
        self._taken: defaultdict[Route, int] = defaultdict(int)
        self._in_use: set[Flow] = set()
        self._closed = False
        self._waiting = 0

    def acquire(self, route: Route) -> tuple[bool, Flow | None]:
        """(whether there is a place, an idle flow or None: make one and ``adopt`` it). See ``release``."""
        with self._lock:
            if self._closed:
                raise ClientClosedError("the client is closed")
            if self._taken[route] >= self._connections_max:
                return False, None
            self._taken[route] += 1
            idle = self._idle[route]
            if not idle:
                return True, None
            flow = idle.pop()
            self._in_use.add(flow)
            return True, flow

    def adopt(self, flow: Flow) -> None:
        """A new flow, for the place that ``acquire`` gave."""
        with self._lock:
            self._in_use.add(flow)

    def wait(self, routes: Sequence[Route], timeout_s: float) -> None:
        """Waits until there may be a place on one of ``routes``, at most so long."""
        with self._lock:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._closed or any(map(self._has_place, routes)), timeout_s)
            finally:
                self._waiting -= 1

    def _has_place(self, route: Route) -> bool:
        return self._taken[route] < self._connections_max

    def release(self, route: Route, flow: Flow | None) -> None:
        """Gives a place back. A flow that is open goes to the idle ones, any other is closed."""
        with self._lock:
            self._taken[route] -= 1
            if flow is not None:
                self._in_use.discard(flow)
                idle = self._idle[flow.route]  # of the lane it got, where any lane was asked for
                if flow.open and not self._closed and len(idle) + self._taken[flow.route] < self._connections_max:
                    idle.append(flow)
                else:
                    flow.close()
            if self._waiting:  # a notify costs as much as the rest of this
                self._changed.notify_all()  # all: those who wait may do so for other routes

    def discard_idle(self, server: str) -> None:
        """Closes the idle flows to a server: what they are connected to is gone."""
        with self._lock:
            for route, flows in self._idle.items():
                if route.server == server:
                    while flows:
                        flows.pop().close()

    def close(self) -> None:
        """Closes the idle flows, interrupts those in use, wakes whoever waits. Idempotent."""
        with self._lock:
            self._closed = True
            for flows in self._idle.values():
                while flows:
                    flows.pop().close()
            for flow in self._in_use:
                flow.interrupt()
            self._changed.notify_all()

    def abandon(self) -> None:
        """In the child of a fork: closes this process's copies, which ends no connection, and takes no lock."""
        for flows in [*self._idle.values(), self._in_use]:
            for flow in flows:
                flow.close()
