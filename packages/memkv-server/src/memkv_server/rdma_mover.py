# SPDX-License-Identifier: Apache-2.0
"""Moves by RDMA: one endpoint for one connection, its work and its completions.

What lies in registered memory goes straight there, one posting call for a batch. All other memory (the page cache,
which cannot be pinned for good, and mode direct's pool, whose pages come and go) goes through *bounce* slots that are
registered once, in *steps* of one slot each, so that the next is copied while the last is on the wire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from memkv_core.places import RegionKind, RegionRequest
from memkv_core.regions import Regions
from memkv_core.staging import Staging
from memkv_core.transports.verbs import Completion, Endpoint, VerbsError, WorkKind, WorkStatus, status_name
from memkv_core.transports.work import TRANSFER, SendQueue, Transfers
from memkv_server.movers import Landed, Move, Pieces, PlaceError, Settled

_STEPS_PER_TURN: Final = 1
_UNREADABLE: Final = "the drive does not give its pages"


class Memory(Protocol):
    """The registered memory of one device of a lane."""

    regions: Regions  # what is registered for good, and the bounce slots
    bounce: Staging

    def lkeys(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """The local key of each region."""

    def copy_out_of_store(
        self, sources: npt.NDArray[np.uint64], targets: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64]
    ) -> bool:
        """To bounce slots; False where the drive does not give it back."""

    def copy_into_store(
        self, sources: npt.NDArray[np.uint64], targets: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64]
    ) -> bool:
        """From bounce slots, likewise."""

    def poll(self) -> None:
        """Takes the completions that have come, of whichever mover."""

    def forget(self, mover: RdmaMover) -> None:
        """It was closed."""


class _RdmaMove:
    """See ``Move``."""

    def __init__(self, kind: WorkKind, imm: int | None) -> None:
        self.kind = kind
        self.imm = imm
        self.settled = False
        self.failure: str | None = None

    def settle(self, failure: str | None) -> None:
        if not self.settled:
            self.settled, self.failure = True, failure


class _Step:
    """A submission: all of a direct move, or a slot's worth of a bounced one."""

    def __init__(self, move: _RdmaMove, pieces: Pieces | None, slot: int | None, *, last: bool) -> None:
        self.move = move
        self.pieces = pieces
        self.slot = slot
        self.last = last


