# SPDX-License-Identifier: Apache-2.0
"""A client that shares nothing with the real one but the codec and the session: one blocking socket, one frame a time.

Conformance tests look through it beneath the code under test; server tests use it to say what no client would.
"""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any

from memkv_core import handshake, wire
from memkv_core.address import parse_address
from memkv_core.digests import digest
from memkv_core.errors import RefusedError
from memkv_core.session import Session
from memkv_core.wire import Flag, Header, Opcode, Status


class RawClient:
    """Connects, opens a session, and moves single frames. Raises what the session or the socket raises."""

    def __init__(
        self,
        address: str,
        key: bytes,
        *,
        namespace: str = "default",
        identity: bytes = b"",
        lane: int = handshake.LANE_ANY,
        timeout_s: float = 10.0,
    ) -> None:
        self.session = Session.client(key, namespace=namespace, identity=identity, lane=lane, agent="raw")
        self.sock = socket.create_connection(parse_address(address), timeout=timeout_s)
        try:
            self.welcome = self._open()
        except BaseException:
            self.sock.close()
            raise

    def _open(self) -> dict[str, Any]:
        self.sock.sendall(self.session.send_hello())
        prefix = self.receive(handshake.PREFIX_BYTES)
        self.session.receive_message(prefix + self.receive(handshake.decode_prefix(prefix).body_bytes))
        self.sock.sendall(self.session.send_proof())
        header, metadata, _ = self.receive_frame()
        if header.flags & Flag.ERROR:
            raise RefusedError(*wire.decode_error(metadata))
        welcome = json.loads(metadata)
        assert isinstance(welcome, dict)
        return welcome

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes; EOFError when the server closes first."""
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError("the server closed the connection")
            data += piece
        return bytes(data)

    def receive_frame(self) -> tuple[Header, bytes, bytes]:
        """(header, metadata, payload) of the next frame, verified."""
        head = self.receive(wire.HEADER_BYTES)
        header = wire.decode_header(head)
        metadata, tag = self.receive(header.metadata_bytes), self.receive(wire.TAG_BYTES)
        self.session.open(header, head + metadata, tag)
        return header, metadata, self.receive(header.payload_bytes)

    def request(
        self, opcode: int, metadata: bytes = b"", payload: bytes = b"", *, count: int = 0, flags: int = 0, kind: int = 0
    ) -> tuple[Header, bytes, bytes]:
        """One frame there and one back."""
        sealed = self.session.seal(
            opcode, count=count, metadata=metadata, payload_bytes=len(payload), flags=flags, kind=kind
        )
        self.sock.sendall(sealed + payload)
        return self.receive_frame()

    def put(self, key: bytes, value: bytes) -> int:
        """Stores one value; its status."""
        announced = digest([memoryview(value)], wire.DigestKind.XXH3_128)
        metadata = wire.encode_put([key], [len(value)], [announced], None)
        _, statuses, _ = self.request(Opcode.PUT, metadata, value, count=1)
        return statuses[0]

    def get(self, key: bytes, capacity: int = 1 << 28) -> bytes | None:
        """One value, not verified; None unless it is a hit."""
        header, metadata, payload = self.request(Opcode.GET, wire.encode_get([key], [capacity]), count=1)
        return payload if wire.decode_get_response(metadata, header).statuses[0] == Status.HIT else None

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
