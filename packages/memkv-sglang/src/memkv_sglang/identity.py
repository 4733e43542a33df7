# SPDX-License-Identifier: Apache-2.0
"""What makes two runs' pages the same pages. Pure.

The namespace that a pool's pages live in is derived from this identity, so runs that differ in any field never meet.
The page key cannot do that: it is a chain of hashes over token ids. And the size of a page does not tell either:
a bf16 and an fp16 page, or a layer_first and a page_first page, are equally long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from memkv_sglang.keymap import Ranks

FORMAT: Final = "memkv-sglang/1"  # raised whenever the bytes of a page, or what stands here, change their meaning

# Shape of a page, whichever of these a pool class has; none depends on how many pages the pool holds.
_GEOMETRY = (
    "layer_num", "target_layer_num", "start_layer", "end_layer",
    "head_num", "head_dim", "v_head_dim", "head_group_num",
    "kv_cache_dim", "kv_lora_rank", "qk_rope_head_dim",
    "indexer_page_stride_size", "indexer_dtype", "index_head_dim",
    "num_mamba_layers", "temporal_state_shape", "temporal_dtype", "conv_state_shapes", "conv_dtype",
    "item_bytes", "state_page_bytes", "swa_page_size", "slot_page_size", "compress_ratio",
    "storage_format_tag", "dcp_size",
)  # fmt: skip

# Pools whose pages are the same on every TP rank of an MLA model, where rank 0 alone writes them. Anything else is
# taken for sharded: at worst that costs a hit, while the opposite mistake would hand one rank another's shard.
_REPLICATED = {"kv", "indexer", "draft_indexer"}
_REPLICATED_UNLESS_MHA = {"draft", "swa", "auxiliary_swa", "draft_swa"}
_REPLICATED_PREFIX = "deepseek_v4_"


def is_replicated(pool_name: str, pool: Any, *, is_mla_model: bool) -> bool:
    """Whether every TP rank holds the same bytes in this pool (so that the rank must not be in its keys)."""
    if not is_mla_model:
        return False
    if pool_name in _REPLICATED or pool_name.startswith(_REPLICATED_PREFIX):
        return True
    return pool_name in _REPLICATED_UNLESS_MHA and not is_mha(pool)


def is_mha(pool: Any) -> bool:
    """Whether the pool holds K and V by attention head (its class, or one it derives from, says MHA)."""
    return any("MHA" in base.__name__ for base in type(pool).__mro__)


def pool_identity(
    *,
    model: str,
    tag: str | None,
    weights: str | None,
    settings: Mapping[str, Any],
    kv_dtype: str,
    pool_name: str,
    pool: Any,
    page_bytes: Sequence[int],
    page_order: str,
    ranks: Ranks,
    replicated: bool,
    shared_tp_size: int | None = None,
) -> dict[str, Any]:
    """The identity of one pool's pages, as JSON-able values.

    ``page_bytes``: the lengths of a stored page's parts; ``page_order``: in which order they stand (``flat``: as
    sglang's flat page, ``segments``: as its page buffer meta). ``shared_tp_size``: the size that pages are split to
    (``tp_lcm_size``); then a page belongs to a virtual rank, which its key names, and heads are counted per virtual
    rank.
    """
    geometry = {name: plain(getattr(pool, name)) for name in _GEOMETRY if getattr(pool, name, None) is not None}
    tp: list[int | str] | None = list(ranks.tp)
    if replicated:
        tp = None
    elif shared_tp_size:
        tp = ["any", shared_tp_size]
        geometry["head_num"] = geometry["head_num"] * ranks.tp[1] // shared_tp_size
    return {
        "format": FORMAT,
        "model": model,
        "tag": tag,
        "weights": weights,
        "settings": plain(settings),
        "kv_dtype": kv_dtype,
        "pool": pool_name,
        "pool_class": type(pool).__name__,
        "layout": plain(getattr(pool, "layout", None)),
        "page_size": plain(getattr(pool, "page_size", None)),
        "page_bytes": list(page_bytes),
        "page_order": page_order,
        "geometry": geometry,
        "ranks": {"tp": tp, "pp": list(ranks.pp), "cp": list(ranks.cp), "dcp": list(ranks.dcp)},
    }


def plain(value: Any) -> Any:
    """The value as JSON would hold it: mappings and sequences all the way down, anything unknown as its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    return str(value)
