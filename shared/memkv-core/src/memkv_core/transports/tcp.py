# SPDX-License-Identifier: Apache-2.0
"""TCP: pooled connections, all of a call's servers moved at once by the calling thread, one deadline over everything.

No thread of its own: the calling thread drives one ``flow`` generator per route with poll(2). What is not done at the
deadline has its socket closed before the call returns, so that no late byte can land in the caller's memory.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from memkv_core import handshake, limits
from memkv_core.buffers import Region
from memkv_core.errors import ConnectError, DisconnectedError, MemKVError, RemoteProtocolError, TransportTimeoutError
from memkv_core.session import Session
from memkv_core.transports.base import Call, Route
from memkv_core.transports.flow import Flow, Steps
from memkv_core.transports.pool import Pool
from memkv_core.transports.resolve import Resolved, resolve

SessionFactory = Callable[[int], Session]  # lane -> a fresh client session

_HANDSHAKE_S: Final = limits.HANDSHAKE_TIMEOUT_MS / 1000


@dataclass(slots=True)
class _Task:
    """One route's share of a ``run``."""

    route: Route
    calls: Sequence[Call]
    flow: Flow | None = None
    steps: Steps | None = None
    error: MemKVError | None = None
    pooled: bool = False  # its flow came from the pool, where the peer may have closed it unseen
    holds_place: bool = field(default=False)


