# SPDX-License-Identifier: Apache-2.0
"""The idle connections of each route, last used first, and the bound on how many there may be. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

from memkv_core.errors import ClientClosedError, TransportTimeoutError
from memkv_core.transports.base import Route
from memkv_core.transports.flow import Flow


class Pool:
    """Hands out idle flows, or leave to make a new one (``acquire`` returns None)."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._changed = threading.Condition()
        self._idle: defaultdict[Route, list[Flow]] = defaultdict(list)
        self._taken: defaultdict[Route, int] = defaultdict(int)
        self._closed = False
        self._waiting = 0

    def acquire(self, route: Route, deadline_s: float) -> Flow | None:
        """An idle flow of the route, or None: make one. Either is given back with ``release``.

        Waits while all the route's connections are in use; TransportTimeoutError when that lasts too long.
        """
        with self._changed:
            while self._taken[route] >= self._connections_max and not self._closed:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._wait(left_s):
                    raise TransportTimeoutError(
                        f"all {self._connections_max} connections to {route.server} were busy until the deadline",
                        remedy="raise `connections` or `timeout_ms`",
                    )
            if self._closed:
                raise ClientClosedError("the client is closed")
            self._taken[route] += 1
            idle = self._idle[route]
            return idle.pop() if idle else None

    def release(self, route: Route, flow: Flow | None) -> None:
        """Gives a place back; a flow that is open goes to the idle ones."""
        with self._changed:
            self._taken[route] -= 1
            if flow is not None and flow.open:
                if self._closed:
                    flow.close()
                else:
                    self._idle[flow.route].append(flow)  # of the lane it got, where any lane was asked for
            if self._waiting:  # a notify() costs as much as the rest of this
                self._changed.notify()

    def _wait(self, seconds: float) -> bool:
        self._waiting += 1
        try:
            return self._changed.wait(seconds)
        finally:
            self._waiting -= 1

    def discard_idle(self, server: str) -> None:
        """Closes the idle flows to a server: what they are connected to is gone."""
        with self._changed:
            for route, flows in self._idle.items():
                if route.server == server:
                    while flows:
                        flows.pop().close()

    def forget(self) -> None:
        """After a fork: the parent's connections are not the child's. Closes this process's copies only."""
        for flows in self._idle.values():
            for flow in flows:
                flow.close()
        self.__init__(self._connections_max)  # type: ignore[misc]

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for flows in self._idle.values():
                while flows:
                    flows.pop().close()
            self._changed.notify_all()
