# SPDX-License-Identifier: Apache-2.0
"""A client's memory, mapped into the lane: only where nothing can take a page of it away again.

An access to a page of a file that is not there any more is a SIGBUS, and the end of the lane. What a client could do
to a file of shared memory that the lane has mapped, by mistake or not, and what stands against it:

- *Cut it short:* the client has sealed its size (F_SEAL_SHRINK, F_SEAL_GROW), else it is not mapped.
- *Punch a hole into it* (fallocate, MADV_REMOVE): F_SEAL_FUTURE_WRITE, which the lane adds once it has its mapping. It
  leaves the mappings that there are as they are, and refuses holes, write(2) and new writable mappings. Seals are for
  good, so the lane adds it to memory only that it may write to: the client's staging, never an engine's own.
- *Leave it empty,* so that the lane's first access has to find memory, which may not be there: all of its pages exist
  already (``st_blocks``, looked at once holes are refused), and they count for the client, who touched them first.

Whatever is not like that is left to ``preadv`` and ``pwritev`` (see ``shm``).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from typing import Final

from memkv_core.shared_memory import SEAL_FUTURE_WRITE, SIZE_IS_FIXED
from memkv_server.limits import SHM_MAPPED_BYTES_MAX
from memkv_server.memory_calls import (
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MAP_FAILED,
    advise,
    map_memory,
    unmap_memory,
)

_PAGE: Final = mmap.PAGESIZE
_STAT_BLOCK_BYTES: Final = 512


class ClientMemory:
    """A mapping of all of a file, from ``address`` on, until ``close``."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self.address = address
        self._size_bytes = size_bytes

    @classmethod
    def of(cls, descriptor: int, size_bytes: int) -> ClientMemory | None:
        """Maps the first ``size_bytes`` of the file for good, and seals it; None: it stays as it is, and unmapped.

        Raises OSError where it has become unusable meanwhile.
        """
        if not 0 < size_bytes <= SHM_MAPPED_BYTES_MAX or not _may_be_mapped(descriptor, size_bytes):
            return None
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = map_memory(None, size_bytes, protection, mmap.MAP_SHARED, descriptor, 0)
        if address is None or address == MAP_FAILED:
            return None
        memory = cls(address, size_bytes)
        if not populate(address, size_bytes, writable=True, known=True) or not _seal(descriptor):
            memory.close()
            return None
        if not _is_whole(descriptor, size_bytes):  # between the two looks at it somebody has punched a hole
            memory.close()
            raise OSError(errno.EIO, "pages of it were taken away while it was being mapped")
        return memory

    def close(self) -> None:
        """Idempotent. Nothing of it may be under way."""
        if self._size_bytes:
            unmap_memory(self.address, self._size_bytes)
            self._size_bytes = 0


def populate(address: int, size_bytes: int, *, writable: bool, known: bool = False) -> bool:
    """Has every page of a mapping there and in the page table; False where a page cannot be had: it would be a SIGBUS.

    A kernel that does not know how answers True, unless it must be ``known``.
    """
    start = address & -_PAGE
    advice = MADV_POPULATE_WRITE if writable else MADV_POPULATE_READ
    while advise(start, address + size_bytes - start, advice):
        number = ctypes.get_errno()
        if number not in (errno.EINTR, errno.EAGAIN):
            return number == errno.EINVAL and not known
    return True


def _may_be_mapped(descriptor: int, size_bytes: int) -> bool:
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return False  # a file that cannot be sealed
    wanted = SIZE_IS_FIXED
    return seals & wanted == wanted and not seals & fcntl.F_SEAL_SEAL and _is_whole(descriptor, size_bytes)


def _seal(descriptor: int) -> bool:
    """From now on no page leaves the file, and nobody adds another seal."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
    except OSError:
        return False  # a kernel before 5.1
    return True


def _is_whole(descriptor: int, size_bytes: int) -> bool:
    """Whether all pages exist, in memory or swapped out."""
    found = os.fstat(descriptor)
    return found.st_size == size_bytes and found.st_blocks * _STAT_BLOCK_BYTES >= size_bytes
