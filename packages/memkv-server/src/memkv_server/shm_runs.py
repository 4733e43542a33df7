# SPDX-License-Identifier: Apache-2.0
"""What a ``ShmMover`` moves in one go: copies from and to a mapping, and the system calls where nothing is mapped."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from memkv_core.limits import IOV_MAX
from memkv_server.client_memory import populate
from memkv_server.limits import SHM_VERIFIED_BYTES
from memkv_server.movers import Pieces

VECTOR: Final = np.dtype([("base", np.uint64), ("size", np.uint64)])  # struct iovec
_INTERRUPTED: Final = (errno.EINTR, errno.EAGAIN)
_memmove: Final = ctypes.memmove

_libc = ctypes.CDLL(None, use_errno=True)
Transfer = Any  # of ctypes: (fd, vectors, count, offset) -> bytes moved, or -1
preadv: Final[Transfer] = _libc.preadv64
pwritev: Final[Transfer] = _libc.pwritev64
for _transfer in (preadv, pwritev):
    _transfer.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
    _transfer.restype = ctypes.c_ssize_t


class Copies:
    """Pieces in a region that is mapped, from or to the lane's memory."""

    def __init__(self, base: int, pieces: Pieces, *, into_lane: bool, guarded: bool) -> None:
        self.done_count = 0
        self._local: list[int] = pieces.local.tolist()
        self._remote: list[int] = [base + at for at in pieces.remote.tolist()]
        self._sizes: list[int] = pieces.sizes.tolist()
        self._into_lane = into_lane
        self._guarded = guarded
        self._begun = 0  # bytes of the next piece that are in place

    @property
    def done(self) -> bool:
        return self.done_count == len(self._sizes)

    @property
    def verified_bytes(self) -> int:
        """What to move before a look at what has landed: a digest is of a whole piece, so no share of one."""
        return max(SHM_VERIFIED_BYTES, self._sizes[self.done_count] - self._begun)

    def advance(self, size_max: int) -> int:
        """Whole pieces, of so many bytes at most together, or a share of a larger one. Raises OSError."""
        first, moved = self.done_count, self._cut_piece(size_max)
        if moved:
            return moved
        last, sizes = first, self._sizes
        while last < len(sizes) and moved + sizes[last] <= size_max:
            moved += sizes[last]
            last += 1
        local = self._local[first:last]
        if self._guarded:
            self._populate(local, sizes[first:last], moved)
        remote = self._remote[first:last]
        targets, sources = (local, remote) if self._into_lane else (remote, local)
        for target, source, size in zip(targets, sources, sizes[first:last]):
            _memmove(target, source, size)
        self.done_count = last
        return moved

    def _cut_piece(self, size_max: int) -> int:
        """A share of the next piece, where it is larger than a share; 0: it is not."""
        at, begun = self.done_count, self._begun
        left = self._sizes[at] - begun
        if not begun and left <= size_max:
            return 0
        size = min(left, size_max)
        local, remote = self._local[at] + begun, self._remote[at] + begun
        if self._guarded:
            self._populate([local], [size], size)
        _memmove(*((local, remote) if self._into_lane else (remote, local)), size)
        self._begun += size
        if size == left:
            self.done_count, self._begun = at + 1, 0
        return size

    def _populate(self, addresses: list[int], sizes: list[int], total: int) -> None:
        """Neighbours in one call, where little lies between them."""
        start = min(addresses)
        end = max(map(int.__add__, addresses, sizes))
        extents = [(start, end - start)] if end - start <= 2 * total else list(zip(addresses, sizes))
        for address, size in extents:
            if not populate(address, size, writable=self._into_lane):
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


class Vectors:
    """Pieces that are neighbours in one file, moved by system calls."""

    verified_bytes = 4 * SHM_VERIFIED_BYTES

    def __init__(self, transfer: Transfer, descriptor: int, offset: int, end: int, vectors: npt.NDArray[np.void]):
        self.done_count = 0
        self._transfer = transfer
        self._descriptor = descriptor
        self._offset = offset
        self._end = end
        self._vectors = vectors

    @property
    def done(self) -> bool:
        return self._offset == self._end

    def advance(self, size_max: int) -> int:
        """One system call for about so many bytes. Raises OSError."""
        vectors = self._vectors
        some = vectors
        if self._end - self._offset > size_max or len(vectors) > IOV_MAX:
            some = _first(vectors, size_max)
        while True:
            size: int = self._transfer(self._descriptor, some.ctypes.data, len(some), self._offset)
            if size > 0:
                break
            number = ctypes.get_errno() if size else 0
            if not size or number not in _INTERRUPTED:
                why = os.strerror(number) if number else "the region is shorter than it was"
                raise OSError(number, why)
        self._offset += size
        if self._offset < self._end:
            self._vectors = _after(vectors, size)
            self.done_count += len(vectors) - len(self._vectors)
        else:
            self.done_count += len(vectors)
        return size


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
