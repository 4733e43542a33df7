# SPDX-License-Identifier: Apache-2.0
"""A whole cluster in one process and without a network: clients joined to dict-backed servers by sans-IO sessions.

Every byte that would cross a wire is made, authenticated and parsed as on a wire; only the sockets are missing::

    cluster = LoopbackCluster(["a:9900", "b:9900"])
    client = Client(cluster.config(), transport=cluster.transport)   # or cluster.client()
    cluster.servers["a:9900"].down = True                             # as if it were unplugged

``tap`` sees, and may alter, each handshake message and each frame's authenticated part on its way.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from memkv_core import handshake, wire
from memkv_core._version import __version__
from memkv_core.auth import Keyring
from memkv_core.authority import Authority
from memkv_core.buffers import Cursor, Region
from memkv_core.client import Client
from memkv_core.config import ClientConfig
from memkv_core.errors import (
    ClientClosedError,
    ConnectError,
    DisconnectedError,
    MemKVError,
    RefusedError,
    RemoteProtocolError,
    TransportTimeoutError,
)
from memkv_core.limits import FRAME_PAYLOAD_BYTES_TARGET
from memkv_core.router import key_hash, lanes_of
from memkv_core.session import Session, remedy_of
from memkv_core.testing.memory_engine import DictEngine, DictNamespace
from memkv_core.transports.base import Call, Route
from memkv_core.transports.tcp import SessionFactory
from memkv_core.wire import ErrorCode, Flag, Header, Opcode

Tap = Callable[[str, bytes], bytes]  # ("to server" | "to client", message) -> the message that arrives

_RUN: Final = struct.Struct("<I")


class LoopbackServer:
    """One node: some lanes, a dict of blocks each. ``down`` makes it unreachable, ``frozen`` silent. Thread-safe."""

    def __init__(self, keys: Iterable[bytes], *, lanes: int = 1, capacity_bytes: int = 256 * 2**20) -> None:
        self.keyring = Keyring(keys)
        self.engines = [DictEngine(capacity_bytes=capacity_bytes) for _ in range(lanes)]
        self.down = False
        self.frozen = False
        self.lock = threading.Lock()

    def connect(self, lane: int = handshake.LANE_ANY) -> LoopbackConnection:
        """The server's end of a new connection to ``lane``; a lane that does not exist becomes lane 0."""
        return LoopbackConnection(self, lane if lane < len(self.engines) else 0)

    def engine_of(self, namespace: DictNamespace, key: bytes) -> DictEngine:
        """The lane's engine that a client would place ``key`` on."""
        return self.engines[lanes_of([key_hash(key, namespace.hash)], len(self.engines))[0]]


