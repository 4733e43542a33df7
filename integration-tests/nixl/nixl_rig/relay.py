# SPDX-License-Identifier: Apache-2.0
"""A relay before a node: while it is shut, clients can connect and are told nothing, as by a node that is too busy."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Relay:
    """``address`` is what a client is given in place of the node's. ``open()`` lets everything through, for good."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._opened = threading.Event()
        self._closing = False
        self._lock = threading.Lock()  # of what is below
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = threading.Semaphore(0)  # released for each connection
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        self._opened.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                near, _ = self._listener.accept()
                self._keep(near)
                self.accepted.release()
                threading.Thread(target=self._relay, args=(near,), daemon=True).start()

    def _keep(self, one: socket.socket) -> None:
        with self._lock:
            self._sockets.append(one)
            if self._closing:
                one.close()

    def _relay(self, near: socket.socket) -> None:
        self._opened.wait()
        with contextlib.suppress(OSError):  # closed: the test is over
            far = socket.create_connection(self._target)
            self._keep(far)
            threading.Thread(target=_pump, args=(far, near), daemon=True).start()
            _pump(near, far)

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closing = True
        self._opened.set()
        for one in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):  # gone already
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # one of the two is gone
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
