# SPDX-License-Identifier: Apache-2.0
"""Moves payload between the lane and memory that a client on this host shares: by ``preadv`` and ``pwritev``.

A client hands over descriptors of memory (memfd, tmpfs) on the node's Unix socket. The lane never maps them. The
kernel copies between the file and the lane's segments, one system call for all pieces that are neighbours in the file:

- A client that shrinks its file makes a short read, and a drive that does not give a page back makes EFAULT; over a
  mapping either would be a SIGBUS, and the end of the lane.
- Nothing has to be sealed, so memory of others (an engine's pool) can be shared as it is.
- What is left of a connection is its descriptors. Once they are closed nothing can be moved any more.

The measurements behind it are in ``docs/design/0007-shared-memory.md``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from memkv_core.limits import IOV_MAX
from memkv_core.places import NONCE_BYTES, Access, RegionKind, RegionRequest
from memkv_server.movers import MOVED, Move, Pieces, PlaceError

_TMPFS_MAGIC: Final = 0x01021994  # memfd as well; what lies on a drive or a network could keep a lane waiting
_INTERRUPTED: Final = (errno.EINTR, errno.EAGAIN)
_VECTOR: Final = np.dtype([("base", np.uint64), ("size", np.uint64)])  # struct iovec

_libc = ctypes.CDLL(None, use_errno=True)
_Transfer = Any  # of ctypes: (fd, vectors, count, offset) -> bytes moved, or -1
_preadv: Final[_Transfer] = _libc.preadv64
_pwritev: Final[_Transfer] = _libc.pwritev64
for _transfer in (_preadv, _pwritev):
    _transfer.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
    _transfer.restype = ctypes.c_ssize_t
_libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]


class ShmMover:
    """See ``movers.Mover``. ``turn_bytes`` are moved at a time, so that a lane's other clients have their turn."""

    def __init__(self, *, turn_bytes: int, regions_max: int) -> None:
        self._turn_bytes = turn_bytes
        self._regions_max = regions_max
        self._descriptors: dict[int, int] = {}  # by region
        self._unused: list[int] = []  # to be closed once no move can need them
        self._moves: list[_Move] = []

    def register(self, request: RegionRequest, descriptor: int | None) -> tuple[int, int, bytes]:
        """Keeps ``descriptor``, or closes it where it raises PlaceError. The key of a region is its descriptor."""
        if descriptor is None:
            raise PlaceError("a region of shared memory comes with a descriptor")
        try:
            if len(self._descriptors) >= self._regions_max:
                raise PlaceError(f"more than {self._regions_max} regions")
            _check(request, descriptor)
            answer = os.pread(descriptor, NONCE_BYTES, request.address) if request.access & Access.WRITE else b""
        except (PlaceError, OSError) as error:
            os.close(descriptor)
            raise PlaceError(str(error)) from error
        self._descriptors[request.region] = descriptor
        return request.address, descriptor, answer.ljust(NONCE_BYTES, b"\0")

    def deregister(self, region: int) -> None:
        descriptor = self._descriptors.pop(region, None)
        if descriptor is not None:
            self._unused.append(descriptor)
            self._close_unused()

    def read(self, pieces: Pieces) -> Move:
        return self._begin(_preadv, pieces)

    def write(self, pieces: Pieces, request_id: int) -> Move:
        return self._begin(_pwritev, pieces)

    def _begin(self, transfer: _Transfer, pieces: Pieces) -> Move:
        if not len(pieces.sizes):
            return MOVED
        move = _Move(transfer, pieces)
        self._moves.append(move)
        if len(self._moves) == 1:
            self.turn()
        return move

    def turn(self) -> bool:
        left = self._turn_bytes
        while self._moves and left > 0:
            left -= self._moves[0].advance(left)
            if self._moves[0].settled:
                del self._moves[0]
        self._close_unused()
        return bool(self._moves)

    def _close_unused(self) -> None:
        if not self._moves:
            while self._unused:
                os.close(self._unused.pop())

    def close(self, done: Callable[[], None]) -> None:
        for move in self._moves:
            move.fail("the connection ended")
        self._moves.clear()
        for region in list(self._descriptors):
            self.deregister(region)
        done()


