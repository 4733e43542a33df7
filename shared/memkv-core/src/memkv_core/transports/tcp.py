# SPDX-License-Identifier: Apache-2.0
"""TCP: pooled connections, all of a call's servers moved at once by the calling thread, one deadline over everything.

No thread of its own: the calling thread drives one ``flow`` generator per route with poll(2). What is not done at the
deadline has its socket closed before the call returns, so that no late byte can land in the caller's memory. A task
that must wait for a connection or for the name service does so beside those that run, and one that is done gives its
connection back at once: threads that want the same connections in different orders cannot wait for each other.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from memkv_core import forks, handshake, limits
from memkv_core.buffers import Region
from memkv_core.errors import (
    ConnectError,
    DisconnectedError,
    MemKVError,
    PoolTimeoutError,
    RemoteProtocolError,
    TransportTimeoutError,
)
from memkv_core.session import Session
from memkv_core.transports.base import Call, MoveCounts, Route
from memkv_core.transports.flow import MOVED, Flow, Steps
from memkv_core.transports.pool import Pool
from memkv_core.transports.resolve import Lookup, Resolver

SessionFactory = Callable[[int], Session]  # lane -> a fresh client session

_PENDING_S: Final = 0.002  # how often a task that waits is looked after while others run


@dataclass(slots=True)
class _Task:
    """One route's share of a ``run``."""

    route: Route
    calls: Sequence[Call]
    flow: Flow | None = None
    steps: Steps | None = None  # what is left to do; None before and after
    error: MemKVError | None = None
    pooled: bool = False  # its flow came from the pool, where the peer may have closed it unseen
    holds_place: bool = False
    lookup: Lookup | None = None  # what it waits for before it can connect
    lane_count: int = 0  # what a task without calls is for
    mask: int = 0  # what it is being polled for