class TCPTransport:
    """See ``base.Transport``. ``new_session`` makes a client session for a lane."""

    name = "tcp"

    def __init__(self, new_session: SessionFactory, *, connections: int = 4) -> None:
        self._new_session = new_session
        self._pool = Pool(connections)
        self._lane_counts: dict[str, int] = {}
        self._resolved: dict[str, Resolved] = {}
        self._pid = os.getpid()
        self._fork_lock = threading.Lock()

    # -- the seam -----------------------------------------------------------------------------------------------------
    def lane_counts(self, servers: Sequence[str], deadline_s: float) -> dict[str, int | MemKVError]:
        known: dict[str, int | MemKVError] = {
            server: self._lane_counts[server] for server in servers if server in self._lane_counts
        }
        unknown = [server for server in servers if server not in known]
        if unknown:
            tasks = [_Task(Route(server, handshake.LANE_ANY), ()) for server in unknown]
            self._run_tasks(tasks, deadline_s)
            for task in tasks:
                known[task.route.server] = task.error or self._lane_counts[task.route.server]
        return known

    def run(self, work: Sequence[tuple[Route, Sequence[Call]]], deadline_s: float) -> None:
        tasks = [_Task(route, calls) for route, calls in work]
        self._run_tasks(tasks, deadline_s)
        if all(task.error is None for task in tasks):
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

    # -- driving ------------------------------------------------------------------------------------------------------
    def _run_tasks(self, tasks: Sequence[_Task], deadline_s: float) -> None:
        if os.getpid() != self._pid:
            self._after_fork()
        try:
            self._drive(tasks, deadline_s)
        finally:
            for task in tasks:
                self._finish(task)

    def _drive(self, tasks: Sequence[_Task], deadline_s: float) -> None:
        if len(tasks) == 1:
            self._drive_one(tasks[0], deadline_s)
            return
        poller = select.poll()
        waiting: dict[int, _Task] = {}
        for task in tasks:
            self._start(task, deadline_s)
            if task.error is None:
                self._advance(task, None, poller, waiting)
        while waiting:
            left_s = deadline_s - time.monotonic()
            ready = poller.poll(max(0.0, left_s) * 1000)
            if not ready and left_s <= 0:
                for task in waiting.values():
                    task.error = _too_late(task.route)
                return
            for fd, events in ready:
                task = waiting[fd]
                self._advance(task, events, poller, waiting)

    def _drive_one(self, task: _Task, deadline_s: float) -> None:
        """As ``_drive``, without what several tasks need: half the cost of a small call."""
        self._start(task, deadline_s)
        mask = 0 if task.error is not None else self._resume(task, None)
        if not mask:
            return
        assert task.flow is not None
        poller = select.poll()
        polled = 0
        fd = task.flow.fileno()
        while mask:
            if mask != polled:
                poller.register(fd, mask)  # registering again changes the mask
                polled = mask
            left_s = deadline_s - time.monotonic()
            ready = poller.poll(max(0.0, left_s) * 1000)
            if ready:
                mask = self._resume(task, ready[0][1])
            elif left_s <= 0:
                task.error = _too_late(task.route)
                return

    def _start(self, task: _Task, deadline_s: float) -> None:
        try:
            task.flow = self._pool.acquire(task.route, deadline_s)
            task.holds_place = True
            task.pooled = task.flow is not None
            if task.flow is None:
                task.flow = self._new_flow(task.route, deadline_s)
                task.steps = self._connect_and_exchange(task, task.flow)
            elif task.calls:
                task.steps = task.flow.exchange(task.calls)
        except MemKVError as error:
            task.error = error
        except OSError as error:
            task.error = ConnectError(f"cannot open a socket to {task.route.server}: {error.strerror}")

    def _connect_and_exchange(self, task: _Task, flow: Flow) -> Steps:
        yield from flow.connect()
        self._learn(task.route, flow)
        if task.calls:
            yield from flow.exchange(task.calls)

    def _advance(self, task: _Task, events: int | None, poller: select.poll, waiting: dict[int, _Task]) -> None:
        """Resumes a task and notes what it waits for next; a finished one leaves ``waiting``."""
        assert task.flow is not None
        fd = task.flow.fileno()
        mask = self._resume(task, events)
        if mask:
            poller.register(fd, mask)  # registering again changes the mask
            waiting[fd] = task
        elif waiting.pop(fd, None) is not None:
            poller.unregister(fd)

    @staticmethod
    def _resume(task: _Task, events: int | None) -> int:
        """One step of a task: what it waits for next, 0 when it is done or has failed."""
        if task.steps is None:
            return 0
        try:
            return next(task.steps) if events is None else task.steps.send(events)
        except StopIteration:
            return 0
        except MemKVError as error:
            task.error = error
        except OSError as error:
            task.error = DisconnectedError(f"connection to {task.route.server} lost: {error.strerror}")
        return 0

    def _finish(self, task: _Task) -> None:
        """Fences a failed task's connection, gives its place back, and marks its calls."""
        flow = task.flow
        if task.error is not None or (task.steps is not None and _unfinished(task.steps)):
            task.error = task.error or DisconnectedError("interrupted")
            if flow is not None:
                flow.close()
            for call in task.calls:
                if not call.done and call.error is None:
                    call.error = task.error
        if task.holds_place:
            task.holds_place = False
            self._pool.release(task.route, flow)

    # -- connections --------------------------------------------------------------------------------------------------
    def _new_flow(self, route: Route, deadline_s: float) -> Flow:
        resolved = self._resolved.get(route.server)
        if resolved is None:
            resolved = resolve(route.server, min(deadline_s, time.monotonic() + _HANDSHAKE_S))
        self._resolved.pop(route.server, None)  # kept only once it has proved good, see _learn
        flow = Flow(route, resolved.sockaddr, resolved.family, self._new_session(route.lane))
        flow.resolved = resolved
        return flow

    def _learn(self, route: Route, flow: Flow) -> None:
        """Takes what a WELCOME says of the server; a lane that is not the wanted one means that the lanes changed."""
        lane_count, lane = flow.welcome.get("lanes"), flow.welcome.get("lane")
        if not isinstance(lane_count, int) or not 1 <= lane_count <= limits.LANES_MAX or lane not in range(lane_count):
            raise RemoteProtocolError(f"{route.server} says it is lane {lane!r} of {lane_count!r}")
        if flow.resolved is not None:
            self._resolved[route.server] = flow.resolved
        self._lane_counts[route.server] = lane_count
        if route.lane == handshake.LANE_ANY:
            flow.route = Route(route.server, int(lane or 0))
        elif route.lane != lane:
            raise ConnectError(f"{route.server} has other lanes than before")

    def _after_fork(self) -> None:
        with self._fork_lock:
            if os.getpid() != self._pid:
                self._pool.forget()
                self._lane_counts.clear()
                self._pid = os.getpid()


def _too_late(route: Route) -> TransportTimeoutError:
    return TransportTimeoutError(
        f"{route.server} did not answer before the deadline",
        remedy="see `memkv admin status`; raise `timeout_ms` if the network is slow",
    )


def _unseen(task: _Task) -> bool:
    """Whether a task may be run again as if nothing had happened: no call of it is half received."""
    return not any(call.started and not call.done for call in task.calls)


def _unfinished(steps: Steps) -> bool:
    return steps.gi_frame is not None  # type: ignore[attr-defined]  # a generator that has returned has no frame
