# SPDX-License-Identifier: Apache-2.0
"""A mapping of a drive's whole space, and the two hints to the kernel that make it fast.

*Write hint.* The first write to each page of a file mapping is a fault of its own, 190 us for 1 MiB where the copy
itself is 62 us (ext4, measured on pages already in the cache). ``MADV_POPULATE_WRITE`` does a whole range in one
call, 17 us for 1 MiB. It is done for what a batch reserves, just before, and no further ahead: a populated page is a
dirty page, and the drive would be sent one twice that was prepared too early.

*Read hint.* A fault on a page that is not in memory waits for the drive, one read after the other. Telling the kernel
of all records of a batch first lets it read them side by side: 64 records of 1 MiB 4 times as fast as one by one,
256 of 16 KiB 100 times.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from typing import Final, NamedTuple

_PAGE: Final = mmap.PAGESIZE
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; older kernels answer EINVAL
_POPULATE_BYTES_MIN: Final = 64 * 1024  # below, the call costs what it saves
_ASK_FIRST_BYTES: Final = 64 * 1024  # from here on asking whether all is resident (3 us) beats telling (17 us a MiB)
_ASK_BYTES_MAX: Final = 16 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_madvise = _libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_mincore = _libc.mincore
_mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


class Window(NamedTuple):
    """Where a segment's bytes are in memory: ``memory[origin]`` is its first byte; ``view`` is of the same memory."""

    memory: mmap.mmap
    view: memoryview
    origin: int


class Mapping:
    """Owns the mapping. One thread calls it."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.view = memoryview(memory)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._resident = (ctypes.c_ubyte * (_ASK_BYTES_MAX // _PAGE))()

    def prepare(self, start: int, end: int) -> None:
        """Makes these bytes writable in one call; they are about to be written."""
        if end - start >= _POPULATE_BYTES_MIN:
            start &= -_PAGE
            # A hint: where it fails (an old kernel, a bad page), the write itself faults, and says what is wrong.
            _madvise(self._base + start, (end - start + _PAGE - 1) & -_PAGE, _MADV_POPULATE_WRITE)

    def prefetch(self, extents: Sequence[tuple[int, int]]) -> None:
        """Says that these extents (first byte, length) are about to be read; returns before they are there."""
        for start, length in extents:
            at = start & -_PAGE
            length += start - at
            if length < _ASK_FIRST_BYTES:
                self.memory.madvise(mmap.MADV_WILLNEED, at, length)
                continue
            for part in range(at, at + length, _ASK_BYTES_MAX):
                self._prefetch_long(part, min(_ASK_BYTES_MAX, at + length - part))

    def _prefetch_long(self, at: int, length: int) -> None:
        pages = -(-length // _PAGE)
        known = _mincore(self._base + at, length, ctypes.addressof(self._resident)) == 0
        if not known or 0 in memoryview(self._resident)[:pages].tobytes():
            self.memory.madvise(mmap.MADV_WILLNEED, at, length)

    def close(self) -> None:
        """Unmaps. A view that is still in use keeps the mapping as long as it lives."""
        with contextlib.suppress(BufferError):
            self.view.release()
            self.memory.close()
