# SPDX-License-Identifier: Apache-2.0
"""Staging: memory of this client's own that is registered, for blocks in memory that is not.

Slots are taken for one call and given back after it. A slot that a server may still write to must not be used again:
whoever cannot prove that it will not leaves it in *quarantine* until he can. The memory is taken from the system when
the first slot is. Thread-safe.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from memkv_core.limits import MIB
from memkv_core.regions import Addresses, address_of

Memory = Callable[[int], mmap.mmap]


def anonymous_memory(size_bytes: int) -> mmap.mmap:
    """Private memory of the process; none of it is there before it is touched."""
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Staging:
    """``slot_count`` slots of ``slot_bytes`` each, one after the other in ``view``; the first ``opened`` are used."""

    def __init__(self, size_bytes: int, slot_bytes: int, *, memory: Memory = anonymous_memory) -> None:
        self.slot_bytes = slot_bytes
        self.slot_count = size_bytes // slot_bytes
        self.opened = 0
        self._make = memory
        self._lock = threading.Lock()
        self._memory: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._address = 0
        self._free: list[int] = []
        self._quarantined: set[int] = set()

    @classmethod
    def of_mb(cls, size_mb: int, slot_mb: int, *, memory: Memory = anonymous_memory) -> Staging:
        """As MEMKV_STAGING_SIZE_MB and MEMKV_STAGING_SLOT_MB say."""
        return cls(size_mb * MIB, slot_mb * MIB, memory=memory)

    @property
    def size_bytes(self) -> int:
        return self.slot_count * self.slot_bytes

    @property
    def memory(self) -> mmap.mmap:
        """All of it, taken from the system when it is first asked for."""
        with self._lock:
            return self._taken_memory()

    @property
    def address(self) -> int:
        """Of the first byte."""
        with self._lock:
            self._taken_memory()
            return self._address

    def _taken_memory(self) -> mmap.mmap:
        if self._memory is None:
            self._memory = self._make(self.size_bytes)
            self._view = memoryview(self._memory)
            self._address = address_of(self._view)
        return self._memory

    def area(self, first: int, slot_count: int) -> memoryview:
        """The memory of so many slots."""
        with self._lock:
            self._taken_memory()
        return self._view[first * self.slot_bytes : (first + slot_count) * self.slot_bytes]

    def open(self, slot_count: int) -> None:
        """Slots up to this count may be used: they are registered. Never fewer than before."""
        with self._lock:
            self._taken_memory()
            count = min(slot_count, self.slot_count)
            self._free.extend(range(self.opened, count))
            self.opened = max(self.opened, count)

    def take(self, size_bytes: int, known: int) -> list[int] | None:
        """Slots for so many bytes, of the first ``known`` ones, in ascending order; None where there are too few."""
        count = self.slots_of(size_bytes)
        with self._lock:
            self._free.sort()  # the lowest first: neighbours, and warm
            taken = self._free[:count]
            if len(taken) < count or (taken and taken[-1] >= known):
                return None
            del self._free[:count]
        return taken

    def address_of_run(self, slots: Sequence[int]) -> int | None:
        """Where the first of these slots begins; None unless each is followed by the next one."""
        if slots and slots[-1] - slots[0] == len(slots) - 1:
            return self._address + slots[0] * self.slot_bytes
        return None

    def slots_of(self, size_bytes: int) -> int:
        """How many slots so many bytes take."""
        return -(-size_bytes // self.slot_bytes)

    def renewed(self) -> Staging:
        """As large, and with nothing in it: for the child of a fork."""
        return Staging(self.size_bytes, self.slot_bytes, memory=self._make)

    def give_back(self, slots: Sequence[int]) -> None:
        """No server can write to them any more."""
        with self._lock:
            self._free.extend(slots)

    def quarantine(self, slots: Sequence[int]) -> None:
        """A server may still write to them: they are used again after ``pardon``."""
        with self._lock:
            self._quarantined.update(slots)

    def pardon(self, slots: Sequence[int]) -> None:
        """It has been proved that no server can write to these any more."""
        with self._lock:
            self._free.extend(self._quarantined.intersection(slots))
            self._quarantined.difference_update(slots)

    @property
    def quarantined_count(self) -> int:
        return len(self._quarantined)

    @property
    def free_count(self) -> int:
        return len(self._free)

    def pieces(
        self, slots: Sequence[int], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], Addresses, npt.NDArray[np.int64]]:
        """Where blocks are whose bytes are counted through the slots as in ``views``: (how many pieces each is in; the
        address of each piece; its size). No block is empty."""
        first, last = starts // self.slot_bytes, (starts + sizes - 1) // self.slot_bytes
        counts = last - first + 1
        bases = np.array(slots, np.int64) * self.slot_bytes
        if (counts == 1).all():
            return counts, (self._address + bases[first] + starts % self.slot_bytes).astype(np.uint64), sizes
        block = np.repeat(np.arange(len(starts)), counts)
        slot = first[block] + np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = np.maximum(starts[block], slot * self.slot_bytes)
        ends = np.minimum((starts + sizes)[block], (slot + 1) * self.slot_bytes)
        return counts, (self._address + bases[slot] + begins - slot * self.slot_bytes).astype(np.uint64), ends - begins

    def views(self, slots: Sequence[int], start: int, size_bytes: int) -> list[memoryview]:
        """The bytes from ``start`` on, counted through the slots as if they were one."""
        pieces: list[memoryview] = []
        while size_bytes:
            slot, offset = divmod(start, self.slot_bytes)
            size = min(size_bytes, self.slot_bytes - offset)
            at = slots[slot] * self.slot_bytes + offset
            pieces.append(self._view[at : at + size])
            start += size
            size_bytes -= size
        return pieces
