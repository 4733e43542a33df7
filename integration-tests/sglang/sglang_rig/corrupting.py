# SPDX-License-Identifier: Apache-2.0
"""Our backend with a fault beneath its verification: pages arrive verified, and then their bytes are changed.

It shows that the test model's output hangs on the bytes it is given; without that, "identical output" proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memkv_sglang.backend import MemKVHiCacheStorage


class CorruptingStorage(MemKVHiCacheStorage):
    """Turns the sign of every number in each page that was read: finite, and wrong."""

    def batch_get_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        found = super().batch_get_v1(keys, host_indices, extra_info)
        pool = self.mem_pool_host
        for slot, there in zip(host_indices.tolist()[:: pool.page_size], found, strict=True):
            if there:
                flat = pool.get_data_page(slot, flat=True).clone()
                flat.view(torch.uint8)[1::2] ^= 0x80  # the byte of a little-endian float16 that holds its sign
                pool.set_from_flat_data_page(slot, flat)
        return found
