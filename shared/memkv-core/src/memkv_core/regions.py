# SPDX-License-Identifier: Apache-2.0
"""Which registered memory an address is in: a table of ranges under numbers. Pure, and a batch is one look-up.

Readers take the table as it is and need no lock; whoever changes it puts another in its place.
"""

from __future__ import annotations

import ctypes
import threading
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Addresses = npt.NDArray[np.uint64]

_char = ctypes.c_char
_addressof = ctypes.addressof


def address_of(view: memoryview) -> int:
    """Where the first byte of a view is that is not empty; 0.2 us, 1.5 us for read-only memory."""
    if view.readonly:
        return int(np.frombuffer(view, np.uint8).ctypes.data)
    return _addressof(_char.from_buffer(view))


def addresses_of(views: Sequence[memoryview]) -> Addresses:
    """The same of several."""
    return np.fromiter(map(address_of, views), np.uint64, len(views))


class Range(NamedTuple):
    """One registered range."""

    number: int
    address: int
    size_bytes: int


class _Table(NamedTuple):
    starts: Addresses  # sorted
    ends: Addresses
    numbers: Numbers
    first: list[int]  # the starts and ends, for one look-up
    last: list[int]


def _table(ranges: Sequence[Range]) -> _Table:
    ordered = sorted(ranges, key=lambda each: each.address)
    starts = np.array([each.address for each in ordered], np.uint64)
    ends = np.array([each.address + each.size_bytes for each in ordered], np.uint64)
    numbers = np.array([each.number for each in ordered], np.int64)
    return _Table(starts, ends, numbers, starts.tolist(), ends.tolist())


class Regions:
    """Registered ranges. Numbers are never used twice. Thread-safe.

    Where ranges overlap, an address is looked for in the one that starts last: it may then not be found, and is as if
    it had not been registered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ranges: dict[int, Range] = {}
        self._next_number = 1
        self._found = _table([])

    def add(self, address: int, size_bytes: int) -> Range:
        added = self.reserve(address, size_bytes)
        self.show(added)
        return added

    def reserve(self, address: int, size_bytes: int) -> Range:
        """A number for a range that is not registered yet, and not found before ``show``."""
        with self._lock:
            self._next_number += 1
            return Range(self._next_number - 1, address, size_bytes)

    def show(self, reserved: Range) -> None:
        with self._lock:
            self._ranges = {**self._ranges, reserved.number: reserved}
            self._found = _table(list(self._ranges.values()))

    def remove(self, number: int) -> None:
        """Idempotent."""
        with self._lock:
            self._ranges = {key: each for key, each in self._ranges.items() if key != number}
            self._found = _table(list(self._ranges.values()))

    def replace(self, ranges: dict[int, Range]) -> None:
        """These and no others, under numbers of the caller's."""
        with self._lock:
            self._ranges = ranges
            self._found = _table(list(ranges.values()))

    @property
    def ranges(self) -> dict[int, Range]:
        """By number; not to be altered."""
        return self._ranges

    def find_one(self, address: int, size_bytes: int) -> tuple[int, int]:
        """The same as ``find`` of one piece: (number or -1, offset)."""
        table = self._found
        at = bisect_right(table.first, address) - 1
        if at < 0 or address + size_bytes > table.last[at]:
            return -1, 0
        return int(table.numbers[at]), address - table.first[at]

    def find(self, addresses: Addresses, sizes: Numbers) -> tuple[Numbers, Addresses]:
        """(the number of the range that holds each of the pieces of memory, -1 where none does; its offset in it)."""
        table = self._found
        if not len(table.starts):
            return np.full(len(addresses), -1, np.int64), np.zeros(len(addresses), np.uint64)
        at = np.searchsorted(table.starts, addresses, side="right") - 1
        before = at < 0
        at[before] = 0
        held = addresses + sizes.astype(np.uint64) <= table.ends[at]
        held[before] = False
        return np.where(held, table.numbers[at], -1), addresses - table.starts[at]
