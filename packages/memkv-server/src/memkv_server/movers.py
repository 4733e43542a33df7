# SPDX-License-Identifier: Apache-2.0
"""The seam between a lane and what moves payload for it: RDMA, shared memory. Only movers touch either.

One mover serves one connection, and is used by the lane's thread only. It is handed *pieces*: so many bytes at this
address of the lane's, and at that one of the client's. What both are for it need not know: the extents of a
reservation (``read``), the views of a read batch (``write``). Life of a move::

    read, write ──► Move ──► settled: nothing of it moves any more; failure says whether it was moved

Whoever holds the memory keeps it until the move has settled, or until ``close`` has called back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from memkv_core.limits import REGIONS_MAX
from memkv_core.places import ARRAY_MIN, Places, RegionRequest
from memkv_core.regions import address_of, addresses_of


class PlaceError(Exception):
    """A place that is in no region of the session, or a region that cannot be had: the frame is refused."""


class MoverUnavailableError(Exception):
    """No mover can be had for a session now; its text is for the client."""


class Pieces(NamedTuple):
    """What is moved between ``local[i]`` and ``remote[i]``; arrays of one length, no size is 0."""

    local: npt.NDArray[np.uint64]
    remote: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint32]  # what the client's region is reached with (rdma: rkey)
    sizes: npt.NDArray[np.int64]


Landed = Callable[[int], None]  # told how many of a move's pieces are in place: the first so many


class Move(Protocol):
    """Something under way. It settles in the mover's ``turn`` or in an event of its own."""

    @property
    def settled(self) -> bool: ...

    @property
    def failure(self) -> str | None:
        """Once settled: why the bytes are not where they should be; None: they are."""


class Mover(Protocol):
    """Moves bytes for one connection."""

    def register(self, request: RegionRequest, descriptor: int | None) -> tuple[int, int, bytes]:
        """(the address of the region's first byte as ``Pieces.remote`` counts, its key, the answer's metadata).

        ``descriptor`` came along with the request (shm), and is the mover's. PlaceError where it cannot be reached.
        """

    def deregister(self, region: int) -> None:
        """The region is used no more."""

    def read(self, pieces: Pieces, landed: Landed | None = None) -> Move:
        """From the client's memory into the lane's. A mover that copies by itself says as it goes what has landed."""

    def write(self, pieces: Pieces, request_id: int) -> Move:
        """From the lane's memory into the client's."""

    def turn(self) -> bool:
        """A bounded share of what this process moves itself; True while there is more."""

    def close(self, done: Callable[[], None]) -> None:
        """Ends all moves. ``done`` is called once nothing can move any more and each has settled: at once, or later."""


class MoverSource(Protocol):
    """Makes the movers of a lane's connections."""

    def offer(self) -> Any:
        """What WELCOME says of it (a JSON value); None: nothing."""

    def active(self) -> bool:
        """Whether a connection that asked for a mover now would find a device that is up."""

    def connect(self, metadata: bytes, client: str) -> tuple[Mover, bytes]:
        """A mover for the session that sent this CONNECT frame, and the answer's metadata.

        MoverUnavailableError where there is none now; RemoteProtocolError for a frame that breaks a rule.
        """

    def watch(self, watch: Callable[[int, Callable[[], None]], None]) -> None:
        """Has a loop call this when a descriptor of its own is readable."""

    def close(self) -> None:
        """Ends what is left; the loop is at its end."""


class Settled:
    """A move that is done, or never began."""

    settled = True

    def __init__(self, failure: str | None = None) -> None:
        self.failure = failure


MOVED: Final = Settled()


class _Region(NamedTuple):
    access: int
    size_bytes: int
    address: int
    key: int


