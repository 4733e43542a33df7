# SPDX-License-Identifier: Apache-2.0
"""Memory as the transports see it: flat byte views, lists of them to gather from or scatter into, regions.

Pure: nothing here copies or reads a payload byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memkv_core import limits
from memkv_core.errors import InvalidArgumentError

Buffer = Any  # bytes, bytearray, memoryview, numpy array, mmap: whatever has the buffer protocol (PEP 688 is 3.12 only)
Block = Buffer | Sequence[Buffer]  # one block, whole or in several parts


def flat_view(buffer: Buffer) -> memoryview:
    """A one-dimensional view of unsigned bytes over ``buffer``; InvalidArgumentError unless it is contiguous."""
    try:
        view = buffer if type(buffer) is memoryview else memoryview(buffer)
        if view.format == "B" and view.ndim == 1 and view.c_contiguous:
            return view
        if not view.nbytes:  # no cast takes a shape with a zero in it
            return memoryview(bytearray())
        return view.cast("B")
    except (TypeError, ValueError, BufferError) as error:
        raise InvalidArgumentError(
            f"not a contiguous buffer: {type(buffer).__name__}", remedy="pass a C-contiguous buffer"
        ) from error


def parts_of(block: Block, *, writable: bool = False) -> list[memoryview]:
    """The flat, non-empty parts of one block; with ``writable`` a read-only part is an InvalidArgumentError."""
    pieces = block if isinstance(block, (list, tuple)) else (block,)
    parts = [flat_view(piece) for piece in pieces]
    if writable and any(part.readonly for part in parts):
        raise InvalidArgumentError("a target is read-only", remedy="pass writable memory, such as a bytearray")
    return [part for part in parts if part.nbytes]


def total_bytes(parts: Sequence[memoryview]) -> int:
    """How long the parts are together."""
    return sum(map(len, parts))


def prefix_parts(parts: Sequence[memoryview], size: int) -> list[memoryview]:
    """The first ``size`` bytes of a block's parts (``size`` is at most their total)."""
    taken = []
    for part in parts:
        if size >= len(part):
            taken.append(part)
        elif size:
            taken.append(part[:size])
        size -= min(size, len(part))
    return taken


class Cursor:
    """How far a list of views has been sent from or received into; hands out at most IOV_MAX of what is left.

    Used by one thread. ``left`` is in bytes.
    """

    __slots__ = ("_at", "_views", "left")

    def __init__(self, views: list[memoryview]) -> None:
        self._views = views
        self._at = 0
        self.left = total_bytes(views)

    def window(self) -> list[memoryview]:
        """What comes next, for one sendmsg or recvmsg_into: about WINDOW_BYTES, since a socket takes no more at once
        and each view handed over costs some 60 ns."""
        count = len(self._views) - self._at
        if self.left > limits.WINDOW_BYTES:
            count = max(1, min(count, count * limits.WINDOW_BYTES // self.left + 1))
        return self._views[self._at : self._at + min(count, limits.IOV_MAX)]

    def advance(self, size: int) -> None:
        """``size`` bytes of the window have been moved."""
        self.left -= size
        views, at = self._views, self._at
        while size:
            length = len(views[at])
            if size < length:
                views[at] = views[at][size:]
                break
            size -= length
            at += 1
        self._at = at


class Region:
    """Host memory that was registered once with a client (shm, rdma); over tcp a view and nothing more.

    ``close`` gives the registration up; the memory itself stays its owner's.
    """

    def __init__(self, view: memoryview) -> None:
        self.view = view

    @property
    def size_bytes(self) -> int:
        return self.view.nbytes

    def close(self) -> None:
        self.view = memoryview(b"")
