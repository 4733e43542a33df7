# SPDX-License-Identifier: Apache-2.0
"""A call whose payload the server moves: where each block is, registered or staged, and what is left to do when it is
in place.

Registered memory is named as it is: no byte of it is touched here but by the digest. A block in any other memory
gets room in the staging slots: a PUT's is copied there before the frame goes, a GET's is copied out, and verified
where it was wanted, when it has come.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from memkv_core import wire
from memkv_core.buffers import prefix_parts
from memkv_core.errors import MemKVError, RefusedError, RemoteProtocolError
from memkv_core.limits import KIB, VALUE_BYTES_MAX
from memkv_core.places import PART, Places, encode_places, encode_run
from memkv_core.regions import Regions, address_of
from memkv_core.staging import Staging
from memkv_core.transports.base import Call
from memkv_core.transports.layout import Parts, lay_out
from memkv_core.wire import ErrorCode, Flag, Opcode, Status

_memmove: Final = ctypes.memmove

_VERIFIED_BYTES: Final = 256 * KIB  # that are copied before they are verified


def copy(sources: Sequence[memoryview], targets: Sequence[memoryview]) -> None:
    """Copies one list of views into another of the same length in bytes; the GIL is free meanwhile."""
    source_at = target_at = at = done = 0
    while at < len(sources):
        source, target = sources[at], targets[target_at]
        size = min(len(source) - source_at, len(target) - done)
        ctypes.memmove(address_of(target) + done, address_of(source) + source_at, size)
        source_at += size
        done += size
        if source_at == len(source):
            at, source_at = at + 1, 0
        if done == len(target):
            target_at, done = target_at + 1, 0


class Shelf:
    """What the calls on one path share: where memory is registered, the staging, and what is under way."""

    def __init__(
        self,
        regions: Regions,
        staging: Staging,
        *,
        puts_direct: bool,
        gets_direct: bool,
        depth: int,
        depth_of_puts: int | None = None,
    ) -> None:
        self.regions = regions
        self.staging = staging
        self.puts_direct = puts_direct  # a PUT's values from registered memory
        self.gets_direct = gets_direct  # a GET's to registered memory
        self.depth = depth  # of GETs
        self.depth_of_puts = depth_of_puts  # None: as many as there is room for
        self.slots_known = 0  # of the staging, by the server
        self.under_way: set[PlacedCall] = set()
        self.failed: set[PlacedCall] = set()  # their slots are not free before the path's fence
        self.gets_under_way = 0

    @property
    def puts_under_way(self) -> int:
        return len(self.under_way) - self.gets_under_way


class PlacedCall:
    """A ``Call`` whose payload the server moves, or if it must be (``inline``) goes as it would have without this.

    ``registered_bytes`` and ``staged_bytes`` tell, once it is done, how its values came or went.
    """

    def __init__(self, call: Call, shelf: Shelf) -> None:
        assert call.blocks is not None
        self.call = call
        self.opcode, self.kind, self.key_count = call.opcode, call.kind, call.key_count
        self.response_metadata_bytes = call.response_metadata_bytes
        self.sources: Parts = []
        self.blocks: Sequence[Parts] | None = None
        self.descriptor: int | None = None
        self.payload_bytes = 0
        self.slots: list[int] = []
        self.registered_bytes = self.staged_bytes = 0
        self.inline_cause: str | None = None
        self._shelf = shelf
        self._is_get = call.opcode == Opcode.GET
        self._blocks: Sequence[Parts] = call.blocks
        if self._is_get and max(map(_size, self._blocks), default=0) > VALUE_BYTES_MAX:
            self._blocks = [prefix_parts(parts, min(_size(parts), VALUE_BYTES_MAX)) for parts in self._blocks]
        direct = shelf.gets_direct if self._is_get else shelf.puts_direct
        self._layout = lay_out(self._blocks, shelf.regions, direct=direct)
        self._base: int | None = None  # where the slots begin, if they are neighbours
        self._scatter: list[tuple[int, int]] = []  # (place, length) of each hit
        self._placed = False

    # -- a call, to whoever runs it -----------------------------------------------------------------------------------
    @property
    def flags(self) -> int:
        return self.call.flags

    @flags.setter
    def flags(self, flags: int) -> None:
        self.call.flags = flags

    @property
    def started(self) -> bool:
        return self.call.started

    @started.setter
    def started(self, started: bool) -> None:
        self.call.started = started

    @property
    def done(self) -> bool:
        return self.call.done

    @done.setter
    def done(self, done: bool) -> None:
        self.call.done = done
        self._count()
        self._leave()

    @property
    def error(self) -> MemKVError | None:
        return self.call.error

    @error.setter
    def error(self, error: MemKVError | None) -> None:
        """The server refused it, or could not move all of it: then what it did move may still be on its way here."""
        self.call.error = error
        if isinstance(error, RefusedError) and error.code == ErrorCode.MOVE_FAILED:
            self._shelf.failed.add(self)
            self._leave(keep_slots=True)
        else:
            self._leave()

    @property
    def placed(self) -> bool:
        """Whether it went with PLACED."""
        return self._placed

    @property
    def staged_need(self) -> int:
        """Room that it wants in the staging."""
        return 0 if self._layout.too_many_parts else self._layout.staged_bytes

    def prepare(self) -> bool:
        """Takes what it needs; False where it must wait for an earlier call of the same path."""
        shelf, layout = self._shelf, self._layout
        if layout.too_many_parts or shelf.failed:
            self._inline("parts" if layout.too_many_parts else "move failed")
            return True
        if self._is_get and shelf.gets_under_way >= shelf.depth:
            return False
        if not self._is_get and shelf.depth_of_puts is not None and shelf.puts_under_way >= shelf.depth_of_puts:
            return False
        if layout.staged_bytes:
            slots = shelf.staging.take(layout.staged_bytes, shelf.slots_known)
            if slots is None:
                if shelf.under_way:
                    return False
                self._inline("staging")
                return True
            self.slots = slots
            self._base = shelf.staging.address_of_run(slots)
        self._placed = True
        self.call.flags |= Flag.PLACED
        shelf.under_way.add(self)
        shelf.gets_under_way += self._is_get
        return True

    def _inline(self, cause: str) -> None:
        self.inline_cause = cause
        self.sources, self.payload_bytes = self.call.sources, self.call.payload_bytes

    def metadata_while(self, read: Callable[[int, int], None]) -> bytes:
        """It makes use of that itself."""
        read(0, self.key_count)
        return self.metadata

    @property
    def metadata(self) -> bytes:
        if not self._placed:
            return self.call.metadata
        metadata = self.call.metadata if self._is_get else self.call.metadata_while(self._copy_in)
        return metadata + self._encoded_places()

    def _encoded_places(self) -> bytes:
        layout, shelf = self._layout, self._shelf
        if layout.counts is None and self._base is not None and layout.staged:
            number, offset = shelf.regions.find_one(self._base, layout.staged_bytes)
            if number >= 0:
                return encode_run(len(self._blocks), layout.staged, number, offset)
        return encode_places(self.places())

    def places(self) -> Places:
        """Where its blocks are, those that are staged in the slots it holds."""
        layout, regions = self._layout, self._shelf.regions
        counts = np.zeros(len(self._blocks), np.uint16) if layout.counts is None else layout.counts.copy()
        if not layout.staged:
            return Places(counts, layout.parts)
        where = np.array(list(layout.staged.values()), np.int64)
        pieces, addresses, sizes = self._shelf.staging.pieces(self.slots, where[:, 0], where[:, 1])
        staged = np.empty(len(sizes), PART)
        staged["region"], staged["offset"] = regions.find(addresses, sizes)
        staged["bytes"] = sizes
        owners = np.fromiter(layout.staged, np.int64, len(layout.staged))
        counts[owners] = pieces
        if not len(layout.parts):
            return Places(counts, staged)
        is_staged = np.zeros(len(counts), np.bool_)
        is_staged[owners] = True
        of_staged = np.repeat(is_staged, counts)
        parts = np.empty(len(of_staged), PART)
        parts[of_staged], parts[~of_staged] = staged, layout.parts
        return Places(counts, parts)

    def _copy_in(self, first: int, end: int) -> None:
        """The blocks at these places into the staging, where they go by it; they have just been read."""
        staged = self._layout.staged
        for place in range(first, end):
            if place in staged:
                self._copy(place, staged[place][1], out=False)

    def _copy(self, place: int, size: int, *, out: bool) -> None:
        """The first bytes of a staged block, out of the staging or into it."""
        block, base, offset = self._blocks[place], self._base, self._layout.staged[place][0]
        if base is not None and len(block) == 1:
            mine = address_of(block[0])
            if out:
                _memmove(mine, base + offset, size)
            else:
                _memmove(base + offset, mine, size)
            return
        staged = self._shelf.staging.views(self.slots, offset, size)
        copy(*((staged, prefix_parts(block, size)) if out else (block, staged)))

    def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
        if not self._placed:
            return self.call.accept(header, metadata)
        if self._is_get and not header.flags & Flag.PLACED:
            raise RemoteProtocolError("an answer that does not say that the values were placed")
        self.call.accept(header, metadata)
        if self._is_get:
            count = self.key_count
            lengths = np.frombuffer(metadata, "<u4", count, 2 * count).tolist()
            self._scatter = [
                (place, lengths[place]) for place, status in enumerate(metadata[:count]) if status == Status.HIT
            ]
        return []

    def landed(self, received_bytes: int) -> None:
        """All of it is in place: what was staged is copied to where it was wanted, then verified there."""
        if not self._placed:
            self.call.landed(received_bytes)
            return
        staged, total, verified = self._layout.staged, 0, 0
        for place, length in self._scatter:
            total += length
            if place in staged and length:
                self._copy(place, length, out=True)
                if total - verified >= _VERIFIED_BYTES:  # while it is in the cache
                    self.call.landed(total)
                    verified = total
        self.call.landed(total)

    # -- bookkeeping --------------------------------------------------------------------------------------------------
    def _count(self) -> None:
        if not self._placed:
            return
        moved = self._scatter if self._is_get else enumerate(map(_size, self._blocks))
        for place, length in moved:
            if place in self._layout.staged:
                self.staged_bytes += length
            else:
                self.registered_bytes += length

    def _leave(self, *, keep_slots: bool = False) -> None:
        """It is answered: its slots are for others, where nothing moves for it any more."""
        shelf = self._shelf
        if self in shelf.under_way:
            shelf.under_way.remove(self)
            shelf.gets_under_way -= self._is_get
            if not keep_slots:
                shelf.staging.give_back(self.slots)
                self.slots = []
        self.call.flags &= ~Flag.PLACED

    def cut_off(self) -> list[int]:
        """Its path is gone, in the middle of it perhaps: the slots it held. The call may be run again."""
        self.call.flags &= ~Flag.PLACED
        slots, self.slots = self.slots, []
        return slots


def _size(parts: Sequence[memoryview]) -> int:
    return sum(map(len, parts))