class Regions:
    """What one session has registered. Looked up by whole batches."""

    def __init__(self) -> None:
        self._regions: dict[int, _Region] = {}
        self._numbers: npt.NDArray[np.uint32] | None = None  # sorted; None: to be made anew
        self._columns: tuple[npt.NDArray[np.uint64], ...] = ()

    def __len__(self) -> int:
        return len(self._regions)

    def __contains__(self, number: int) -> bool:
        return number in self._regions

    def add(self, request: RegionRequest, address: int, key: int) -> None:
        """PlaceError beyond REGIONS_MAX."""
        if len(self._regions) >= REGIONS_MAX and request.region not in self._regions:
            raise PlaceError(f"more than {REGIONS_MAX} regions")
        self._regions[request.region] = _Region(request.access, request.size_bytes, address, key)
        self._numbers = None

    def remove(self, number: int) -> None:
        """Idempotent."""
        self._regions.pop(number, None)
        self._numbers = None

    def resolve(
        self, parts: npt.NDArray[np.void], access: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
        """(address, key) of each part. PlaceError where one is in no region that allows this access."""
        if not self._regions and len(parts):
            raise PlaceError("no region is registered")
        if len(parts) < ARRAY_MIN:
            return self._resolve_few(parts, access)
        numbers = self._numbers if self._numbers is not None else self._sorted()
        at = np.searchsorted(numbers, parts["region"])
        at[at == len(numbers)] = 0
        accesses, sizes, addresses, keys = self._columns
        offsets, size = parts["offset"], parts["bytes"].astype(np.uint64)
        room = sizes[at]
        good = (numbers[at] == parts["region"]) & (accesses[at] & np.uint64(access) != 0)
        good &= (offsets <= room) & (size <= room - np.minimum(offsets, room))
        if not good.all():
            raise _misplaced(*parts[int(np.argmin(good))].tolist())
        return addresses[at] + offsets, keys[at].astype(np.uint32)

    def _resolve_few(
        self, parts: npt.NDArray[np.void], access: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
        """The same without what an array operation costs however short it is."""
        addresses, keys = [], []
        for number, offset, size in parts.tolist():
            region = self._regions.get(number)
            if region is None or not region.access & access or offset + size > region.size_bytes:
                raise _misplaced(number, offset, size)
            addresses.append(region.address + offset)
            keys.append(region.key)
        return np.array(addresses, np.uint64), np.array(keys, np.uint32)

    def _sorted(self) -> npt.NDArray[np.uint32]:
        ordered = sorted(self._regions.items())
        columns = zip(*(region for _, region in ordered)) if ordered else iter(((), (), (), ()))
        access, sizes, addresses, keys = (np.array(column, np.uint64) for column in columns)
        self._columns = (access, sizes, addresses, keys)
        self._numbers = np.array([number for number, _ in ordered], np.uint32)
        return self._numbers


def _misplaced(number: int, offset: int, size: int) -> PlaceError:
    return PlaceError(f"{size} bytes at {offset} are not in region {number}")


def pair(
    places: Places, remote: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint32], views: Sequence[memoryview | None]
) -> Pieces:
    """The pieces of the values that there is memory for: each part with its share of its value's view.

    A view may be shorter than its parts (a GET's target had more room); what is left over is not moved.
    """
    lengths = np.fromiter((0 if view is None else len(view) for view in views), np.int64, len(views))
    if places.one_each and lengths.all():  # every value is there
        return Pieces(addresses_of(views), remote, keys, np.minimum(places.parts["bytes"], lengths))  # type: ignore[arg-type]
    bases = np.fromiter((address_of(view) if view else 0 for view in views), np.uint64, len(views))
    value = np.repeat(np.arange(len(views)), places.counts)  # of each part
    sizes = places.parts["bytes"].astype(np.int64)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    first = np.cumsum(places.counts, dtype=np.int64) - places.counts  # of each value
    begun = np.append(starts, ends[-1] if len(ends) else 0)[first]
    offsets = starts - begun[value]
    sizes = np.minimum(sizes, lengths[value] - offsets)
    moved = sizes > 0
    local = bases[value] + offsets.astype(np.uint64)
    return Pieces(local[moved], remote[moved], keys[moved], sizes[moved])


class MemoryMover:
    """Moves between addresses of one process: what shared memory is once it is mapped. A piece is at most a turn's."""

    def __init__(self, *, turn_bytes: int) -> None:
        self._turn_bytes = turn_bytes
        self._moves: list[_MemoryMove] = []

    def register(self, request: RegionRequest, descriptor: int | None = None) -> tuple[int, int, bytes]:
        return request.address, 0, b""

    def deregister(self, region: int) -> None:
        """Nothing is kept of a region."""

    def read(self, pieces: Pieces, landed: Landed | None = None) -> Move:
        return self._begin(pieces.remote, pieces.local, pieces.sizes)

    def write(self, pieces: Pieces, request_id: int) -> Move:
        return self._begin(pieces.local, pieces.remote, pieces.sizes)

    def _begin(
        self, sources: npt.NDArray[np.uint64], targets: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64]
    ) -> Move:
        move = _MemoryMove(list(zip(sources.tolist(), targets.tolist(), sizes.tolist())))
        self._moves.append(move)
        self.turn()
        return move

    def turn(self) -> bool:
        left = self._turn_bytes
        while self._moves and left > 0:
            left -= self._moves[0].advance(left)
            if self._moves[0].settled:
                del self._moves[0]
        return bool(self._moves)

    def close(self, done: Callable[[], None]) -> None:
        self.fail_all("the connection ended")
        done()

    def fail_all(self, why: str) -> None:
        """Moves under way end as they are."""
        for move in self._moves:
            move.fail(why)
        self._moves.clear()


class _MemoryMove:
    """See ``Move``."""

    def __init__(self, pieces: list[tuple[int, int, int]]) -> None:
        self._pieces = pieces[::-1]
        self.settled = not pieces
        self.failure: str | None = None

    def advance(self, size_max: int) -> int:
        """Moves about so many bytes; how many it were. The GIL is free meanwhile."""
        moved = 0
        while self._pieces and moved < size_max:
            source, target, left = self._pieces.pop()
            size = min(left, size_max - moved)
            ctypes.memmove(target, source, size)
            moved += size
            if size < left:
                self._pieces.append((source + size, target + size, left - size))
        self.settled = not self._pieces
        return moved

    def fail(self, why: str) -> None:
        self._pieces.clear()
        self.settled, self.failure = True, why
