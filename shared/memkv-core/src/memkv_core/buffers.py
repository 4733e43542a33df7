# SPDX-License-Identifier: Apache-2.0
"""Memory as the transports see it: flat byte views, lists of them to gather from or scatter into, regions.

Pure: nothing here copies or reads a payload byte.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeGuard

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


def are_flat_views(blocks: Sequence[Any], *, writable: bool = False) -> TypeGuard[Sequence[memoryview]]:
    """Whether every block is one view that can be used as it is: flat, not empty, and ``writable`` where it must be.

    A fifth of a microsecond a block, where ``parts_of`` takes more than one.
    """
    if set(map(type, blocks)) != {memoryview}:
        return False
    try:
        return (
            {(block.format, block.ndim, block.c_contiguous) for block in blocks} == {("B", 1, True)}
            and 0 not in map(len, blocks)
            and not (writable and True in {block.readonly for block in blocks})
        )
    except ValueError:  # one was released: ``parts_of`` has the words for it
        return False


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

    Used by one thread. ``left`` is in bytes. The views' ends are added up once, so that a move costs two bisections
    however many views it covers.
    """

    __slots__ = ("_at", "_done", "_ends", "_views", "_window_bytes", "left")

    def __init__(self, views: list[memoryview]) -> None:
        self._views = views
        self._ends = list(accumulate(map(len, views)))
        self._at = self._done = 0
        self._window_bytes = limits.WINDOW_BYTES
        self.left = self._ends[-1] if views else 0

    def window(self, size_max: int = limits.WINDOW_BYTES) -> list[memoryview]:
        """What comes next, for one sendmsg or recvmsg_into.

        Twice what was moved last, and about ``size_max`` at most: each view handed over costs some 60 ns, moved or
        not. A single view may be longer.
        """
        size = min(self._window_bytes, size_max)
        if self.left <= size:
            return self._views[self._at : self._at + limits.IOV_MAX]
        until = bisect_left(self._ends, self._done + size, self._at) + 1
        return self._views[self._at : min(until, self._at + limits.IOV_MAX)]

    def advance(self, size: int) -> None:
        """``size`` bytes of the window have been moved."""
        self.left -= size
        self._done += size
        self._window_bytes = max(limits.WINDOW_BYTES_MIN, min(2 * size, limits.WINDOW_BYTES))
        self._at = at = bisect_right(self._ends, self._done, self._at)
        if self.left:
            view, rest = self._views[at], self._ends[at] - self._done
            if rest < len(view):
                self._views[at] = view[-rest:]


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
