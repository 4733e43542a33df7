# SPDX-License-Identifier: Apache-2.0
"""The data port and the Unix socket: takes connections, reads the first bytes of HELLO, hands each to its lane.

A peer that says nothing, or says something that is no HELLO, costs one socket for at most HANDSHAKE_TIMEOUT_MS,
and at most WAITING_MAX of them are held at a time: beyond it the one that has waited longest makes room, so that
silent peers cannot keep a talking one out.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

from memkv_core.errors import RemoteProtocolError
from memkv_core.handshake import PREFIX_BYTES, hello_lane
from memkv_core.limits import HANDSHAKE_TIMEOUT_MS
from memkv_core.log import RateLimitedLog

log = logging.getLogger("memkv.server.accept")
limited = RateLimitedLog(log)  # a port scan must not fill a disk

WAITING_MAX: Final = 1024
CAUSES: Final = ("not_memkv", "timeout", "crowded", "lane_down", "disconnected")
ACCEPTS_PER_WAKE: Final = 64
BACKLOG: Final = 4096

Adopt = Callable[[socket.socket, bytes, int], bool]  # (socket, prefix, lane) -> taken


class Acceptor:
    """Owns the listening sockets. Not thread-safe: used by the supervisor's event loop only.

    ``adopt`` is called with a socket, the bytes already read from it and the lane they name; it returns False
    where no lane can take the socket, which is then closed. ``local`` is a Unix socket that listens already.
    """

    def __init__(self, listener: socket.socket, adopt: Adopt, local: socket.socket | None = None) -> None:
        self._listener = listener
        self._listeners = [listener] if local is None else [listener, local]
        for each in self._listeners:
            each.setblocking(False)
        self._adopt = adopt
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket.socket, _Waiting] = {}  # in order of arrival
        self.accepted = 0
        self.refused = dict.fromkeys(CAUSES, 0)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def open(self) -> None:
        """Listens. Raises OSError where another process took the port since it was bound."""
        self._listener.listen(BACKLOG)
        for listener in self._listeners:
            self._loop.add_reader(listener, self._acceptable, listener)

    def close(self) -> None:
        """Stops accepting and drops who has not said HELLO. Idempotent."""
        for listener in self._listeners:
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener)
                listener.close()
        for waiting in list(self._waiting.values()):
            self._forget(waiting)
            waiting.sock.close()

    def _acceptable(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._accept_failed(listener, error)
                return
            self.accepted += 1
            sock.setblocking(False)
            if len(self._waiting) >= WAITING_MAX:
                self._refuse(next(iter(self._waiting.values())), "crowded", "too many peers have not said HELLO")
            self._waiting[sock] = waiting = _Waiting(sock, address)
            waiting.timer = self._loop.call_later(HANDSHAKE_TIMEOUT_MS / 1000, self._timed_out, waiting)
            self._loop.add_reader(sock, self._readable, waiting)

    def _accept_failed(self, listener: socket.socket, error: OSError) -> None:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            log.debug("accept: %s", error)  # the peer went away between its SYN and our accept
            return
        limited.error(
            "descriptors",
            "no connection can be accepted: %s; raise the limit of open files (ulimit -n)",
            error.strerror,
        )
        self._loop.remove_reader(listener)
        self._loop.call_later(0.1, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._acceptable, listener)

    def _readable(self, waiting: _Waiting) -> None:
        try:
            received = waiting.sock.recv(PREFIX_BYTES - len(waiting.prefix))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            received = b""  # a reset is the same news as an end-of-file
        if not received:
            self._refuse(waiting, "disconnected", None)
            return
        waiting.prefix += received
        if len(waiting.prefix) < PREFIX_BYTES:
            return
        try:
            lane = hello_lane(waiting.prefix)
        except RemoteProtocolError as error:
            self._refuse(waiting, "not_memkv", str(error))
            return
        self._forget(waiting)
        if not self._adopt(waiting.sock, waiting.prefix, lane):
            self.refused["lane_down"] += 1
            waiting.sock.close()
            limited.warning("lane_down", "%s turned away: lane %d is not serving", _peer(waiting.address), lane)

    def _timed_out(self, waiting: _Waiting) -> None:
        self._refuse(waiting, "timeout", f"no HELLO within {HANDSHAKE_TIMEOUT_MS} ms")

    def _refuse(self, waiting: _Waiting, cause: str, reason: str | None) -> None:
        self._forget(waiting)
        waiting.sock.close()
        self.refused[cause] += 1
        if reason is not None:
            limited.warning(cause, "connection from %s closed: %s", _peer(waiting.address), reason)

    def _forget(self, waiting: _Waiting) -> None:
        self._loop.remove_reader(waiting.sock)
        self._waiting.pop(waiting.sock, None)
        if waiting.timer is not None:
            waiting.timer.cancel()


class _Waiting:
    """A peer that has not yet said enough of its HELLO."""

    __slots__ = ("address", "prefix", "sock", "timer")

    def __init__(self, sock: socket.socket, address: object) -> None:
        self.sock = sock
        self.address = address
        self.prefix = b""
        self.timer: asyncio.TimerHandle | None = None


def _peer(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a local peer"