class LoopbackConnection:
    """The server's side of one session: messages in, messages out, no socket."""

    def __init__(self, server: LoopbackServer, lane: int) -> None:
        self.session = Session.server(server.keyring)
        self.lane = lane
        self.namespace: DictNamespace | None = None
        self._server = server
        self._engine = server.engines[lane]

    def handshake(self, message: bytes) -> bytes:
        """Takes HELLO or PROOF; returns CHALLENGE, REFUSAL or WELCOME. Raises what a session raises."""
        magic = handshake.decode_prefix(message).magic
        self.session.receive_message(message)
        if magic == handshake.HELLO:
            refusal = self.session.refusal_of_hello()
            return self.session.send_refusal(*refusal) if refusal else self.session.send_challenge(self.lane)
        hello = self.session.hello
        assert hello is not None
        with self._server.lock:
            self.namespace = self._engine.open_namespace(hello.namespace, hello.identity)
        if self.namespace is None:
            text = f"namespace {hello.namespace!r}: another identity is recorded"
            error = wire.encode_error(ErrorCode.IDENTITY_MISMATCH, text)
            return self.session.seal(Opcode.WELCOME, metadata=error, flags=Flag.RESPONSE | Flag.ERROR)
        welcome = {"version": __version__, "lane": self.lane, "lanes": len(self._server.engines)}
        return self.session.seal(Opcode.WELCOME, metadata=json.dumps(welcome).encode(), flags=Flag.RESPONSE)

    def exchange(self, sealed: bytes, payload: memoryview) -> tuple[bytes, list[memoryview]]:
        """Takes one request frame (up to its tag) and its payload; returns the response's, likewise."""
        header, metadata = open_frame(self.session, sealed)
        with self._server.lock:
            answer, views, flags, count = self._answer(header, metadata, payload)
        frame = self.session.seal(
            header.opcode,
            count=count,
            metadata=answer,
            payload_bytes=sum(map(len, views)),
            flags=Flag.RESPONSE | flags,
            request_id=header.request_id,
        )
        return frame, views

    def _answer(self, header: Header, metadata: bytes, payload: memoryview) -> tuple[bytes, list[memoryview], int, int]:
        """(metadata, payload, flags, count) of the response."""
        engine, namespace, count = self._engine, self.namespace, header.key_count
        assert namespace is not None
        if header.opcode == Opcode.PUT:
            return self._put(header, metadata, payload), [], 0, count
        if header.payload_bytes:
            raise RemoteProtocolError(f"operation 0x{header.opcode:02x} with a payload")
        if header.opcode == Opcode.GET:
            return self._get(header, metadata)
        if header.opcode == Opcode.LOOKUP:
            return _RUN.pack(engine.lookup(namespace, wire.decode_keys(metadata, count))), [], 0, count
        if header.opcode == Opcode.PING:
            return b"", [], 0, 0
        if header.opcode == Opcode.STAT:
            return json.dumps(engine.usage()).encode(), [], 0, 0
        by_status = {Opcode.EXISTS: engine.exists, Opcode.DELETE: engine.delete, Opcode.VERIFY: engine.verify}
        for opcode, operation in by_status.items():
            if header.opcode == opcode:
                return operation(namespace, wire.decode_keys(metadata, count)), [], 0, count
        text = f"this server does not know operation 0x{header.opcode:02x}"
        return wire.encode_error(ErrorCode.UNSUPPORTED_OPCODE, text), [], Flag.ERROR, 0

    def _put(self, header: Header, metadata: bytes, payload: memoryview) -> bytes:
        assert self.namespace is not None
        request = wire.decode_put(metadata, header)
        reservation = self._engine.reserve(
            self.namespace, request.keys, request.lengths, request.digests, header.kind, request.metas
        )
        at = 0
        for extent, length in zip(reservation.extents, request.lengths, strict=True):
            if extent is not None:
                extent[:] = payload[at : at + length]
            at += length
        return self._engine.commit(reservation)

    def _get(self, header: Header, metadata: bytes) -> tuple[bytes, list[memoryview], int, int]:
        assert self.namespace is not None
        keys, capacities = wire.decode_get(metadata, header.key_count)
        batch = self._engine.read(self.namespace, keys, capacities)
        meta = header.flags & Flag.META
        answer = wire.encode_get_response(
            batch.statuses, batch.digest_kinds, batch.lengths, batch.digests, batch.metas if meta else None
        )
        views = [view for view in batch.views if view is not None]
        self._engine.release(batch)  # the views are of immutable bytes: nothing needs the pin
        return answer, views, meta, header.key_count


class LoopbackTransport:
    """A ``transports.base.Transport`` to LoopbackServers. One session per route, made at need, dropped on any error."""

    name = "loopback"
    moves = None

    def __init__(
        self,
        new_session: SessionFactory,
        servers: Mapping[str, LoopbackServer],
        *,
        tap: Tap | None = None,
    ) -> None:
        self._new_session = new_session
        self._servers = servers
        self._tap = tap or (lambda direction, message: message)
        self._lock = threading.RLock()
        self._sessions: dict[Route, tuple[Session, LoopbackConnection]] = {}
        self._closed = False

    def rail_of(self, server: str) -> str | None:
        return None

    def lane_counts(self, servers: Sequence[str], deadline_s: float) -> dict[str, int | MemKVError]:
        counts: dict[str, int | MemKVError] = {}
        for server in servers:
            try:
                with self._lock:
                    self._session(Route(server, handshake.LANE_ANY), deadline_s)
                counts[server] = len(self._servers[server].engines)
            except MemKVError as error:
                counts[server] = error
        return counts

    def frame_bytes(self, server: str) -> int:
        return FRAME_PAYLOAD_BYTES_TARGET

    def run(self, work: Sequence[tuple[Route, Sequence[Call]]], deadline_s: float) -> None:
        for route, calls in work:
            failed: MemKVError | None = None
            for call in calls:
                try:
                    if failed is None:
                        with self._lock:
                            self._exchange(route, call, deadline_s)
                except MemKVError as error:
                    failed = error
                    self._sessions.pop(route, None)
                if failed is not None:
                    call.error = failed

    def ping(self, server: str, deadline_s: float) -> MemKVError | None:
        with self._lock:
            for route in [route for route in self._sessions if route.server == server]:
                del self._sessions[route]
            outcome = self.lane_counts([server], deadline_s)[server]
        return outcome if isinstance(outcome, MemKVError) else None

    def register(self, view: memoryview) -> Region:
        return Region(view)

    def close(self) -> None:
        self._closed = True
        self._sessions.clear()

    def _session(self, route: Route, deadline_s: float) -> tuple[Session, LoopbackConnection]:
        if self._closed:
            raise ClientClosedError("the client is closed")
        server = self._servers.get(route.server)
        if server is None or server.down:
            self._sessions.pop(route, None)
            raise ConnectError(f"cannot connect to {route.server}: it is down")
        if server.frozen or time.monotonic() >= deadline_s:
            self._sessions.pop(route, None)
            raise TransportTimeoutError(f"{route.server} did not answer before the deadline")
        if route not in self._sessions:
            session, connection = self._new_session(route.lane), server.connect(route.lane)
            welcome = _shake_hands(session, connection, self._tap)
            header, metadata = open_frame(session, welcome)
            if header.flags & Flag.ERROR:
                raise _refusal(route.server, metadata)
            self._sessions[route] = session, connection
        return self._sessions[route]

    def _exchange(self, route: Route, call: Call, deadline_s: float) -> None:
        session, connection = self._session(route, deadline_s)
        request = session.seal(
            call.opcode,
            count=call.key_count,
            metadata=call.metadata,
            payload_bytes=call.payload_bytes,
            flags=call.flags,
            kind=call.kind,
        )
        payload = memoryview(b"".join(call.sources))
        try:
            response, views = connection.exchange(self._tap("to server", request), payload)
        except RemoteProtocolError as error:  # the server ends the session; a client sees no more than that
            raise DisconnectedError(f"connection to {route.server} lost: closed by the server") from error
        header, metadata = open_frame(session, self._tap("to client", response))
        if header.flags & Flag.ERROR:
            call.error = _refusal(route.server, metadata)
            return
        targets = call.accept(header, metadata)
        call.started = True
        _scatter(views, targets, call)
        call.done = True