class _Move:
    """See ``movers.Move``. Runs of pieces that are neighbours in one file are moved with one system call each."""

    def __init__(self, transfer: _Transfer, pieces: Pieces) -> None:
        self.settled = False
        self.failure: str | None = None
        self._transfer = transfer
        vectors = np.empty(len(pieces.sizes), _VECTOR)
        vectors["base"], vectors["size"] = pieces.local, pieces.sizes
        ends = pieces.remote + vectors["size"]
        splits = np.flatnonzero((pieces.remote[1:] != ends[:-1]) | (pieces.keys[1:] != pieces.keys[:-1])) + 1
        bounds = [0, *splits.tolist(), len(vectors)]
        self._runs = [
            (int(pieces.keys[first]), int(pieces.remote[first]), vectors[first:last], int(ends[last - 1]))
            for first, last in itertools.pairwise(bounds)
        ][::-1]  # (descriptor, where they begin in its file, memory of the lane, where they end)

    def advance(self, size_max: int) -> int:
        """Moves about so many bytes; how many it were."""
        moved = 0
        while self._runs and moved < size_max:
            descriptor, offset, vectors, end = self._runs.pop()
            some = vectors
            if end - offset > size_max - moved or len(vectors) > IOV_MAX:
                some = _first(vectors, size_max - moved)
            size = self._transfer(descriptor, some.ctypes.data, len(some), offset)
            if size <= 0:
                number = ctypes.get_errno() if size else 0
                if size < 0 and number in _INTERRUPTED:
                    self._runs.append((descriptor, offset, vectors, end))
                    continue
                self.fail(os.strerror(number) if number else "the region is shorter than it was")
                return moved
            moved += size
            offset += size
            if offset < end:
                self._runs.append((descriptor, offset, _after(vectors, size), end))
        self.settled = not self._runs
        return moved

    def fail(self, why: str) -> None:
        self._runs.clear()
        self.settled, self.failure = True, why


def _first(vectors: npt.NDArray[np.void], size_max: int) -> npt.NDArray[np.void]:
    """The first of the vectors, with about ``size_max`` bytes at most: a larger one is cut."""
    some: npt.NDArray[np.void] = vectors[:IOV_MAX]
    ends = np.cumsum(some["size"])
    if int(ends[-1]) <= size_max:
        return some
    count = int(np.searchsorted(ends, size_max, side="left")) + 1
    some = some[:count].copy()
    some["size"][-1] -= np.uint64(int(ends[count - 1]) - size_max)
    return some


def _after(vectors: npt.NDArray[np.void], size: int) -> npt.NDArray[np.void]:
    """What is left of the vectors after so many bytes."""
    ends = np.cumsum(vectors["size"])
    done = int(np.searchsorted(ends, size, side="right"))
    rest: npt.NDArray[np.void] = vectors[done:]
    partly = size - (int(ends[done - 1]) if done else 0)
    if partly:
        rest["base"][0] += np.uint64(partly)
        rest["size"][0] -= np.uint64(partly)
    return rest


def _check(request: RegionRequest, descriptor: int) -> None:
    """PlaceError unless it is memory, as large as announced, and opened for what is to be done with it."""
    if request.kind != RegionKind.SHM:
        raise PlaceError("over the Unix socket memory is shared by descriptor")
    if request.access & Access.WRITE and request.size_bytes < NONCE_BYTES:
        raise PlaceError("a region has no room for its nonce")
    found = os.fstat(descriptor)
    filesystem = (ctypes.c_long * 32)()  # struct statfs begins with the type
    if not stat.S_ISREG(found.st_mode) or _libc.fstatfs(descriptor, filesystem) or filesystem[0] != _TMPFS_MAGIC:
        raise PlaceError("the descriptor is of no shared memory")
    if found.st_size < request.address + request.size_bytes:
        raise PlaceError(f"the region ends at {request.address + request.size_bytes}, its memory at {found.st_size}")
    opened = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    wanted = os.O_RDWR if request.access & Access.WRITE else os.O_RDONLY
    if opened & os.O_APPEND or opened & os.O_ACCMODE not in (wanted, os.O_RDWR):
        raise PlaceError("the descriptor is not opened for this access")


def close_all(descriptors: list[int]) -> None:
    """Closes descriptors that nobody has claimed."""
    while descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptors.pop())
