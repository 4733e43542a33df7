# SPDX-License-Identifier: Apache-2.0
"""mmap(2) and its relatives at given addresses, which Python's ``mmap`` lacks; errors are in ``ctypes.get_errno``."""

from __future__ import annotations

import ctypes
from typing import Final

MADV_POPULATE_READ: Final = 22  # both since Linux 5.14; older kernels answer EINVAL
MADV_POPULATE_WRITE: Final = 23
MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
map_memory = _libc.mmap
map_memory.restype = ctypes.c_void_p
map_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
unmap_memory = _libc.munmap
unmap_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
advise = _libc.madvise
advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
