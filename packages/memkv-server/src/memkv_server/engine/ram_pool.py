# SPDX-License-Identifier: Apache-2.0
"""What of a drive in direct mode is in memory: a bound that holds, and who may not be driven out. No device in sight.

Space is counted in pages of 4 KiB and given back in frames of 2 MiB, those not used for longest first. A page is::

    ABSENT ──hold──► LOADING ──arrived──► CLEAN ◄──clean── UNWRITTEN
       │                                    │                  ▲
       └────────────────prepare─────────────┴──────────────────┘

A frame stays while a reader holds a part of it, and while anything in it is not on the medium yet.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

PAGE_BYTES: Final = 4096
FRAME_PAGES: Final = 512
FRAME_OVERHEAD_BYTES: Final = 8192  # its page table, and what is noted here

Extent = tuple[int, int]  # (address on the drive, length), in bytes

_ABSENT, _CLEAN, _LOADING, _UNWRITTEN = range(4)
_LOADING_RUNS: Final = re.compile(b"\x02+")
_TO_LOADING: Final = bytes([_LOADING, _CLEAN, _LOADING, _UNWRITTEN]).ljust(256)
_ARRIVED: Final = bytes([_ABSENT, _CLEAN, _CLEAN, _UNWRITTEN]).ljust(256)
_NOT_ARRIVED: Final = bytes([_ABSENT, _CLEAN, _ABSENT, _UNWRITTEN]).ljust(256)
_TO_UNWRITTEN: Final = bytes([_UNWRITTEN] * 4).ljust(256)
_TO_CLEAN: Final = bytes([_ABSENT, _CLEAN, _LOADING, _CLEAN]).ljust(256)


class _Frame:
    __slots__ = ("holds", "pages", "unwritten")

    def __init__(self) -> None:
        self.pages = bytearray(FRAME_PAGES)
        self.holds = 0
        self.unwritten = 0  # pages

    @property
    def occupied_bytes(self) -> int:
        return FRAME_OVERHEAD_BYTES + (FRAME_PAGES - self.pages.count(_ABSENT)) * PAGE_BYTES


class RamPool:
    """The bookkeeping. ``drop`` gives the memory of a frame back. One thread calls it."""

    def __init__(self, limit_bytes: int, drop: Callable[[int], None]) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.dropped_frames = 0
        self._frames: OrderedDict[int, _Frame] = OrderedDict()  # those used last at the end
        self._drop = drop

    # -- readers ------------------------------------------------------------------------------------------------------
    def hold(self, extents: Sequence[Extent]) -> tuple[list[Extent], list[int]]:
        """Keeps extents in memory until ``release``. Returns what of them must be loaded, and who found no room.

        The first are extents of whole pages, the second positions, of which nothing is held.
        """
        missing: list[Extent] = []
        refused: list[int] = []
        for position, extent in enumerate(extents):
            if not self._admit(extent):
                refused.append(position)
                continue
            for number, first, end in _parts(extent):
                frame = self._frames[number]
                self._change(frame, first, end, _TO_LOADING)
                for run in _LOADING_RUNS.finditer(frame.pages, first, end):
                    page = number * FRAME_PAGES + run.start()
                    missing.append((page * PAGE_BYTES, (run.end() - run.start()) * PAGE_BYTES))
        return _joined(missing), refused

    def arrived(self, extents: Sequence[Extent], *, whole: bool = True) -> None:
        """Extents that ``hold`` returned as missing were loaded, or could not be."""
        for extent in extents:
            for number, first, end in _parts(extent):
                self._change(self._frames[number], first, end, _ARRIVED if whole else _NOT_ARRIVED)

    def release(self, extents: Sequence[Extent]) -> None:
        """The end of a ``hold`` of these extents."""
        for extent in extents:
            for number, _, _ in _parts(extent):
                self._frames[number].holds -= 1

    # -- writers ------------------------------------------------------------------------------------------------------
    def prepare(self, extent: Extent) -> bool:
        """Makes room for bytes that are about to be written here, and are never loaded. False: there is none."""
        if not self._admit(extent):
            return False
        for number, first, end in _parts(extent):
            frame = self._frames[number]
            self._change(frame, first, end, _TO_UNWRITTEN)
            frame.holds -= 1
        return True

    def clean(self, extents: Sequence[Extent]) -> None:
        """The bytes are on the medium, or nobody wants them any more."""
        for extent in extents:
            for number, first, end in _parts(extent):
                frame = self._frames.get(number)
                if frame is not None:
                    self._change(frame, first, end, _TO_CLEAN)

    # -- room ---------------------------------------------------------------------------------------------------------
    def _admit(self, extent: Extent) -> bool:
        """Holds the frames of an extent, and accounts for what of it is not in memory."""
        parts = list(_parts(extent))
        need = 0
        for number, first, end in parts:
            frame = self._frames.get(number)
            if frame is None:
                need += FRAME_OVERHEAD_BYTES + (end - first) * PAGE_BYTES
                continue
            self._frames.move_to_end(number)
            frame.holds += 1
            need += frame.pages.count(_ABSENT, first, end) * PAGE_BYTES
        if not self._make_room(need):
            for number, _, _ in parts:
                if number in self._frames:
                    self._frames[number].holds -= 1
            return False
        for number, _, _ in parts:
            if number not in self._frames:
                self._frames[number] = frame = _Frame()
                frame.holds = 1
                self.used_bytes += FRAME_OVERHEAD_BYTES
        return True

    def _make_room(self, need: int) -> bool:
        if self.used_bytes + need <= self.limit_bytes:
            return True
        excess = self.used_bytes + need - self.limit_bytes
        victims: list[int] = []
        for number, frame in self._frames.items():
            if not (frame.holds or frame.unwritten):
                victims.append(number)
                excess -= frame.occupied_bytes
                if excess <= 0:
                    break
        for number in victims if excess <= 0 else ():
            self.used_bytes -= self._frames.pop(number).occupied_bytes
            self.dropped_frames += 1
            self._drop(number)
        return excess <= 0

    def _change(self, frame: _Frame, first: int, end: int, table: bytes) -> None:
        before = frame.pages[first:end]
        after = before.translate(table)
        frame.pages[first:end] = after
        frame.unwritten += after.count(_UNWRITTEN) - before.count(_UNWRITTEN)
        self.used_bytes += (before.count(_ABSENT) - after.count(_ABSENT)) * PAGE_BYTES


def _parts(extent: Extent) -> Iterator[tuple[int, int, int]]:
    """The frames an extent lies in: number, first page, end, pages counted within the frame."""
    first = extent[0] // PAGE_BYTES
    end = -(-(extent[0] + extent[1]) // PAGE_BYTES)
    while first < end:
        number, at = divmod(first, FRAME_PAGES)
        stop = min(FRAME_PAGES, at + end - first)
        yield number, at, stop
        first += stop - at


def _joined(extents: list[Extent]) -> list[Extent]:
    """Extents that follow each other as one."""
    joined: list[Extent] = []
    for start, length in extents:
        if joined and sum(joined[-1]) == start:
            joined[-1] = joined[-1][0], joined[-1][1] + length
        else:
            joined.append((start, length))
    return joined