class TCPTransport:
    """See ``base.Transport``. ``new_session`` makes a client session for a lane."""

    name = "tcp"
    moves: MoveCounts | None = None

    def __init__(self, new_session: SessionFactory, *, connections: int = 4) -> None:
        self._new_session = new_session
        self._pool = Pool(connections)
        self._lane_counts: dict[str, int] = {}
        self._connections = connections
        self._resolver = Resolver()
        forks.watch(self)

    # -- the seam -----------------------------------------------------------------------------------------------------
    def rail_of(self, server: str) -> str | None:
        return None

    def lane_counts(self, servers: Sequence[str], deadline_s: float) -> dict[str, int | MemKVError]:
        known: dict[str, int | MemKVError] = {}
        for server in servers:
            count = self._lane_counts.get(server)  # once: a probe may take it away
            if count is not None:
                known[server] = count
        if len(known) < len(servers):
            unknown = [server for server in servers if server not in known]
            tasks = [_Task(Route(server, handshake.LANE_ANY), ()) for server in unknown]
            self._run_tasks(tasks, deadline_s)
            for task in tasks:
                known[task.route.server] = task.error or task.lane_count
        return known

    def frame_bytes(self, server: str) -> int:
        return limits.FRAME_PAYLOAD_BYTES_TARGET

    def run(self, work: Sequence[tuple[Route, Sequence[Call]]], deadline_s: float) -> None:
        tasks = [_Task(route, calls) for route, calls in work]
        self._run_tasks(tasks, deadline_s)
        for task in tasks:
            if task.error is not None:
                break
        else:
            return
        stale = [task for task in tasks if task.pooled and isinstance(task.error, DisconnectedError)]
        for task in stale:
            self._pool.discard_idle(task.route.server)
        again = [_Task(task.route, [call for call in task.calls if not call.done]) for task in stale if _unseen(task)]
        if again:
            for task in again:
                for call in task.calls:
                    call.error = None
            self._run_tasks(again, deadline_s)

    def ping(self, server: str, deadline_s: float) -> MemKVError | None:
        self._pool.discard_idle(server)
        self._lane_counts.pop(server, None)
        outcome = self.lane_counts([server], deadline_s)[server]
        return outcome if isinstance(outcome, MemKVError) else None

    def register(self, view: memoryview) -> Region:
        return Region(view)

    def close(self) -> None:
        self._pool.close()

    def after_fork(self) -> None:
        """The parent's connections are not the child's, and its look-ups run on threads that are not there."""
        self._pool.abandon()
        self._pool = Pool(self._connections)
        self._resolver = Resolver()

    # -- driving ------------------------------------------------------------------------------------------------------
    def _run_tasks(self, tasks: Sequence[_Task], deadline_s: float) -> None:
        try:
            if len(tasks) == 1:
                self._drive_one(tasks[0], deadline_s)
            else:
                self._drive(tasks, deadline_s)
        finally:
            for task in tasks:
                self._finish(task)

    def _drive(self, tasks: Sequence[_Task], deadline_s: float) -> None:
        poller = select.poll()
        waiting: dict[int, _Task] = {}
        pending: Sequence[_Task] = tasks
        while True:
            pending = [task for task in pending if not self._begin(task, poller, waiting)]
            if not pending and not waiting:
                return
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                for task in [*pending, *waiting.values()]:
                    task.error = _too_late(task)
                return
            if not waiting:
                self._wait_to_start(pending, left_s)
                continue
            for fd, events in poller.poll(1000 * (min(left_s, _PENDING_S) if pending else left_s)):
                ready = waiting.get(fd)
                if ready is not None:  # else it has two descriptors, and the other was enough
                    assert ready.flow is not None
                    self._advance(ready, events if fd == ready.flow.fileno() else MOVED, poller, waiting)

    def _drive_one(self, task: _Task, deadline_s: float) -> None:
        """As ``_drive``, without what several tasks need: half the cost of a small call."""
        while not self._start(task):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                task.error = _too_late(task)
                return
            self._wait_to_start([task], left_s)
        mask = self._resume(task, None)
        if not mask:
            return
        assert task.flow is not None
        poller = select.poll()
        polled = 0
        fd = task.flow.fileno()
        while mask:
            if mask != polled:
                _watch(poller, task.flow, mask, polled)
                polled = mask
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                task.error = _too_late(task)
                return
            ready = poller.poll(left_s * 1000)
            if ready:
                at, events = ready[0]
                mask = self._resume(task, events if at == fd else MOVED)

    def _wait_to_start(self, pending: Sequence[_Task], left_s: float) -> None:
        """Waits until one of the tasks may start, or something else is to be looked after."""
        lookups = [task.lookup for task in pending if task.lookup is not None]
        if lookups:
            lookups[0].wait(left_s if len(pending) == 1 else min(left_s, _PENDING_S))
        else:
            self._pool.wait([task.route for task in pending], left_s)

    def _begin(self, task: _Task, poller: select.poll, waiting: dict[int, _Task]) -> bool:
        """Starts a task and takes its first step, if it can start; one with nothing to do gives its place back."""
        if not self._start(task):
            return False
        if task.steps is not None:
            self._advance(task, None, poller, waiting)
        else:
            self._finish(task)
        return True

    def _start(self, task: _Task) -> bool:
        """Gets a task its connection; False where it has to wait for a place in the pool or for the name service."""
        try:
            if not task.holds_place:
                task.holds_place, task.flow = self._pool.acquire(task.route)
                if not task.holds_place:
                    return False
                task.pooled = task.flow is not None
            if task.flow is None:
                if not task.calls:
                    task.lane_count = self._lane_counts.get(task.route.server, 0)
                    if task.lane_count:  # another thread was faster
                        return True
                task.flow = self._new_flow(task)
                if task.flow is None:
                    return False
                task.steps = self._connect_and_exchange(task, task.flow)
            elif task.calls:
                task.steps = self._exchange(task.flow, task.calls)
        except MemKVError as error:
            task.error = error
        except OSError as error:
            task.error = ConnectError(f"cannot open a socket to {task.route.server}: {error.strerror}")
        return True

    def _connect_and_exchange(self, task: _Task, flow: Flow) -> Steps:
        yield from flow.connect()
        task.lane_count = self._learn(task.route, flow)
        if task.calls:
            yield from self._exchange(flow, task.calls)

    def _exchange(self, flow: Flow, calls: Sequence[Call]) -> Steps:
        """The calls of a task on an open flow; a transport that does more than TCP does it here."""
        return flow.exchange(calls)

    def _advance(self, task: _Task, events: int | None, poller: select.poll, waiting: dict[int, _Task]) -> None:
        """Resumes a task and notes what it waits for next; a finished one leaves ``waiting``."""
        assert task.flow is not None
        fd = task.flow.fileno()
        polled, task.mask = task.mask, self._resume(task, events)
        if task.mask != polled:
            _watch(poller, task.flow, task.mask, polled)
        if polled & MOVED:
            waiting.pop(task.flow.path_fileno(), None)
        if task.mask:
            waiting[fd] = task
            if task.mask & MOVED:
                waiting[task.flow.path_fileno()] = task
            return
        waiting.pop(fd, None)
        self._finish(task)

    @staticmethod
    def _resume(task: _Task, events: int | None) -> int:
        """One step of a task: what it waits for next, 0 when it is done or has failed."""
        if task.steps is None:
            return 0
        try:
            return next(task.steps) if events is None else task.steps.send(events)
        except StopIteration:
            task.steps = None
        except MemKVError as error:
            task.error = error
        except OSError as error:
            task.error = DisconnectedError(f"connection to {task.route.server} lost: {error.strerror}")
        return 0

    def _finish(self, task: _Task) -> None:
        """Gives a task's place back and marks its calls; the connection of one that is not done is closed (the fence).

        Idempotent.
        """
        flow = task.flow
        if task.error is not None or task.steps is not None:
            # Steps without an error: an exception that is no error of a connection (Ctrl-C) ended them half-way.
            task.error = task.error or DisconnectedError("interrupted")
            if flow is not None:
                flow.open = False  # so that it is closed when it is released
            for call in task.calls:
                if not call.done and call.error is None:
                    call.error = task.error
        if task.holds_place:
            task.holds_place = False
            self._pool.release(task.route, flow)

    # -- connections --------------------------------------------------------------------------------------------------
    def _new_flow(self, task: _Task) -> Flow | None:
        """A flow that is not connected yet; None while its server's name is being looked up."""
        route = task.route
        resolved = self._resolver.address(route.server)
        if isinstance(resolved, Lookup):
            task.lookup = resolved
            return None
        flow = Flow(route, resolved.sockaddr, resolved.family, self._new_session(route.lane))
        flow.resolved = resolved
        self._pool.adopt(flow)
        return flow

    def _learn(self, route: Route, flow: Flow) -> int:
        """The lane count, from the WELCOME; a lane that is not the wanted one means that the lanes changed."""
        lane_count, lane = flow.welcome.get("lanes"), flow.welcome.get("lane")
        if not isinstance(lane_count, int) or not 1 <= lane_count <= limits.LANES_MAX or lane not in range(lane_count):
            raise RemoteProtocolError(f"{route.server} says it is lane {lane!r} of {lane_count!r}")
        if flow.resolved is not None:
            self._resolver.proved(route.server, flow.resolved)
        self._lane_counts[route.server] = lane_count
        if route.lane == handshake.LANE_ANY:
            flow.route = Route(route.server, int(lane or 0))
        elif route.lane != lane:
            raise ConnectError(f"{route.server} has other lanes than before")
        return lane_count


