# SPDX-License-Identifier: Apache-2.0
"""A LoopbackServer behind a real TCP socket: a small, slow, readable MemKV node for tests of a TCP transport.

One thread a connection, blocking calls. ``freeze`` leaves connections open and says nothing, as a stopped process does;
``sever`` cuts them; ``stop`` ends the node and ``start`` brings it back on its port with what it had stored.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable

from memkv_core import handshake, wire
from memkv_core.errors import RemoteProtocolError
from memkv_core.testing.loopback import LoopbackConnection, LoopbackServer


class SocketServer:
    """Listens on 127.0.0.1. Use as a context manager, or ``start`` and ``stop``."""

    def __init__(self, keys: Iterable[bytes], *, lanes: int = 1) -> None:
        self.node = LoopbackServer(keys, lanes=lanes)
        self.port = 0
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._running = threading.Event()
        self._running.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> SocketServer:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._spawn(self._accept, listener)
        return self

    def stop(self) -> None:
        """Closes the listener and every connection, and waits for the threads. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):  # not connected: shutdown still wakes accept()
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._running.set()
        self.sever()
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()

    def sever(self) -> None:
        """Cuts every open connection."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):  # the peer was faster
                    sock.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    def __enter__(self) -> SocketServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _spawn(self, target: object, argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # stopped
                return
            with self._lock:
                self._open.add(sock)
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                self._session(sock)
        except (OSError, EOFError, RemoteProtocolError):
            return  # the peer went away, or broke a rule: the connection is what ends
        finally:
            with self._lock:
                self._open.discard(sock)

    def _session(self, sock: socket.socket) -> None:
        hello = _receive_message(sock)
        self._running.wait()
        connection = self.node.connect(handshake.decode_prefix(hello).c)
        sock.sendall(connection.handshake(hello))
        if connection.session.state.name == "CLOSED":
            return
        sock.sendall(connection.handshake(_receive_message(sock)))
        while connection.namespace is not None:
            self._frame(sock, connection)

    def _frame(self, sock: socket.socket, connection: LoopbackConnection) -> None:
        head = _receive(sock, wire.HEADER_BYTES)
        header = wire.decode_header(head)
        sealed = head + _receive(sock, header.metadata_bytes + wire.TAG_BYTES)
        payload = _receive(sock, header.payload_bytes)
        self._running.wait()
        frame, views = connection.exchange(bytes(sealed), memoryview(payload))
        sock.sendall(frame)
        for view in views:
            self._running.wait()
            sock.sendall(view)


def _receive_message(sock: socket.socket) -> bytes:
    prefix = _receive(sock, handshake.PREFIX_BYTES)
    return bytes(prefix + _receive(sock, handshake.decode_prefix(prefix).body_bytes))


def _receive(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data
