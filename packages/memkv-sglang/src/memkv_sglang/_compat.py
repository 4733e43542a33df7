# SPDX-License-Identifier: Apache-2.0
"""The only imports of sglang, each guarded: 0.5.23 and 0.5.6 differ, and unit tests run without any sglang.

Read against sglang 0.5.23 and 0.5.6:

==================  ===========================================  ====================================
what                0.5.23                                       0.5.6
==================  ===========================================  ====================================
storage ABC         srt.mem_cache.hicache_storage                the same
v2 results          the same module                              absent: v2 is never called
StorageMetrics      srt.observability.metrics_collector          srt.metrics.collector
server arguments    srt.runtime_context.get_server_args()        srt.server_args.get_global_server_args()
==================  ===========================================  ====================================
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

_STORAGE_MODULE = "sglang.srt.mem_cache.hicache_storage"


def _find(*places: tuple[str, str]) -> Any:
    """The first of (module, name) that can be imported, else None."""
    for module, name in places:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            continue
        if found is not None:
            return found
    return None


@dataclass
class LocalTransferResult:
    """Stands in for sglang's PoolTransferResult where there is none."""

    kv_hit_pages: int
    extra_pool_hit_pages: dict[Any, int] = field(default_factory=dict)
    restorable_prefix_pages: list[int] | None = None


class LocalHiCacheStorage:
    """Stands in for sglang's ABC where there is none: what the adapter uses of it."""

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        self.mem_pool_host = mem_pool_host

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        self.registered_pools = {**getattr(self, "registered_pools", {}), host_pool_name: host_pool}


if TYPE_CHECKING:
    HiCacheStorage = LocalHiCacheStorage
else:
    HiCacheStorage = _find((_STORAGE_MODULE, "HiCacheStorage")) or LocalHiCacheStorage

PoolTransferResult: Any = _find((_STORAGE_MODULE, "PoolTransferResult")) or LocalTransferResult


@cache
def storage_metrics_class() -> Any:
    """sglang's StorageMetrics, or None. The scheduler asks on every poll, so the search is made once."""
    return _find(
        ("sglang.srt.observability.metrics_collector", "StorageMetrics"),
        ("sglang.srt.metrics.collector", "StorageMetrics"),
    )


def first_page(page_size: int) -> Any:
    """The host indices of a pool's first page, as sglang passes them (a tensor), or as an array without torch."""
    arange = _find(("torch", "arange"), ("numpy", "arange"))
    return arange(page_size)


def kv_pool_name() -> Any:
    """What sglang calls the KV pool: a member of its enum, or plain text before there was one."""
    return getattr(_find((_STORAGE_MODULE, "PoolName")), "KV", "kv")


def pool_name(name: Any) -> str:
    """A pool's name as plain text; sglang passes a str enum or a str."""
    return str(getattr(name, "value", name))


def server_args() -> Any:
    """The engine's arguments in this process, or None outside an engine."""
    get = _find(("sglang.srt.runtime_context", "get_server_args"), ("sglang.srt.server_args", "get_global_server_args"))
    try:
        return get() if get is not None else None
    except (ValueError, RuntimeError, AttributeError):  # not set: outside an engine
        return None


def argument(args: Any, name: str) -> Any:
    """One of the engine's arguments as resolved, None where it is unset or says nothing (auto, {}, default)."""
    if args is None:
        return None
    resolve = _find(("sglang.srt.arg_groups.overrides", "resolution_result"))
    try:
        value = resolve(args, name) if resolve is not None else getattr(args, name, None)
    except (AttributeError, KeyError, TypeError):
        value = getattr(args, name, None)
    return None if value in (None, "", "auto", "default", "{}", False) or value in ([], {}, ()) else value


def model_folder(path_or_id: str | None, revision: str | None) -> Path | None:
    """The folder of a checkpoint: a local path, or the snapshot that a Hugging Face id was downloaded to."""
    if not path_or_id:
        return None
    local = Path(path_or_id).expanduser()
    if local.exists():
        return local
    find = _find(("huggingface_hub", "try_to_load_from_cache"))
    if find is None or path_or_id.startswith((os.sep, ".", "~")):
        return None
    try:
        config = find(path_or_id, "config.json", revision=revision)
    except (ValueError, OSError):  # not a repository's name, or no cache
        return None
    return Path(config).parent if isinstance(config, str | os.PathLike) else None


def logical_dtype(pool: Any, args: Any, option: str | None) -> tuple[str, bool]:
    """The dtype of the KV as the model means it, and whether that is known for certain.

    A pool of one-byte elements holds fp8 of some kind (or less) as uint8, so its own dtype does not tell e4m3 from
    e5m2; there the operator's ``kv_cache_dtype``, the device pool, or the engine's argument does. The two e4m3 formats
    (with and without -0) differ by platform.
    """
    stored = _dtype_name(pool)
    if option:
        return f"{stored}:{option}", True
    if stored not in ("uint8", "int8"):
        return stored, True
    platform = "hip" if _is_hip() else "cuda"
    meant = _dtype_name(getattr(pool, "device_pool", None))
    if meant not in ("", stored):
        return f"{stored}:{meant}:{platform}", True
    stated = argument(args, "kv_cache_dtype")
    # With "auto" the checkpoint decides, and the weights fingerprint stands for the checkpoint.
    return f"{stored}:{stated or 'auto'}:{platform}", args is not None


def _dtype_name(pool: Any) -> str:
    dtype = getattr(pool, "dtype", None)
    return "" if dtype is None else str(dtype).removeprefix("torch.")


def model_settings(args: Any) -> dict[str, Any]:
    """The engine's arguments that change what a token's KV is, besides the weights."""
    names = (
        "json_model_override_args", "quantization", "modelopt_quant", "torchao_config", "weight_version",
        "speculative_algorithm",
    )  # fmt: skip
    found = {name: value for name in names if (value := argument(args, name)) is not None}
    if argument(args, "load_format") == "dummy":  # weights made up from the seed
        found["dummy_weights_seed"] = argument(args, "random_seed")
    return found


def lora_folders(args: Any) -> Mapping[str, str]:
    """Name to path of the LoRA adapters that the engine was started with."""
    listed = argument(args, "lora_paths")
    if isinstance(listed, Mapping):
        pairs = {str(name): _lora_path(value) for name, value in listed.items()}
    elif isinstance(listed, list | tuple):
        pairs = {_lora_name(item): _lora_path(item) for item in listed}
    else:
        pairs = {}
    return {name: path for name, path in pairs.items() if path}


def _lora_name(item: Any) -> str:
    if isinstance(item, Mapping):
        return str(item.get("lora_name", ""))
    return str(getattr(item, "lora_name", None) or str(item).partition("=")[0])


def _lora_path(item: Any) -> str:
    if isinstance(item, Mapping):
        return str(item.get("lora_path", ""))
    return str(getattr(item, "lora_path", None) or str(item).rpartition("=")[2])


def _is_hip() -> bool:
    version = _find(("torch", "version"))
    return bool(getattr(version, "hip", None))