class RdmaMover:
    """See ``movers.Mover``."""

    def __init__(self, endpoint: Endpoint, memory: Memory) -> None:
        self.endpoint = endpoint
        self._memory = memory
        self._queue = SendQueue(endpoint)
        self._steps: dict[int, _Step] = {}  # by token: submitted
        self._next_token = 0
        self._begun: deque[tuple[_RdmaMove, Iterator[tuple[Pieces, bool]]]] = deque()  # bounced, with steps to come
        self._here: deque[_Step] = deque()  # read into their slots, to be copied on
        self._failure: str | None = None

    @property
    def post_calls(self) -> int:
        return self._queue.post_calls

    # -- the seam -----------------------------------------------------------------------------------------------------
    def register(self, request: RegionRequest, descriptor: int | None = None) -> tuple[int, int, bytes]:
        if request.kind != RegionKind.RDMA:
            raise PlaceError("this session moves by RDMA: a region of another kind is of no use to it")
        return request.address, request.rkey, b""

    def deregister(self, region: int) -> None:
        """Nothing is kept of a region."""

    def read(self, pieces: Pieces, landed: Landed | None = None) -> Move:
        return self._begin(WorkKind.READ, pieces, None)

    def write(self, pieces: Pieces, request_id: int) -> Move:
        return self._begin(WorkKind.WRITE, pieces, request_id)

    def turn(self) -> bool:
        self._memory.poll()
        for _ in range(_STEPS_PER_TURN):
            if self._here:
                self._copy_out(self._here.popleft())
            elif self._begun:
                self._next_step()
        return bool(self._here) or (bool(self._begun) and self._memory.bounce.free_count > 0)

    def close(self, done: Callable[[], None]) -> None:
        """The endpoint's fence is the end of every move, so ``done`` is called at once."""
        self._fail("the connection ended", fence=True)
        self.endpoint.close()
        self._memory.forget(self)
        done()

    # -- beginning ----------------------------------------------------------------------------------------------------
    def _begin(self, kind: WorkKind, pieces: Pieces, imm: int | None) -> Move:
        if self._failure is not None:
            return Settled(self._failure)
        move = _RdmaMove(kind, imm)
        numbers, _ = self._memory.regions.find(pieces.local, pieces.sizes)
        if (numbers >= 0).all():
            step = _Step(move, None, None, last=True)
            self._submit(step, _transfers(pieces.local, pieces, self._memory.lkeys(numbers)))
        else:
            self._begun.append((move, _cut(pieces, self._memory.bounce.slot_bytes)))
            self._next_step()
        return move

    def _next_step(self) -> None:
        """Copies into a slot and posts the next step of the first bounced move, if a slot is free."""
        bounce = self._memory.bounce
        slots = bounce.take(1, bounce.opened)
        if slots is None:
            return
        move, steps = self._begun[0]
        pieces, last = next(steps)
        if last:
            self._begun.popleft()
        step = _Step(move, pieces, slots[0], last=last)
        ends = np.cumsum(pieces.sizes)
        at = (bounce.address + slots[0] * bounce.slot_bytes + ends - pieces.sizes).astype(np.uint64)
        if move.kind is WorkKind.WRITE and not self._memory.copy_out_of_store(pieces.local, at, pieces.sizes):
            self._release(step)
            move.settle(_UNREADABLE)
            self._fail(_UNREADABLE, fence=True)
            return
        numbers, _ = self._memory.regions.find(at, pieces.sizes)
        self._submit(step, _transfers(at, pieces, self._memory.lkeys(numbers)))

    def _submit(self, step: _Step, transfers: Transfers) -> None:
        token = self._next_token
        self._next_token += 1
        self._steps[token] = step
        try:
            self._queue.submit(token, step.move.kind, transfers, step.move.imm if step.last else None)
        except VerbsError as error:
            self._fail(str(error), fence=True)

    # -- ending -------------------------------------------------------------------------------------------------------
    def completed(self, completion: Completion) -> None:
        """A completion of this endpoint."""
        try:
            finished = self._queue.completed(completion)
        except VerbsError as error:
            self._fail(str(error), fence=True)
            return
        for token, status in finished:
            step = self._steps.pop(token)
            if status != WorkStatus.SUCCESS:
                self._release(step)
                step.move.settle(f"RDMA: {status_name(status)}")
                self._failure = self._failure or f"RDMA: {status_name(status)}"
            elif step.slot is not None and step.move.kind is WorkKind.READ:
                self._here.append(step)
            else:
                self._release(step)
                if step.last:
                    step.move.settle(None)
        if self._failure is not None:
            self._fail(self._failure, fence=True)

    def _copy_out(self, step: _Step) -> None:
        """The values of a step, from its slot to where they are to be."""
        assert step.pieces is not None
        assert step.slot is not None
        bounce, sizes = self._memory.bounce, step.pieces.sizes
        at = bounce.address + step.slot * bounce.slot_bytes + np.cumsum(sizes) - sizes
        copied = self._memory.copy_into_store(at.astype(np.uint64), step.pieces.local, sizes)
        self._release(step)
        if not copied:
            step.move.settle(_UNREADABLE)
            self._fail(_UNREADABLE, fence=True)
        elif step.last:
            step.move.settle(None)

    def _release(self, step: _Step) -> None:
        if step.slot is not None:
            self._memory.bounce.give_back([step.slot])
            step.slot = None

    def _fail(self, why: str, *, fence: bool) -> None:
        """Ends every move; with the fence none of them moves a byte any more."""
        self._failure = why
        if fence:
            try:
                self.endpoint.to_error()
            except VerbsError:  # the device is gone: then so is whatever it moved
                self.endpoint.close()
        self._queue.fail()
        for step in [*self._steps.values(), *self._here]:
            self._release(step)
            step.move.settle(why)
        for move, _ in self._begun:
            move.settle(why)
        self._steps.clear()
        self._here.clear()
        self._begun.clear()


def _transfers(local: npt.NDArray[np.uint64], pieces: Pieces, lkeys: npt.NDArray[np.uint32]) -> Transfers:
    transfers = np.empty(len(local), TRANSFER)
    transfers["local"], transfers["remote"], transfers["bytes"] = local, pieces.remote, pieces.sizes
    transfers["lkey"], transfers["rkey"] = lkeys, pieces.keys
    return transfers


def _cut(pieces: Pieces, step_bytes: int) -> Iterator[tuple[Pieces, bool]]:
    """The pieces in steps of at most so many bytes, each with whether it is the last."""
    local, remote, keys, sizes = (column.tolist() for column in pieces)
    rows: list[tuple[int, int, int, int]] = []
    room = step_bytes
    for at, left in enumerate(sizes):
        moved = 0
        while moved < left:
            if not room:
                yield _pieces(rows), False
                rows, room = [], step_bytes
            size = min(left - moved, room)
            rows.append((local[at] + moved, remote[at] + moved, keys[at], size))
            moved += size
            room -= size
    yield _pieces(rows), True


def _pieces(rows: list[tuple[int, int, int, int]]) -> Pieces:
    local, remote, keys, sizes = zip(*rows)
    return Pieces(
        np.array(local, np.uint64), np.array(remote, np.uint64), np.array(keys, np.uint32), np.array(sizes, np.int64)
    )
