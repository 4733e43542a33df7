# SPDX-License-Identifier: Apache-2.0
"""What the namespaces stand for. Pure. Runs that differ in any field never meet."""

from __future__ import annotations

from typing import Any

from memkv_lmcache.layout import FORMAT


def mp_identity(prefix: str) -> dict[str, Any]:
    """Of ``lmcache server``. One server serves many models, so the model and the layout stand in each key instead."""
    return {"format": f"memkv-lmcache-mp/{FORMAT}", "prefix": prefix}


def ranks_share(config: Any, metadata: Any) -> bool:
    """Whether all tensor-parallel ranks hold the same bytes, so that rank 0's serve them all.

    So it is with MLA, unless LMCache's own setting for it, ``remote_enable_mla_worker_id_as0``, says no.
    """
    extra = getattr(config, "extra_config", None) or {}
    return bool(metadata.use_mla) and bool(extra.get("remote_enable_mla_worker_id_as0", True))


def in_process_identity(config: Any, metadata: Any, *, prefix: str, tag: str) -> dict[str, Any]:
    """Of one model in vLLM's workers, from LMCache's config and metadata.

    Nothing here may depend on the process: the scheduler, and a worker before its KV caches are registered, must come
    to the same identity. So it takes the metadata's plain fields, and each value's own layout stands beside the value.
    """
    layers, kv_size, _, heads, head_size = (int(extent) for extent in metadata.kv_shape)
    return {
        "format": f"memkv-lmcache/{FORMAT}",
        "prefix": prefix,
        "tag": tag,
        "model": str(metadata.model_name),
        "world_size": 1 if ranks_share(config, metadata) else int(metadata.world_size),
        "kv_dtype": str(metadata.kv_dtype).removeprefix("torch."),
        "kv_geometry": [layers, kv_size, heads, head_size],
        "mla": bool(metadata.use_mla),
        "chunk_size": int(config.chunk_size),
        "layerwise": bool(getattr(config, "use_layerwise", False)),
        "blending": bool(getattr(config, "enable_blending", False)),
        "hash": str(getattr(config, "pre_caching_hash_algorithm", "builtin")),
    }
