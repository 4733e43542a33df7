# SPDX-License-Identifier: Apache-2.0
"""Moves payload between the lane and memory that a client on this host shares.

A client hands over descriptors of memory (memfd, tmpfs) on the node's Unix socket. Its staging, which nothing can take
a page away from, is mapped (``client_memory``) and copied to and from. Anything else, an engine's pool above all, the
lane never maps: the kernel copies between the file and the lane's segments by ``preadv`` and ``pwritev``, one system
call for all pieces that are neighbours in the file:

- A client that shrinks its file makes a short read, and a drive that does not give a page back makes EFAULT; over a
  mapping either would be a SIGBUS, and the end of the lane.
- Nothing has to be sealed, so memory of others can be shared as it is.
- What is left of a connection is its descriptors and mappings. Once they are gone nothing can be moved any more.

Where the lane's own memory is a mapping of a drive (``guarded``), its pages are brought in just before each copy, which
tells of one that the drive does not give back.

The measurements behind it are in ``docs/design/0007-shared-memory.md``.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import stat
from collections.abc import Callable
from typing import Final

import numpy as np

from memkv_core.places import NONCE_BYTES, Access, RegionKind, RegionRequest
from memkv_server.client_memory import ClientMemory
from memkv_server.movers import MOVED, Landed, Move, Pieces, PlaceError
from memkv_server.shm_runs import VECTOR, Copies, Vectors, preadv, pwritev

_TMPFS_MAGIC: Final = 0x01021994  # memfd as well; what lies on a drive or a network could keep a lane waiting

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]


class ShmMover:
    """See ``movers.Mover``. ``turn_bytes`` are moved at a time, so that a lane's other clients have their turn."""

    def __init__(self, *, turn_bytes: int, regions_max: int, guarded: bool = True) -> None:
        self._turn_bytes = turn_bytes
        self._regions_max = regions_max
        self._guarded = guarded
        self._descriptors: dict[int, int] = {}  # by region
        self._mapped: dict[int, ClientMemory] = {}  # by descriptor
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
            answer = b""
            if request.access & Access.WRITE:
                answer = os.pread(descriptor, NONCE_BYTES, request.address)
                if not request.address:
                    memory = ClientMemory.of(descriptor, request.size_bytes)
                    if memory is not None:
                        self._mapped[descriptor] = memory
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

    def read(self, pieces: Pieces, landed: Landed | None = None) -> Move:
        return self._begin(pieces, landed, into_lane=True)

    def write(self, pieces: Pieces, request_id: int) -> Move:
        return self._begin(pieces, None, into_lane=False)

    def _begin(self, pieces: Pieces, landed: Landed | None, *, into_lane: bool) -> Move:
        if not len(pieces.sizes):
            return MOVED
        move = _Move(self._runs(pieces, into_lane), landed)
        self._moves.append(move)
        if len(self._moves) == 1:
            self.turn()
        return move

    def _runs(self, pieces: Pieces, into_lane: bool) -> list[Copies | Vectors]:
        """The pieces in their order, split where they go on in another region or by other means."""
        keys = pieces.keys
        first_key = int(keys[0])
        if keys.tobytes() == keys[:1].tobytes() * len(keys):
            return self._runs_of_one(first_key, pieces, into_lane)
        splits = (np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist()
        runs: list[Copies | Vectors] = []
        for first, last in itertools.pairwise([0, *splits, len(keys)]):
            part = Pieces(
                pieces.local[first:last], pieces.remote[first:last], keys[first:last], pieces.sizes[first:last]
            )
            runs += self._runs_of_one(int(keys[first]), part, into_lane)
        return runs

    def _runs_of_one(self, key: int, pieces: Pieces, into_lane: bool) -> list[Copies | Vectors]:
        memory = self._mapped.get(key)
        if memory is not None:
            return [Copies(memory.address, pieces, into_lane=into_lane, guarded=self._guarded)]
        vectors = np.empty(len(pieces.sizes), VECTOR)
        vectors["base"], vectors["size"] = pieces.local, pieces.sizes
        ends = pieces.remote + vectors["size"]
        splits = (np.flatnonzero(pieces.remote[1:] != ends[:-1]) + 1).tolist()
        transfer = preadv if into_lane else pwritev
        return [
            Vectors(transfer, key, int(pieces.remote[first]), int(ends[last - 1]), vectors[first:last])
            for first, last in itertools.pairwise([0, *splits, len(vectors)])
        ]

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
                descriptor = self._unused.pop()
                memory = self._mapped.pop(descriptor, None)
                if memory is not None:
                    memory.close()
                os.close(descriptor)

    def close(self, done: Callable[[], None]) -> None:
        for move in self._moves:
            move.fail("the connection ended")
        self._moves.clear()
        for region in list(self._descriptors):
            self.deregister(region)
        done()


class _Move:
    """See ``movers.Move``. ``landed`` is told how many pieces are in place, now and then and in the end."""

    def __init__(self, runs: list[Copies | Vectors], landed: Landed | None) -> None:
        self.settled = False
        self.failure: str | None = None
        self._runs = runs[::-1]
        self._landed = landed
        self._done_count = 0  # pieces of earlier runs

    def advance(self, size_max: int) -> int:
        """Moves about so many bytes; how many it were."""
        moved = 0
        while self._runs and moved < size_max:
            run = self._runs[-1]
            step = size_max if self._landed is None else run.verified_bytes
            try:
                moved += run.advance(min(step, size_max - moved))
            except OSError as error:
                self.fail(error.strerror or str(error))
                return moved
            if run.done:
                del self._runs[-1]
            if self._landed is not None:
                self._landed(self._done_count + run.done_count)
            if run.done:
                self._done_count += run.done_count
        self.settled = not self._runs
        return moved

    def fail(self, why: str) -> None:
        self._runs.clear()
        self.settled, self.failure = True, why


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