class LoopbackCluster:
    """Servers by address, one key, a license: all that a ``Client`` needs, gone with the object."""

    def __init__(
        self, addresses: Sequence[str] = ("loopback:9900",), *, lanes: int = 1, tap: Tap | None = None
    ) -> None:
        self.key = secrets.token_bytes(32)
        self.tap = tap
        self.servers = {address: LoopbackServer([self.key], lanes=lanes) for address in addresses}
        self._folder = tempfile.TemporaryDirectory(prefix="memkv-loopback-")
        authority = Authority.create(os.path.join(self._folder.name, "authority"), name="loopback")
        self._license = authority.issue("loopback", plan="test", days=1)
        self._license_keys = str(authority.public_keys)

    def config(self, **overrides: Any) -> ClientConfig:
        """Settings of a client of this cluster."""
        settings = {
            "servers": list(self.servers),
            "auth_key": self.key.hex(),
            "license": self._license,
            "license_keys": self._license_keys,
        }
        return ClientConfig.load(**(settings | overrides))

    def transport(self, new_session: SessionFactory, config: ClientConfig) -> LoopbackTransport:
        """What ``Client(transport=...)`` takes."""
        return LoopbackTransport(new_session, self.servers, tap=self.tap)

    def client(self, *, identity: Mapping[str, Any] | None = None, **overrides: Any) -> Client:
        """A client of this cluster."""
        return Client(self.config(**overrides), identity=identity, transport=self.transport)

    def close(self) -> None:
        self._folder.cleanup()

    def __enter__(self) -> LoopbackCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_frame(session: Session, frame: bytes) -> tuple[Header, bytes]:
    """Parses and verifies a whole frame without its payload. Raises RemoteProtocolError, AuthError."""
    if len(frame) < wire.HEADER_BYTES + wire.TAG_BYTES:
        raise RemoteProtocolError("a frame ends early")
    header = wire.decode_header(frame)
    tag_at = wire.HEADER_BYTES + header.metadata_bytes
    if len(frame) != tag_at + wire.TAG_BYTES:
        raise RemoteProtocolError("a frame ends early or late")
    session.open(header, frame[:tag_at], frame[tag_at:])
    return header, frame[wire.HEADER_BYTES : tag_at]


def _shake_hands(session: Session, connection: LoopbackConnection, tap: Tap) -> bytes:
    """The WELCOME frame. What the server raises is, for the client, a closed connection."""
    try:
        answer = connection.handshake(tap("to server", session.send_hello()))
        session.receive_message(tap("to client", answer))
        return tap("to client", connection.handshake(tap("to server", session.send_proof())))
    except RemoteProtocolError as error:
        if session.state.name != "CLOSED":
            raise ConnectError("the server closed the connection during the handshake") from error
        raise


def _scatter(views: Sequence[memoryview], targets: list[memoryview], call: Call) -> None:
    """Copies the payload into its targets, a view at a time, telling the call as it lands."""
    cursor = Cursor(targets)
    total = cursor.left
    for view in views:
        while view:
            target = cursor.window()[0]
            size = min(len(view), len(target))
            target[:size] = view[:size]
            cursor.advance(size)
            view = view[size:]
            call.landed(total - cursor.left)
    if not total:
        call.landed(0)


def _refusal(server: str, metadata: bytes) -> RefusedError:
    code, text = wire.decode_error(metadata)
    return RefusedError(code, f"{server} refused: {text}", remedy=remedy_of(code))
