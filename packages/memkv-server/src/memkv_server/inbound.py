# SPDX-License-Identifier: Apache-2.0
"""What has come from a client of the next message: its bytes up to the payload, and the descriptors beside them."""

from __future__ import annotations

import array
import socket
from typing import Final

from memkv_core import handshake, wire
from memkv_core.errors import RemoteProtocolError
from memkv_core.wire import Header
from memkv_server import limits
from memkv_server.intake import Intake
from memkv_server.shm import close_all

_DESCRIPTOR_BYTES: Final = array.array("i").itemsize
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(limits.DESCRIPTORS_MAX * _DESCRIPTOR_BYTES)


class Inbound:
    """Reads ahead of what is needed, READ_AHEAD_BYTES at most: one receive takes a small frame whole.

    ``prefix`` was read already. ``local``: a Unix socket, on which a frame may bring descriptors along; each goes to
    the next that claims one, and what nobody claims is closed at the end. Used by the lane's thread.
    """

    __slots__ = ("_buffer", "_descriptors", "_have", "_local", "_sock", "header")

    def __init__(self, sock: socket.socket, prefix: bytes, *, local: bool) -> None:
        self.header: Header | None = None  # of the frame that comes next, once it is known
        self._sock = sock
        self._local = local
        self._buffer = bytearray(limits.HEAD_BYTES)
        self._buffer[: len(prefix)] = prefix
        self._have = len(prefix)
        self._descriptors: list[int] = []

    @property
    def empty(self) -> bool:
        return not self._have

    @property
    def buffer_bytes(self) -> int:
        return len(self._buffer)

    def has(self, need: int) -> bool:
        """Whether that many bytes have come."""
        return self._have >= need

    def handshake_need(self) -> int:
        """How many bytes the next step takes; a message's first need is its prefix."""
        if self._have < handshake.PREFIX_BYTES:
            return handshake.PREFIX_BYTES
        return handshake.PREFIX_BYTES + handshake.decode_prefix(self._buffer).body_bytes

    def frame_need(self) -> int:
        """The same of a frame, up to its payload. RemoteProtocolError for a header that breaks a rule."""
        if self._have < wire.HEADER_BYTES:
            return wire.HEADER_BYTES
        if self.header is None:
            self.header = wire.decode_header(self._buffer)
        return wire.HEADER_BYTES + self.header.metadata_bytes + wire.TAG_BYTES

    def receive(self, need: int) -> int:
        """One receive, if ``need`` bytes have not come yet: how many came, 0 at the end. Raises BlockingIOError."""
        ahead = max(need, min(limits.READ_AHEAD_BYTES, len(self._buffer)))
        if ahead > len(self._buffer):
            self._buffer.extend(bytes(ahead - len(self._buffer)))
        target = memoryview(self._buffer)[self._have : ahead]
        size = self._receive_local(target) if self._local else self._sock.recv_into(target)
        self._have += size
        return size

    def take(self, size: int) -> bytes:
        """The first ``size`` bytes, which have come; a buffer that a long message made large is small again."""
        message = bytes(self._buffer[:size])
        self._drop(size)
        if len(self._buffer) > limits.HEAD_BYTES >= self._have:
            del self._buffer[limits.HEAD_BYTES :]
        return message

    def pour(self, payload: Intake) -> None:
        """The part of a payload that was read along with its frame's head."""
        taken = 0
        while taken < self._have and payload.left:
            target = payload.window()[0]
            size = min(self._have - taken, len(target))
            target[:size] = self._buffer[taken : taken + size]
            taken += size
            payload.advance(size)
        self._drop(taken)

    def claim(self) -> int | None:
        """The descriptor that came with the frame that is being handled."""
        return self._descriptors.pop(0) if self._descriptors else None

    def close(self) -> None:
        """Idempotent."""
        close_all(self._descriptors)

    def _drop(self, size: int) -> None:
        self._buffer[: self._have - size] = self._buffer[size : self._have]
        self._have -= size

    def _receive_local(self, target: memoryview) -> int:
        size, ancillary, flags, _ = self._sock.recvmsg_into([target], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i", data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
                self._descriptors.extend(received)
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > limits.DESCRIPTORS_MAX:
            raise RemoteProtocolError("more descriptors than a client may send at once")
        return size
