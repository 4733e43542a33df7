# SPDX-License-Identifier: Apache-2.0
"""A medium beneath a page cache, in memory: what outlives a process, and what outlives the power.

::

    the engine's stores ──► memory, the page cache ──── write back, any page at any time ────► data, the medium
                             lost with the power         all of it: a sync                     what is left then

* A process that dies loses nothing: its stores are in the page cache. What it had under way is cut off between two of
  them.
* When the power fails, each page that differs from the medium may have reached it or not, whatever the order in which
  the pages were written; a page under way may be torn between its sectors, of 512 or 4096 bytes. A page that was
  written twice may be there in its first state: ``write_back`` put it there in between.
* Pages of the medium can rot (``flip``) and become unreadable (``bad``). Pages that are not in the cache are *cold*:
  their memory is filled with ``POISON``, so that who touches them without a fetch is found out.

Nothing here is random by itself: each call is given its ``random.Random``.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from memkv_server.engine.superblock import Geometry

PAGE_BYTES: Final = 4096
SECTOR_BYTES: Final = (512, 4096)  # what a drive writes whole or not at all
POISON: Final = 0xDB

Bytes = npt.NDArray[np.uint8]


class PageCache(mmap.mmap):
    """The memory an engine stores to. ``before_store`` is called before each store by index or slice."""

    before_store: Callable[[int], None] | None = None

    def __setitem__(self, place: Any, value: Any) -> None:
        if self.before_store is not None:
            self.before_store(place.start if isinstance(place, slice) else place)
        super().__setitem__(place, value)


class Disk:
    """One drive. ``memory`` changes with every process that begins: a dead one's stores go nowhere."""

    def __init__(self, geometry: Geometry, sector_bytes: int = SECTOR_BYTES[0], seed: int = 0) -> None:
        self.geometry = geometry
        self.rng = Random(seed)  # for what is decided without a fault
        self.sector_bytes = sector_bytes
        self.data: Bytes = np.zeros(geometry.data_bytes, dtype=np.uint8)
        self.registry = bytearray(geometry.registry_bytes)  # written through: there is no cache above it
        pages = geometry.data_bytes // PAGE_BYTES
        self.cold = np.ones(pages, dtype=bool)
        self.bad = np.zeros(pages, dtype=bool)
        self._renew(np.full(geometry.data_bytes, POISON, dtype=np.uint8))

    def _renew(self, content: Bytes) -> None:
        self.memory = PageCache(-1, self.geometry.data_bytes)
        self.cache: Bytes = np.frombuffer(self.memory, dtype=np.uint8)
        self.cache[:] = content

    # -- the page cache ------------------------------------------------------------------------------------------------
    def dirty(self) -> npt.NDArray[np.intp]:
        """The pages that differ from the medium."""
        differs = self.cache.view(np.uint64) != self.data.view(np.uint64)
        pages = differs.reshape(-1, PAGE_BYTES // 8).any(axis=1)
        return np.flatnonzero(pages & ~self.cold)

    def write_back(self, rng: Random) -> None:
        """Some dirty pages reach the medium: what a kernel does at its leisure."""
        pages = self.dirty().tolist()
        self.write(rng.sample(pages, rng.randint(0, len(pages))))

    def sync(self) -> None:
        """All of them do."""
        self.write(self.dirty().tolist())

    def write(self, pages: list[int]) -> None:
        """These pages reach the medium as they are now."""
        data, cache = self.data.reshape(-1, PAGE_BYTES), self.cache.reshape(-1, PAGE_BYTES)
        data[pages] = cache[pages]

    def drop(self, rng: Random, allowed: list[tuple[int, int]]) -> None:
        """Some clean pages within the ``allowed`` extents (first byte, end) leave the cache."""
        free = ~self.cold
        free[self.dirty()] = False
        pages = [
            page
            for first, end in allowed
            for page in range(first // PAGE_BYTES, end // PAGE_BYTES)
            if free[page] and rng.random() < 0.5
        ]
        self._chill(pages)

    def _chill(self, pages: list[int]) -> None:
        self.cold[pages] = True
        self.cache.reshape(-1, PAGE_BYTES)[pages] = POISON

    def is_cold(self, first: int, length: int) -> bool:
        """Whether any of these bytes is not in the cache."""
        return bool(self.cold[first // PAGE_BYTES : -(-(first + length) // PAGE_BYTES)].any())

    def warm(self, first: int, length: int) -> bool:
        """Brings these bytes into the cache; False where the medium does not give one of them back."""
        pages = np.arange(first // PAGE_BYTES, -(-(first + length) // PAGE_BYTES))
        wanted = pages[self.cold[pages]]
        readable = wanted[~self.bad[wanted]]
        self.cache.reshape(-1, PAGE_BYTES)[readable] = self.data.reshape(-1, PAGE_BYTES)[readable]
        self.cold[readable] = False
        return len(readable) == len(wanted)

    # -- ends of a process ---------------------------------------------------------------------------------------------
    def end_process(self) -> None:
        """kill -9: the cache stays as it is at this moment."""
        self._renew(self.cache)

    def cut_power(self, rng: Random) -> None:
        """Pulls the plug: of the dirty pages some are written, some are not, some are torn; the cache is gone."""
        data, cache = self.data.reshape(-1, PAGE_BYTES), self.cache.reshape(-1, PAGE_BYTES)
        likely = rng.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for page in self.dirty().tolist():
            if self.sector_bytes < PAGE_BYTES and rng.random() < 0.3:
                for at in range(0, PAGE_BYTES, self.sector_bytes):
                    if rng.random() < 0.5:
                        part = slice(at, at + self.sector_bytes)
                        data[page, part] = cache[page, part]
            elif rng.random() < likely:
                data[page] = cache[page]
        self.forget()

    def forget(self) -> None:
        """The cache is empty: what is read from now on is what the medium holds."""
        self._renew(np.full(len(self.data), POISON, dtype=np.uint8))
        self.cold[:] = True

    # -- a medium that rots --------------------------------------------------------------------------------------------
    def flip(self, at: int, bit: int) -> bool:
        """Flips a bit of a clean page on the medium, and drops the page; False for a dirty one: it is written anew."""
        page = at // PAGE_BYTES
        if page in self.dirty():
            return False
        self.data[at] ^= 1 << bit
        self._chill([page])
        return True

    def spoil(self, page: int) -> bool:
        """Makes a clean page unreadable, and drops it; False for a dirty one."""
        if page in self.dirty():
            return False
        self.bad[page] = True
        self._chill([page])
        return True

    def heal(self) -> None:
        """Every page can be read again."""
        self.bad[:] = False