def _watch(poller: select.poll, flow: Flow, mask: int, polled: int) -> None:
    """Changes what a flow is polled for: the socket, and the path where ``MOVED`` is asked for."""
    events = mask & ~MOVED
    if events:
        poller.register(flow.fileno(), events)  # registering again changes the mask
    elif polled & ~MOVED:
        poller.unregister(flow.fileno())
    if mask & MOVED:
        poller.register(flow.path_fileno(), select.POLLIN)
    elif polled & MOVED:
        poller.unregister(flow.path_fileno())


def _too_late(task: _Task) -> TransportTimeoutError:
    """Why a task was not done in time."""
    server = task.route.server
    if not task.holds_place:
        remedy = "raise `connections` or `timeout_ms`"
        return PoolTimeoutError(f"all connections to {server} were busy until the deadline", remedy=remedy)
    if task.flow is None:
        remedy = "check MEMKV_SERVERS and the name service"
        return TransportTimeoutError(f"{server} was not resolved before the deadline", remedy=remedy)
    return TransportTimeoutError(
        f"{server} did not answer before the deadline",
        remedy="see `memkv admin status`; raise `timeout_ms` if the network is slow",
    )


def _unseen(task: _Task) -> bool:
    """Whether a task may be run again as if nothing had happened: no call of it is half received."""
    return not any(call.started and not call.done for call in task.calls)
