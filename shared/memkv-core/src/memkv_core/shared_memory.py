# SPDX-License-Identifier: Apache-2.0
"""Memory of this process that is made to be shared by descriptor: a sealed memfd, mapped."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import Final

_MADV_POPULATE_WRITE: Final = 23  # since Linux 5.14; older kernels answer EINVAL, and the pages come one by one
SIZE_IS_FIXED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
SEAL_FUTURE_WRITE: Final = 0x10  # since Linux 5.1: no holes, no write(2), no new writable mapping; not in fcntl


class SharedMemory:
    """``memory`` maps the file of ``descriptor``, whose size nobody can change. Raises OSError where there is none.

    It is there at once: its pages are accounted to this process, not to whoever writes to them first. Another seal may
    be added: a node that maps it as well seals it against whatever could take a page away (SEAL_FUTURE_WRITE).
    """

    def __init__(self, size_bytes: int) -> None:
        self.descriptor = os.memfd_create("memkv-staging", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size_bytes)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SIZE_IS_FIXED)
            self.memory = mmap.mmap(self.descriptor, size_bytes)
        except OSError:
            os.close(self.descriptor)
            raise
        for advice in (mmap.MADV_HUGEPAGE, _MADV_POPULATE_WRITE):
            with contextlib.suppress(OSError):  # not on this kernel: smaller pages, and one by one
                self.memory.madvise(advice)

    def take_descriptor(self) -> int:
        """The caller's, to pass on and close. The memory is there as long as it is mapped, or open somewhere."""
        descriptor, self.descriptor = self.descriptor, -1
        return descriptor
