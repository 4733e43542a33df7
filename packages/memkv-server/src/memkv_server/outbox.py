# SPDX-License-Identifier: Apache-2.0
"""What is still to be sent to a client, in order, with what is given back when its last byte is gone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from memkv_core.buffers import Cursor
from memkv_core.limits import WINDOW_BYTES
from memkv_server import limits
from memkv_server.engine.base import ReadBatch
from memkv_server.handler import Response


@dataclass(slots=True)
class _Output:
    cursor: Cursor
    read: ReadBatch | None
    response: Response | None  # to be told when it is sent


class Outbox:
    """Used by the lane's thread. ``release`` is called for each read whose values are sent."""

    __slots__ = ("_outputs", "_release", "_sock")

    def __init__(self, sock: socket.socket, release: Callable[[ReadBatch], None]) -> None:
        self._sock = sock
        self._release = release
        self._outputs: list[_Output] = []

    def __bool__(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._outputs)

    def send_whole(self, sealed: bytes) -> int:
        """What the socket takes now of a small answer: mostly all of it. Only while the box is empty."""
        try:
            return self._sock.send(sealed)
        except BlockingIOError:
            return 0

    def add(self, views: list[memoryview], read: ReadBatch | None, response: Response | None) -> None:
        self._outputs.append(_Output(Cursor(views), read, response))

    def send(self, size_max: int = WINDOW_BYTES) -> None:
        """A turn of sending, until the socket takes no more; about ``size_max`` bytes a system call at most.

        A ``size_max`` below a window says that others wait: then it is one call.

        Raises OSError where the connection is lost.
        """
        for _ in range(limits.SENDS_PER_TURN if size_max >= WINDOW_BYTES else 1):
            if not self._outputs:
                break
            output = self._outputs[0]
            try:
                output.cursor.advance(self._sock.sendmsg(output.cursor.window(size_max)))
            except BlockingIOError:
                return
            if output.cursor.left:
                continue
            del self._outputs[0]
            if output.read is not None:
                self._release(output.read)
            if output.response is not None:
                output.response.sent()

    def clear(self) -> Iterator[ReadBatch]:
        """Nothing of it is sent any more; the reads are the caller's to release."""
        outputs, self._outputs = self._outputs, []
        return (output.read for output in outputs if output.read is not None)
