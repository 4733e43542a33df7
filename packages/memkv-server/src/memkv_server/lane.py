# SPDX-License-Identifier: Apache-2.0
"""A lane: one process, one thread, one epoll loop over its clients, one engine (``python -m memkv_server.lane FD``).

The supervisor holds the other end of ``FD`` (see ``control``); its end-of-file ends the lane. Nothing here is shared
with another lane, so that the GIL of one never stops another.

In each round those connections come first that are not in the middle of a payload: a small request waits for at most
one turn of one bulk transfer, and where there are several a turn moves little more than CROWDED_TURN_BYTES.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from memkv_core.auth import Keyring
from memkv_core.errors import MemKVError
from memkv_core.limits import WINDOW_BYTES
from memkv_core.log import protect
from memkv_core.transports.library import load_verbs
from memkv_server import limits, logs, operations
from memkv_server.connection import Connection
from memkv_server.engine import DriveSet
from memkv_server.engine.account import Rules
from memkv_server.engine.base import Engine
from memkv_server.engine.durability import Level
from memkv_server.handler import Handler
from memkv_server.lane_context import LaneContext
from memkv_server.lane_look import LOOK, look
from memkv_server.movers import MoverSource
from memkv_server.rdma import RdmaSource

_LOG: Final = logging.getLogger("memkv.server.lane")
_EXIT_FAILED: Final = 1


class Lane:
    """The loop. ``control`` is the AF_UNIX SOCK_SEQPACKET socket to the supervisor."""

    def __init__(self, control: socket.socket, engine: Engine, start: dict[str, Any]) -> None:
        self._control = control
        self._engine = engine
        self._connections: dict[int, Connection] = {}
        self._connections_max = int(start["limits"].get("connections_max", limits.CONNECTIONS_MAX))
        self.context = LaneContext(
            Handler(engine),
            Keyring(bytes.fromhex(key) for key in start["auth_keys"]),
            int(start["lane"]),
            int(start["lane_count"]),
            shm=start.get("shm"),
            shm_guarded=start.get("mode") not in ("memory", "direct"),
        )
        self.context.crowded = lambda: len(self._connections) > self._connections_max
        self._epoll = select.epoll()
        self._masks: dict[int, int] = {}
        self._rdma: MoverSource | None = None
        self._watched: dict[int, Callable[[], None]] = {}  # other descriptors, and what to do when one is readable
        self._crowded = False  # several connections have something to do in this round
        self._asker: Connection | None = None  # who asked for little last, and until when that counts
        self._asked_until_s = 0.0
        self._stop_at_s: float | None = None
        self._held = False
        self._sweep_at_s = 0.0
        control.setblocking(False)
        self._epoll.register(control, select.EPOLLIN)
        if engine.wake_fd is not None:
            self._epoll.register(engine.wake_fd, select.EPOLLIN)

    def run(self) -> None:
        """Serves until the supervisor asks for an end or is gone; then everything in flight is finished or given up."""
        self._say({"op": "ready"})
        more_work = False
        while not self._done(time.monotonic()):
            events = self._epoll.poll(0 if more_work else limits.IDLE_POLL_S, limits.EVENTS_MAX)
            now_s = time.monotonic()
            self._serve(events, now_s)
            if now_s >= self._sweep_at_s:
                self._sweep(now_s)
            more_work = self._engine.tick()
            if self.context.waiting:
                self.context.moving = False
                self._settle(now_s)
                more_work |= self.context.moving
        for connection in list(self._connections.values()):
            self._forget(connection)
        if self._rdma is not None:
            self._rdma.close()
        self._engine.close()

    def watch(self, fd: int, readable: Callable[[], None]) -> None:
        """Has the loop call ``readable`` whenever there is something to read, until ``unwatch``."""
        self._watched[fd] = readable
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Before the descriptor is closed."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def use_rdma(self, source: MoverSource) -> None:
        """Offers its devices to clients. Before ``run``, which closes it in the end."""
        self._rdma = self.context.rdma = source
        source.watch(self.watch)

    def drain(self, now_s: float) -> None:
        """No new sessions; those that are idle end now, the others when they are, at the latest in DRAIN_S."""
        if self._stop_at_s is None:
            self.context.draining = True
            self._stop_at_s = now_s + limits.DRAIN_S

    def stop(self) -> None:
        self._stop_at_s = 0.0

    def hold(self, held: bool) -> None:
        """While it is held it takes no sessions and lets go of those it has, and goes on otherwise."""
        self._held = held
        self.context.draining = held or self._stop_at_s is not None

    # -- one round ----------------------------------------------------------------------------------------------------
    def _serve(self, events: list[tuple[int, int]], now_s: float) -> None:
        later = []
        self._crowded = len(events) > 1
        for fd, _mask in events:
            connection = self._connections.get(fd)
            if connection is None:
                if fd == self._control.fileno():
                    self._hear(now_s)
                elif fd == self._engine.wake_fd:
                    with contextlib.suppress(BlockingIOError):  # what it woke the lane for is done in tick
                        os.eventfd_read(fd)
                elif fd in self._watched:
                    self._watched[fd]()
            elif connection.bulk:
                later.append(connection)
            else:
                self._turn(connection, now_s)
        for connection in later:
            self._turn(connection, now_s)
            if len(later) > 1:
                self._serve_small(now_s)

    def _serve_small(self, now_s: float) -> None:
        """Between two turns of bulk transfers: those who have asked for little meanwhile. Costs a system call, 2 us."""
        for fd, _mask in self._epoll.poll(0, limits.EVENTS_MAX):
            connection = self._connections.get(fd)
            if connection is not None and not connection.bulk:
                self._turn(connection, now_s)

    def _turn(self, connection: Connection, now_s: float) -> None:
        """A short one where others have something to do, or have asked for something not long ago: they may again."""
        asked = self._asker not in (None, connection) and now_s < self._asked_until_s
        self.context.turn_bytes = limits.CROWDED_TURN_BYTES if self._crowded or asked else WINDOW_BYTES
        connection.on_event(now_s)
        if not connection.bulk:
            self._asker, self._asked_until_s = connection, now_s + limits.ASKED_S
        self._look_after(connection)

    def _settle(self, now_s: float) -> None:
        """Sends the answers that had to wait for the drive."""
        for connection in list(self.context.waiting):
            if connection.settle(now_s):
                self._look_after(connection)

    def _look_after(self, connection: Connection) -> None:
        if connection.closed:
            self._forget(connection)
            return
        mask = connection.mask
        if self._masks[connection.fd] != mask:
            self._masks[connection.fd] = mask
            self._epoll.modify(connection.fd, mask)

    def _forget(self, connection: Connection) -> None:
        connection.close()  # closing the socket takes it out of the epoll set
        if self._asker is connection:
            self._asker = None
        self._connections.pop(connection.fd, None)
        self._masks.pop(connection.fd, None)

    def _sweep(self, now_s: float) -> None:
        self._sweep_at_s = now_s + limits.SWEEP_S
        for connection in list(self._connections.values()):
            connection.check(now_s)
            if connection.closed:
                self._forget(connection)

    def _done(self, now_s: float) -> bool:
        if self._stop_at_s is None:
            if self._held:
                self._let_go()
            return False
        self._let_go()
        return now_s >= self._stop_at_s or not self._connections

    def _let_go(self) -> None:
        """Closes what is idle: a client finds that out with its next request, and asks elsewhere."""
        for connection in [connection for connection in self._connections.values() if connection.idle]:
            self._forget(connection)

    # -- the supervisor -----------------------------------------------------------------------------------------------
    def _hear(self, now_s: float) -> None:
        try:
            packet, fds, _flags, _address = socket.recv_fds(self._control, limits.CONTROL_BYTES_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            _LOG.warning("the supervisor is gone: stopping")
            self.stop()
            return
        message = json.loads(packet)
        if message["op"] == "adopt":
            self._adopt(socket.socket(fileno=fds[0]), bytes.fromhex(message["prefix"]), now_s)
        elif message["op"] == "status":
            self._say(self.status())
        elif message["op"] == "call":
            answer = self._answer(message["name"], message["arguments"], now_s)
            self._say({"op": "answer", "id": message["id"], **answer})
        elif message["op"] == "hold":
            self.hold(message["held"])
        elif message["op"] == "drain":
            self.drain(now_s)

    def _answer(self, name: str, arguments: dict[str, Any], now_s: float) -> dict[str, Any]:
        if name == LOOK:
            return {"result": look(self._connections.values(), self._engine, self._rdma, now_s, arguments["names"])}
        return operations.answer(self._engine, name, arguments)

    def _adopt(self, sock: socket.socket, prefix: bytes, now_s: float) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # not a TCP socket (tests): nothing to set
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = Connection(sock, prefix[: limits.PREFIX_BYTES_MAX], self.context, now_s)
        self._connections[connection.fd] = connection
        self._masks[connection.fd] = connection.mask
        self._epoll.register(connection.fd, connection.mask)

    def status(self) -> dict[str, Any]:
        """What the supervisor shows: counters, sessions, the engine's usage."""
        connections = self._connections.values()
        return {
            "op": "status",
            "connections": len(connections),
            "sessions": sum(connection.namespace is not None for connection in connections),
            "by_transport": dict(Counter(connection.moves_by for connection in connections)),
            "activity": dict(Counter(connection.activity for connection in connections)),
            "pending_answers": sum(connection.pending_count for connection in self.context.waiting),
            "transports": self.context.handler.counts(),
            "errors": dict(self.context.errors),
            "rdma_active": self._rdma is not None and self._rdma.active(),
            "engine": self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        """The engine's usage, with the largest namespaces only: a message has to fit into the control socket."""
        usage = dict(self._engine.usage())
        namespaces = usage.get("namespaces", [])
        usage["namespace_count"] = len(namespaces)
        usage["namespaces"] = heapq.nlargest(limits.STATUS_NAMESPACES_MAX, namespaces, key=lambda each: each["bytes"])
        return usage

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message, separators=(",", ":")).encode())
        except OSError as error:
            _LOG.warning("the supervisor does not listen: %s", error.strerror)


