# SPDX-License-Identifier: Apache-2.0
"""MemKV for vLLM by way of LMCache: KV chunks in a MemKV cluster.

``memkv_lmcache.l2_adapter.MemKVL2Adapter`` is an L2 adapter of ``lmcache server``,
``memkv_lmcache.backend.MemKVStorageBackend`` a storage plugin of LMCache inside vLLM's workers, and
``memkv_lmcache.connector.MemKVConnectorAdapter`` a remote connector there.
"""

from __future__ import annotations

__version__ = "0.1.0"
