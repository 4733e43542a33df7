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
from typing import Final

from memkv_core.errors import StorageError

FRAME_BYTES: Final = 2 << 20  # what one page table covers
_MAP_NORESERVE: Final = 0x4000
_MAP_FIXED: Final = 0x10
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


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

    def drop(self, frame: int) -> None:
        """Gives the memory of a frame back; it reads as zeros afterwards."""
        at = self._base + self.origin + frame * FRAME_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
        if _mmap(at, FRAME_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == _MAP_FAILED:
            number = ctypes.get_errno()
            raise StorageError(f"memory: a frame cannot be given back ({os.strerror(number)})", remedy="restart")
        _madvise_small(at)

    def close(self) -> None:
        """Gives all of it back, as far as no view is in use."""
        with contextlib.suppress(BufferError):
            self.view.release()
            self.memory.close()


def _madvise_small(at: int) -> None:
    _libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(FRAME_BYTES), mmap.MADV_NOHUGEPAGE)
