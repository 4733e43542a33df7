# SPDX-License-Identifier: Apache-2.0
"""MemKV for sglang: ``memkv_sglang.backend.MemKVHiCacheStorage`` keeps HiCache pages in a MemKV cluster.

sglang loads it by ``--hicache-storage-backend dynamic``; ``memkv-sglang warm`` fills a fresh server from the cluster.
"""

from __future__ import annotations

__version__ = "0.1.0"
