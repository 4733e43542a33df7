# SPDX-License-Identifier: Apache-2.0
"""Address space as large as a drive, with memory behind as little of it as one wants.

A drive in direct mode is mapped nowhere: its bytes are read into and written from memory of the engine's own. That
memory lies at the place that its bytes have on the drive, in one reserved range of addresses, so that an address on
the drive is an address here, as it is in the other modes. Pages that were never touched cost nothing; those of a
dropped frame are given back, together with the page table that led to them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from typing import Final, NoReturn

from memkv_core.errors import StorageError
from memkv_server.memory_calls import MADV_POPULATE_WRITE, MAP_FAILED, advise, map_memory

FRAME_BYTES: Final = 2 << 20  # what one page table covers
_MAP_NORESERVE: Final = 0x4000
_MAP_FIXED: Final = 0x10


class AddressSpace:
    """``memory[origin + a]`` is byte ``a``; every frame begins on a boundary of FRAME_BYTES. One thread drops."""

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        try:
            self.memory = mmap.mmap(-1, size + 2 * FRAME_BYTES, flags=flags)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"memory: {size} bytes of address space cannot be reserved ({error})",
                remedy="raise the limits on virtual memory (ulimit -v, vm.overcommit_memory)",
            ) from error
        # Pages come singly: a huge page would be two megabytes of memory for one small value.
        with contextlib.suppress(OSError):
            self.memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.view = memoryview(self.memory)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.origin = -self._base % FRAME_BYTES

    def populate(self, start: int, length: int) -> None:
        """Puts memory behind these bytes in one call, rather than at each page's first touch."""
        # Where the kernel does not know the advice, or has no memory, the touch itself meets what there is to meet.
        advise(self._base + self.origin + start, length, MADV_POPULATE_WRITE)

    def drop(self, start: int, length: int) -> None:
        """Gives the memory of whole pages back; they read as zeros afterwards."""
        if advise(self._base + self.origin + start, length, mmap.MADV_DONTNEED):
            _refuse("pages cannot be given back")

    def drop_frame(self, frame: int) -> None:
        """Gives the memory of a frame back, and the page table that led to it, which MADV_DONTNEED may leave."""
        at = self._base + self.origin + frame * FRAME_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
        if map_memory(at, FRAME_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == MAP_FAILED:
            _refuse("a frame cannot be given back")
        advise(at, FRAME_BYTES, mmap.MADV_NOHUGEPAGE)

    def close(self) -> None:
        """Gives all of it back, as far as no view is in use."""
        with contextlib.suppress(BufferError):
            self.view.release()
            self.memory.close()


def _refuse(what: str) -> NoReturn:
    reason = os.strerror(ctypes.get_errno())
    raise StorageError(f"memory: {what} ({reason})", remedy="raise vm.max_map_count, and restart the node")