def open_lane_engine(start: dict[str, Any]) -> Engine:
    """The engine that a ``start`` message describes. StorageError where none of its drives can be used."""
    return DriveSet.over(
        start["mode"],
        start["drives"],
        start["capacity_bytes"],
        start["segment_bytes"],
        Level(start["durability"]),
        start["memory_bytes"],
        Rules.of(start.get("namespaces", ())),
    )


def main(control_fd: int) -> int:
    """The process: waits for ``start``, opens the engine, serves. Exit status 1 after ``failed`` was said."""
    control = socket.socket(fileno=control_fd)
    packet = control.recv(limits.CONTROL_BYTES_MAX)
    if not packet:
        return 0
    start = json.loads(packet)
    for key in start["auth_keys"]:
        protect(key)
    logs.configure(**start["log"])
    try:
        engine = open_lane_engine(start)
    except MemKVError as error:
        control.send(json.dumps({"op": "failed", "error": str(error)}).encode())
        return _EXIT_FAILED
    lane = Lane(control, engine, start)
    if devices := start.get("rdma", {}).get("devices"):
        bounce_bytes = start["rdma"]["bounce_bytes"]
        is_file = start["mode"] == "file"
        lane.use_rdma(RdmaSource.open(devices, engine.fixed_memory(), bounce_bytes, load_verbs, is_file=is_file))
    signal.signal(signal.SIGTERM, lambda _signum, _frame: lane.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lane.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
