# SPDX-License-Identifier: Apache-2.0
"""One connection to one lane of a server: handshake and exchanges, as generators that yield what to wait for.

A generator here runs until the socket would block, then yields a poll mask; whoever drives it (``tcp.TCPTransport``)
waits for that and resumes it. So one thread moves any number of connections, and the deadline is in one place.
Payload bytes go by ``sendmsg`` and ``recvmsg_into`` from and to the caller's memory, with the GIL released; or, where
the flow has a ``path``, the server moves them and only frames pass here.

Used by one thread at a time; ``close`` may come from any.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Generator, Sequence
from typing import Any, Final, Protocol

from memkv_core import handshake, wire
from memkv_core.buffers import Cursor
from memkv_core.errors import ConnectError, DisconnectedError, MemKVError, RefusedError, RemoteProtocolError
from memkv_core.session import Session, remedy_of
from memkv_core.transports.base import Call, Route
from memkv_core.transports.resolve import Resolved
from memkv_core.wakeups import Wakeups

Steps = Generator[int, int, None]  # yields what to poll for, is sent what is ready

MOVED: Final = 1 << 16  # beside the poll masks: something may have happened on the path (``Path.fileno``)
_HELD: Final = 1 << 17  # nothing to wait for: an earlier call has to be done first

_HEAD_BYTES: Final = 4096
_RECEIVES_PER_STEP: Final = 8
_SENDS_PER_STEP: Final = 8


class Path(Protocol):
    """How the server moves the payload of this flow's calls from and to the client's memory (``one_sided``)."""

    def fileno(self) -> int:
        """Readable when ``arrived`` may have changed."""

    def may_send(self, call: Call) -> bool:
        """Whether a call can be sent now; False only while an earlier one of this flow is under way."""

    def arrived(self, request_id: int) -> bool:
        """Whether what was moved for a request that has been answered is in place."""

    def close(self) -> None:
        """The fence: after this the server can move nothing here any more. Idempotent."""


class Flow:
    """A connection and its session. ``open`` is False before the handshake and after any failure.

    ``connected`` is a socket to be used as it is, in place of a TCP connection to ``address``.
    """

    def __init__(
        self,
        route: Route,
        address: tuple[Any, ...],
        family: int,
        session: Session,
        connected: socket.socket | None = None,
    ) -> None:
        self.route = route
        self.session = session
        self.welcome: dict[str, Any] = {}
        self.open = False
        self.path: Path | None = None
        self.resolved: Resolved | None = None  # what the transport keeps once this flow has proved it good
        self._address = address
        self.local = connected is not None
        self._sock = connected if connected is not None else socket.socket(family, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        if connected is None:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wakeups = Wakeups(self._sock)
        self._head = bytearray(_HEAD_BYTES)
        self._have = 0  # bytes of the next frame's head that are in _head already
        self._next_request_id = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def path_fileno(self) -> int:
        return -1 if self.path is None else self.path.fileno()

    def interrupt(self) -> None:
        """Has whoever uses this flow in another thread find it lost."""
        with contextlib.suppress(OSError):  # not connected, or closed already
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """The fence: after this no byte can land in anyone's memory through this connection."""
        self.open = False
        if self.path is not None:
            self.path.close()
        self.session.close()
        self._sock.close()

    # -- handshake ----------------------------------------------------------------------------------------------------
    def connect(self) -> Steps:
        """Connects and opens the session. Raises ConnectError, AuthError, RefusedError, RemoteProtocolError."""
        try:
            if not self.local:
                yield from self._connect_socket()
            yield from self._send_views([memoryview(self.session.send_hello())])
            yield from self._receive_handshake()
            yield from self._send_views([memoryview(self.session.send_proof())])
            header, metadata = yield from self._receive_frame(0)
        except DisconnectedError as error:
            raise ConnectError(
                f"{self.route.server} closed the connection during the handshake",
                remedy="check that this is a MemKV data port (9900 by default) and that the auth key is the same",
            ) from error
        if header.opcode != wire.Opcode.WELCOME:
            raise RemoteProtocolError(f"{self.route.server} did not say WELCOME")
        if header.flags & wire.Flag.ERROR:
            raise self._refusal(metadata)
        self.welcome = self._parse_welcome(metadata)
        self.open = True

    def _parse_welcome(self, metadata: bytes) -> dict[str, Any]:
        try:
            welcome = json.loads(metadata)
        except (ValueError, RecursionError):
            welcome = None
        if not isinstance(welcome, dict):
            raise RemoteProtocolError(f"the WELCOME of {self.route.server} is no JSON object")
        return welcome

    def _connect_socket(self) -> Steps:
        try:
            self._sock.connect(self._address)
        except BlockingIOError:
            yield select.POLLOUT
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise self._unreachable(OSError(number, os.strerror(number))) from None
        except OSError as error:
            raise self._unreachable(error) from error

    def _receive_handshake(self) -> Steps:
        message = bytearray(handshake.PREFIX_BYTES)
        yield from self._receive_whole(memoryview(message))
        body = bytearray(handshake.decode_prefix(message).body_bytes)
        yield from self._receive_whole(memoryview(body))
        self.session.receive_message(bytes(message + body))

    def _receive_whole(self, target: memoryview) -> Steps:
        while target:
            target = target[(yield from self._receive_into(target)) :]

    # -- exchanges ----------------------------------------------------------------------------------------------------
    def exchange(self, calls: Sequence[Call]) -> Steps:
        """Sends the calls' requests one after the other and takes the responses as they come, in the same order."""
        first_id = self._next_request_id
        self._next_request_id += len(calls)
        sending = self._send_all(calls, first_id)
        receiving = self._receive_all(calls, first_id)
        wants_send = next(sending, 0)
        wants_receive: int = select.POLLIN
        while wants_send or wants_receive:
            ready = yield (wants_send | wants_receive) & ~_HELD
            if wants_send & select.POLLOUT and ready & ~(select.POLLIN | MOVED):
                wants_send = next(sending, 0)
            if ready & ~select.POLLOUT:
                wants_receive = next(receiving, 0)
            if wants_send == _HELD:
                wants_send = next(sending, 0)

    def _send_all(self, calls: Sequence[Call], first_id: int) -> Steps:
        path = self.path
        for number, call in enumerate(calls, first_id):
            if path is not None:
                while not path.may_send(call):
                    yield _HELD
            sealed = self.session.seal(
                call.opcode,
                count=call.key_count,
                metadata=call.metadata,
                payload_bytes=call.payload_bytes,
                flags=call.flags,
                kind=call.kind,
                request_id=number & 0xFFFFFFFF,
            )
            if number != first_id:
                yield select.POLLOUT  # sealed while the last one drains; now other flows have their turn
            if call.descriptor is not None:
                yield from self._send_descriptor(call.descriptor, sealed[:1])
                sealed = sealed[1:]
            sent = 0 if call.sources else self._send_at_once(sealed)
            if sent < len(sealed):
                yield from self._send_views([memoryview(sealed)[sent:], *call.sources])

    def _receive_all(self, calls: Sequence[Call], first_id: int) -> Steps:
        for number, call in enumerate(calls, first_id):
            header, metadata = yield from self._receive_frame(call.response_metadata_bytes)
            if header.request_id != number & 0xFFFFFFFF or header.opcode != call.opcode:
                raise RemoteProtocolError(f"{self.route.server} answered another request")
            if not header.flags & wire.Flag.RESPONSE:
                raise RemoteProtocolError(f"{self.route.server} sent a request")
            if header.flags & wire.Flag.ERROR:
                if header.payload_bytes:
                    raise RemoteProtocolError(f"{self.route.server} sent an error with a payload")
                call.error = self._refusal(metadata)
                continue
            targets = call.accept(header, metadata)
            call.started = True
            if header.payload_bytes:
                yield from self._receive_payload(call, targets)
            else:
                if header.flags & wire.Flag.PLACED:
                    yield from self._wait_for_moved(header.request_id)
                call.landed(0)
            call.done = True

    def _wait_for_moved(self, request_id: int) -> Steps:
        path = self.path
        if path is None:
            raise RemoteProtocolError(f"{self.route.server} says it has moved what nobody asked it to")
        while not path.arrived(request_id):
            yield MOVED

    def _send_descriptor(self, descriptor: int, first: bytes) -> Steps:
        """Sends a frame's first byte, and a descriptor with it; over a Unix socket only."""
        while True:
            try:
                socket.send_fds(self._sock, [first], [descriptor])
            except BlockingIOError:
                yield select.POLLOUT
                continue
            except OSError as error:
                raise self._lost(error) from error
            return

    def _send_at_once(self, sealed: bytes) -> int:
        """What the socket takes now of a frame without a payload: mostly all of it, and then this is all it costs."""
        try:
            return self._sock.send(sealed)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from error

    def _send_views(self, views: list[memoryview]) -> Steps:
        cursor = Cursor(views)
        sends = 0
        while cursor.left:
            try:
                cursor.advance(self._sock.sendmsg(cursor.window()))
            except BlockingIOError:
                yield select.POLLOUT
                continue
            except OSError as error:
                raise self._lost(error) from error
            sends += 1
            if sends % _SENDS_PER_STEP == 0 and cursor.left:
                yield select.POLLOUT  # as in _receive_payload

    def _receive_frame(self, metadata_bytes_hint: int) -> Generator[int, int, tuple[wire.Header, bytes]]:
        """The next frame up to its payload, verified. What was read beyond it stays in ``_head``."""
        header = None
        need = wire.HEADER_BYTES + metadata_bytes_hint + wire.TAG_BYTES
        while True:
            if header is None and self._have >= wire.HEADER_BYTES:
                header = wire.decode_header(self._head)
                need = wire.HEADER_BYTES + header.metadata_bytes + wire.TAG_BYTES
            if header is not None and self._have >= need:
                break
            if len(self._head) < need:
                self._head.extend(bytes(need - len(self._head)))
            self._have += yield from self._receive_into(memoryview(self._head)[self._have : need])
        tag_at = need - wire.TAG_BYTES
        sealed, tag = bytes(self._head[:tag_at]), bytes(self._head[tag_at:need])
        if self._have > need:
            self._head[: self._have - need] = self._head[need : self._have]
        self._have -= need
        self.session.open(header, sealed, tag)
        return header, sealed[wire.HEADER_BYTES :]

    def _receive_payload(self, call: Call, targets: list[memoryview]) -> Steps:
        cursor = Cursor(targets)
        total = cursor.left
        while self._have and cursor.left:  # a few bytes may have come along with the head of a frame after an error
            target = cursor.window()[0]
            size = min(self._have, len(target))
            target[:size] = self._head[:size]
            self._head[: self._have - size] = self._head[size : self._have]
            self._have -= size
            cursor.advance(size)
        receives = 0
        while cursor.left:
            try:
                size = self._sock.recvmsg_into(cursor.window())[0]
            except BlockingIOError:
                self._wakeups.expect(cursor.left)
                yield select.POLLIN
                continue
            except OSError as error:
                raise self._lost(error) from error
            if not size:
                raise self._lost(None)
            cursor.advance(size)
            call.landed(total - cursor.left)
            receives += 1
            if receives % _RECEIVES_PER_STEP == 0 and cursor.left:
                self._wakeups.expect(cursor.left)
                yield select.POLLIN  # other flows of this call have their turn
        self._wakeups.expect(0)
        if not receives:
            call.landed(total)

    def _receive_into(self, target: memoryview) -> Generator[int, int, int]:
        while True:
            try:
                size = self._sock.recv_into(target)
            except BlockingIOError:
                yield select.POLLIN
                continue
            except OSError as error:
                raise self._lost(error) from error
            if not size:
                raise self._lost(None)
            return size

    # -- errors -------------------------------------------------------------------------------------------------------
    def _unreachable(self, error: OSError) -> ConnectError:
        return ConnectError(
            f"cannot connect to {self.route.server}: {error.strerror or error}",
            remedy="check MEMKV_SERVERS and that the server runs (`memkv admin status`)",
        )

    def _lost(self, error: OSError | None) -> DisconnectedError:
        why = (error.strerror or str(error)) if error else "closed by the server"
        return DisconnectedError(f"connection to {self.route.server} lost: {why}")

    def _refusal(self, metadata: bytes) -> MemKVError:
        code, text = wire.decode_error(metadata)
        return RefusedError(code, f"{self.route.server} refused: {text}", remedy=remedy_of(code))
