# SPDX-License-Identifier: Apache-2.0
"""LMCache's keys as MemKV's. Pure.

    <chunk hash, hex>_<32 hex: everything else that makes two chunks different>

The second part is a digest over canonical JSON, not text put together: LMCache's own text form of a key is ambiguous
(a tag and a layer stand in the same place), and model names are paths as well.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def _tail(*parts: Any) -> str:
    encoded = json.dumps(parts, separators=(",", ":"), default=str).encode("ascii")
    return hashlib.sha256(encoded).hexdigest()[:32]


def object_name(key: Any, layout_digest: str) -> str:
    """The key of an object in MP mode, from an ``ObjectKey`` and the digest of its layout.

    The salt is in it, so tenants with different salts never share; so are the KV rank and the object group.
    """
    tail = _tail("mp", key.model_name, key.kv_rank, key.object_group_id, key.cache_salt, layout_digest)
    return f"{key.chunk_hash.hex()}_{tail}"


def chunk_name(key: Any, *, shared_rank: int | None = None) -> str:
    """The key of a chunk in in-process mode, from a ``CacheEngineKey`` or ``LayerCacheEngineKey``.

    ``shared_rank``: all tensor-parallel ranks hold the same bytes (MLA), so rank and size are left out, and this
    number (the pipeline stage) stands instead. ``lmcache.tag.*`` of a request are in it; tags are a set to LMCache's
    users and a sequence to LMCache, so they stand in order here.
    """
    tags = tuple(sorted((str(name), str(value)) for name, value in key.tags or ()))
    chunk_hash = key.chunk_hash
    kind, digits = ("b", chunk_hash.hex()) if isinstance(chunk_hash, bytes) else ("i", format(chunk_hash, "x"))
    world, worker = (key.world_size, key.worker_id) if shared_rank is None else (1, shared_rank)
    layer = getattr(key, "layer_id", None)
    dtype = str(key.dtype).removeprefix("torch.")
    return f"{digits}_{_tail('in', key.model_name, world, worker, dtype, layer, tags, kind)}"
