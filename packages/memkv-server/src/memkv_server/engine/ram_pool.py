# SPDX-License-Identifier: Apache-2.0
"""What of a drive in direct mode is in memory: a bound that holds, and what may not be driven out. No device in sight.

Kept per page of 4 KiB, in frames of 512 pages: a byte of state for each page, and a count of the readers that hold it.
A frame exists while anything of its 2 MiB is in memory, so that what is noted here grows with the pool and not with
the drive. A page is::

    ABSENT    ──hold──► LOADING
    LOADING   ──arrived──► CLEAN       or, where nobody waits for it any more, ──► ABSENT
    CLEAN     ──hold──► USED           or ──the hand──► ABSENT
    USED      ──the hand──► CLEAN
    any       ──prepare──► PREPARED    a writer has it, and what was there is of no use
    PREPARED  ──dirty──► DIRTY         or ──discard──► ABSENT
    DIRTY     ──clean──► CLEAN         once it is on the drive

A hand goes around over the frames (CLOCK), those first into which nothing was loaded for longest: what was used again
since it came by gets a second chance, the rest makes room. What is read once does not drive out what is read often.
It passes over pages that a reader holds, and over those whose bytes are not on the drive yet (PREPARED, DIRTY).

Part of the pool is for what the engine itself looks at for a moment: neither readers nor writers get it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from memkv_server.engine.limits import POOL_BUSY_SHARE, POOL_SWEEP_BYTES, POOL_UNWRITTEN_SHARE

PAGE_BYTES: Final = 4096
FRAME_PAGES: Final = 512
FRAME_BYTES: Final = FRAME_PAGES * PAGE_BYTES
FRAME_OVERHEAD_BYTES: Final = 8192  # the kernel's page table for it, and what is noted here

Extent = tuple[int, int]  # (address on the drive, length), in bytes

_ABSENT, _LOADING, _CLEAN, _USED, _PREPARED, _DIRTY = range(6)
_LOADING_RUNS: Final = re.compile(b"\x01+")


def _table(*states: int) -> bytes:
    return bytes(states).ljust(256)


#                         from: ABSENT,   LOADING,  CLEAN,     USED,      PREPARED,  DIRTY
_HELD: Final = _table(_LOADING, _LOADING, _USED, _USED, _PREPARED, _DIRTY)
_ARRIVED: Final = _table(_ABSENT, _CLEAN, _CLEAN, _USED, _PREPARED, _DIRTY)
_LOST: Final = _table(_ABSENT, _ABSENT, _CLEAN, _USED, _PREPARED, _DIRTY)
_PREPARE: Final = _table(_PREPARED, _PREPARED, _PREPARED, _PREPARED, _PREPARED, _PREPARED)
_WRITTEN: Final = _table(_DIRTY, _LOADING, _DIRTY, _DIRTY, _DIRTY, _DIRTY)
_CLEANED: Final = _table(_ABSENT, _LOADING, _CLEAN, _USED, _PREPARED, _CLEAN)
_DISCARDED: Final = _table(_ABSENT, _LOADING, _CLEAN, _USED, _ABSENT, _DIRTY)
_AGED: Final = _table(_ABSENT, _LOADING, _CLEAN, _CLEAN, _PREPARED, _DIRTY)


class _Frame:
    __slots__ = ("holds", "pages", "resident")

    def __init__(self) -> None:
        self.pages = bytearray(FRAME_PAGES)
        self.holds: npt.NDArray[np.uint16] | None = None  # readers of each page; None: there are none
        self.resident = 0  # pages that are not ABSENT

    def hold(self, first: int, end: int) -> int:
        """One more reader of these pages; how many bytes are held that were not."""
        overhead = 0
        if self.holds is None:
            self.holds = np.zeros(FRAME_PAGES, dtype=np.uint16)
            overhead = FRAME_OVERHEAD_BYTES
        part = self.holds[first:end]
        before = int(np.count_nonzero(part))
        part += 1
        return (end - first - before) * PAGE_BYTES + overhead

    def release(self, first: int, end: int) -> int:
        """One reader less; how many bytes are held no longer."""
        assert self.holds is not None
        part = self.holds[first:end]
        part -= 1
        freed = (end - first - int(np.count_nonzero(part))) * PAGE_BYTES
        if freed and not self.holds.any():
            self.holds = None
            freed += FRAME_OVERHEAD_BYTES
        return freed


class RamPool:
    """The bookkeeping. One thread calls it, but for ``loading``.

    ``drop(start, length)`` gives the memory of an extent back, ``drop_frame(number)`` that of a whole frame.
    """

    def __init__(self, limit_bytes: int, drop: Callable[[int, int], None], drop_frame: Callable[[int], None]) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.held_bytes = 0
        self.unwritten_bytes = 0  # PREPARED and DIRTY
        self.loaded_bytes = 0  # since the start
        self.evicted_bytes = 0
        self._busy_max = int(limit_bytes * POOL_BUSY_SHARE)
        self._unwritten_max = int(limit_bytes * POOL_UNWRITTEN_SHARE)
        self._looked_at_max = limit_bytes - self._busy_max
        self._drop = drop
        self._drop_frame = drop_frame
        self._frames: OrderedDict[int, _Frame] = OrderedDict()  # the hand is at the first
        self._looked_at: list[Extent] = []  # held for the engine itself, until it looks at something else

    # -- readers ------------------------------------------------------------------------------------------------------
    def hold(self, extents: Sequence[Extent]) -> tuple[list[int], list[int]]:
        """Keeps extents in memory until ``release``. The positions of those to be loaded, and of those refused.

        A refused one found no room, and is not held.
        """
        missing: list[int] = []
        refused: list[int] = []
        for position, extent in enumerate(extents):
            absent = self._hold(extent, self._busy_max)
            if absent is None:
                refused.append(position)
            elif absent:
                missing.append(position)
        return missing, refused

    def look_at(self, extents: Sequence[Extent]) -> tuple[list[int], list[int]]:
        """As ``hold``, until the next call, and out of the part that is kept for this."""
        before, self._looked_at = self._looked_at, []
        self.release(before)
        missing: list[int] = []
        refused: list[int] = []
        left = self._looked_at_max
        for position, extent in enumerate(extents):
            left -= extent[1]
            absent = self._hold(extent, self.limit_bytes) if left >= 0 or not self._looked_at else None
            if absent is None:
                refused.append(position)
                continue
            self._looked_at.append(extent)
            if absent:
                missing.append(position)
        return missing, refused

    def release(self, extents: Iterable[Extent]) -> None:
        """The end of a ``hold`` of these extents. What never arrived, and nobody else waits for, is absent again."""
        for extent in extents:
            for number, first, end in _parts(extent):
                frame = self._frames[number]
                self.held_bytes -= frame.release(first, end)
                if _LOADING in frame.pages[first:end]:
                    self._forsake(number, first, end)
                elif not frame.resident and frame.holds is None:
                    self._forget(number)

    def _forsake(self, number: int, first: int, end: int) -> None:
        frame = self._frames[number]
        lost = np.frombuffer(frame.pages, dtype=np.uint8)[first:end] == _LOADING
        if frame.holds is not None:
            lost &= frame.holds[first:end] == 0
        for run_first, run_end in _runs(lost):
            self._drop(*_bytes_of(number, first + run_first, first + run_end))
            self._change(number, first + run_first, first + run_end, _LOST)

    def loading(self, extents: Iterable[Extent]) -> list[Extent]:
        """What of these extents must be read from the drive, neighbours joined. Any thread."""
        found: list[Extent] = []
        for extent in extents:
            for number, first, end in _parts(extent):
                frame = self._frames.get(number)
                if frame is None:
                    continue
                for run in _LOADING_RUNS.finditer(frame.pages, first, end):
                    _join(found, _bytes_of(number, run.start(), run.end()))
        return found

    def arrived(self, extent: Extent) -> None:
        """What was ``loading`` has been read."""
        for number, first, end in _parts(extent):
            if number in self._frames:
                self._change(number, first, end, _ARRIVED)

    # -- writers ------------------------------------------------------------------------------------------------------
    def prepare(self, extent: Extent, *, urgent: bool = False) -> bool:
        """Makes room for bytes that are about to be written here, and are never loaded. False: there is none.

        ``urgent``: out of the part that is neither for readers nor for writers.
        """
        parts = list(_parts(extent))
        need, fresh = self._needs(parts)
        if not urgent and (
            self.unwritten_bytes + fresh > self._unwritten_max
            or self.held_bytes + self.unwritten_bytes + fresh > self._busy_max
        ):
            return False
        while self.used_bytes + need > self.limit_bytes:
            if not self._make_room(need):
                return False
            need, _ = self._needs(parts)  # the hand may have come by here
        for number, first, end in parts:
            self._change(number, first, end, _PREPARE)
        return True

    def _needs(self, parts: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
        """What these pages take of the pool beside what they have, and how much of them does not wait for the drive."""
        need = fresh = 0
        for number, first, end in parts:
            frame = self._frames.get(number)
            pages = frame.pages[first:end] if frame is not None else bytes(end - first)
            need += pages.count(_ABSENT) * PAGE_BYTES + (FRAME_OVERHEAD_BYTES if frame is None else 0)
            fresh += (end - first - pages.count(_PREPARED) - pages.count(_DIRTY)) * PAGE_BYTES
        return need, fresh

    def dirty(self, extent: Extent) -> list[Extent]:
        """These bytes were written, and stay until they are ``clean``; those of them that did not wait for it yet."""
        found: list[Extent] = []
        for number, first, end in _parts(extent):
            frame = self._frames.get(number)
            if frame is not None and frame.pages.count(_DIRTY, first, end):
                fresh = re.finditer(b"[^\x05]+", bytes(frame.pages[first:end]))
                runs = [(first + run.start(), first + run.end()) for run in fresh]
            else:
                runs = [(first, end)]
            for run in runs:
                _join(found, _bytes_of(number, *run))
            self._change(number, first, end, _WRITTEN)
        return found

    def clean(self, extent: Extent) -> None:
        """What was dirty is on the drive."""
        for number, first, end in _parts(extent):
            if number in self._frames:
                self._change(number, first, end, _CLEANED)

    def discard(self, extent: Extent) -> None:
        """What was prepared will not be written."""
        for number, first, end in _parts(extent):
            frame = self._frames.get(number)
            if frame is not None and frame.pages.count(_PREPARED, first, end):
                for run in re.finditer(b"\x04+", bytes(frame.pages[first:end])):
                    self._drop(*_bytes_of(number, first + run.start(), first + run.end()))
                self._change(number, first, end, _DISCARDED)

    def is_absent(self, extent: Extent) -> bool:
        """Whether any page of it is neither in memory nor on its way there. Any thread."""
        for number, first, end in _parts(extent):
            frame = self._frames.get(number)
            if frame is None or frame.pages.count(_ABSENT, first, end):
                return True
        return False

    # -- room ---------------------------------------------------------------------------------------------------------
    def _hold(self, extent: Extent, busy_max: int) -> bool | None:
        """Holds an extent; whether anything of it must be loaded. None: there is no room."""
        parts = list(_parts(extent))
        need = fresh = 0
        for number, first, end in parts:
            frame = self._frames.get(number)
            if frame is None:
                frame = self._frames[number] = _Frame()
                self.used_bytes += FRAME_OVERHEAD_BYTES
            fresh += frame.hold(first, end)
            need += frame.pages.count(_ABSENT, first, end) * PAGE_BYTES
        self.held_bytes += fresh
        if (fresh and self.held_bytes + self.unwritten_bytes > busy_max) or not self._make_room(need):
            self.release([extent])
            return None
        absent = False
        for number, first, end in parts:
            self._change(number, first, end, _HELD)
            if _LOADING in self._frames[number].pages[first:end]:
                absent = True
                self._frames.move_to_end(number)
        return absent

    def _make_room(self, need: int) -> bool:
        """Evicts until so many bytes more are within the bound; False, and little is changed, where it cannot."""
        excess = self.used_bytes + need - self.limit_bytes
        if excess <= 0:
            return True
        if excess > self.used_bytes - self.held_bytes - self.unwritten_bytes:
            return False
        wanted = max(excess, min(POOL_SWEEP_BYTES, self.limit_bytes >> 6))
        target = self.used_bytes - wanted
        for _ in range(2 * len(self._frames)):  # once around takes the second chance, once more takes the page
            if self.used_bytes <= target or not self._frames:
                break
            self._sweep()
        return self.used_bytes + need <= self.limit_bytes

    def _sweep(self) -> None:
        """The hand at one frame."""
        number, frame = next(iter(self._frames.items()))
        pages = np.frombuffer(frame.pages, dtype=np.uint8)
        goes = pages == _CLEAN
        if frame.holds is not None:
            goes &= frame.holds == 0
        count = int(np.count_nonzero(goes))
        frame.pages[:] = frame.pages.translate(_AGED)
        if not count:
            self._frames.move_to_end(number)
            return
        pages[goes] = _ABSENT
        frame.resident -= count
        self.used_bytes -= count * PAGE_BYTES
        self.evicted_bytes += count * PAGE_BYTES
        if not frame.resident and frame.holds is None:
            self._forget(number)
            return
        for first, end in _runs(goes):
            self._drop(*_bytes_of(number, first, end))
        self._frames.move_to_end(number)

    def _forget(self, number: int) -> None:
        del self._frames[number]
        self.used_bytes -= FRAME_OVERHEAD_BYTES
        self._drop_frame(number)

    def _change(self, number: int, first: int, end: int, table: bytes) -> None:
        """Takes the pages of a frame to their next states, and keeps the sums."""
        frame = self._frames.get(number)
        if frame is None:
            frame = self._frames[number] = _Frame()
            self.used_bytes += FRAME_OVERHEAD_BYTES
        before = frame.pages[first:end]
        after = before.translate(table)
        if after == before:
            return
        frame.pages[first:end] = after
        gained = before.count(_ABSENT) - after.count(_ABSENT)
        frame.resident += gained
        self.used_bytes += gained * PAGE_BYTES
        self.loaded_bytes += max(0, after.count(_LOADING) - before.count(_LOADING)) * PAGE_BYTES
        unwritten = after.count(_PREPARED) + after.count(_DIRTY) - before.count(_PREPARED) - before.count(_DIRTY)
        self.unwritten_bytes += unwritten * PAGE_BYTES
        if not frame.resident and frame.holds is None:
            self._forget(number)


def _parts(extent: Extent) -> Iterator[tuple[int, int, int]]:
    """Frame number, first page in it and the page after the last, for each frame that the extent touches."""
    page = extent[0] // PAGE_BYTES
    last = -(-(extent[0] + extent[1]) // PAGE_BYTES)
    while page < last:
        number, first = divmod(page, FRAME_PAGES)
        end = min(FRAME_PAGES, first + last - page)
        yield number, first, end
        page += end - first


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where a mask is true: first position and the one after the last, of each run."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _join(extents: list[Extent], extent: Extent) -> None:
    """Adds an extent; to the last one, where it follows it."""
    if extents and sum(extents[-1]) == extent[0]:
        extents[-1] = extents[-1][0], extents[-1][1] + extent[1]
    else:
        extents.append(extent)


def _bytes_of(number: int, first: int, end: int) -> Extent:
    return (number * FRAME_PAGES + first) * PAGE_BYTES, (end - first) * PAGE_BYTES
