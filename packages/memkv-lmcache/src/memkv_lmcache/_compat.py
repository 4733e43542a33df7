# SPDX-License-Identifier: Apache-2.0
"""The only imports of LMCache, each guarded: versions differ, and unit tests run without LMCache and torch.

Read against LMCache 0.5.6 and 0.5.7rc2:

==================== ==========================================  ===========================================
what                 0.5.6                                       0.5.7rc2
==================== ==========================================  ===========================================
L2 adapter ABC       v1.distributed.l2_adapters.base             the same, with abstract ``get_memory_tags``
Bitmap               lmcache_native (0.5.0: native_storage_ops)  lmcache_native
MemoryTags           absent                                      v1.distributed.api
storage plugin ABC   v1.storage_backend.abstract_backend         the same
engine               v1.cache_engine (never imported here)       inprocess.v1
==================== ==========================================  ===========================================
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from memkv_lmcache import standins
from memkv_lmcache.layout import Layout


def find(*places: tuple[str, str]) -> Any:
    """The first of (module, name) that can be imported, else None."""
    for module, name in places:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            continue
        if found is not None:
            return found
    return None


_ADAPTERS = "lmcache.v1.distributed.l2_adapters"
_API = "lmcache.v1.distributed.api"

if TYPE_CHECKING:
    L2AdapterInterface = standins.L2AdapterInterface
    L2AdapterConfigBase = standins.L2AdapterConfigBase
    StoragePluginInterface = standins.StoragePluginInterface
    RemoteConnector = standins.RemoteConnector
    ConnectorAdapter = standins.ConnectorAdapter
else:
    L2AdapterInterface = find((f"{_ADAPTERS}.base", "L2AdapterInterface")) or standins.L2AdapterInterface
    L2AdapterConfigBase = find((f"{_ADAPTERS}.config", "L2AdapterConfigBase")) or standins.L2AdapterConfigBase
    StoragePluginInterface = (
        find(("lmcache.v1.storage_backend.abstract_backend", "StoragePluginInterface"))
        or standins.StoragePluginInterface
    )
    RemoteConnector = (
        find(("lmcache.v1.storage_backend.connector.base_connector", "RemoteConnector")) or standins.RemoteConnector
    )
    ConnectorAdapter = find(("lmcache.v1.storage_backend.connector", "ConnectorAdapter")) or standins.ConnectorAdapter

Bitmap: Any = find(("lmcache.lmcache_native", "Bitmap"), ("lmcache.native_storage_ops", "Bitmap")) or standins.Bitmap
L2StoreResult: Any = find(("lmcache.v1.distributed.internal_api", "L2StoreResult")) or standins.L2StoreResult
create_event_notifier: Any = find(("lmcache.v1.platform", "create_event_notifier")) or standins.EventNotifier
KeyEntry: Any = find((_API, "KeyEntry")) or standins.KeyEntry
KeyListPage: Any = find((_API, "KeyListPage")) or standins.KeyListPage


def remote_memory_tags() -> Any:
    """``MemoryTags`` of storage elsewhere, as LMCache 0.5.7 wants them; None where there is no such thing."""
    tags = find((_API, "MemoryTags"))
    if tags is None:
        return None
    segment, residency = find((_API, "MemorySegment")), find((_API, "MemoryResidency"))
    return tags(segment=segment.STORAGE, residency=residency.REMOTE)


def torch_layout(layout: Layout) -> tuple[list[Any], list[Any], Any]:
    """A layout as LMCache's allocators take it: sizes, dtypes, memory format; plain values where there is no torch."""
    size, formats = find(("torch", "Size")), find(("lmcache.v1.memory_management", "MemoryFormat"))
    if size is None or formats is None:
        return [tuple(shape) for shape in layout.shapes], [f"torch.{dtype}" for dtype in layout.dtypes], layout.fmt
    torch = importlib.import_module("torch")
    return (
        [size(shape) for shape in layout.shapes],
        [getattr(torch, each) for each in layout.dtypes],
        formats[layout.fmt],
    )


def pipeline_rank() -> int:
    """This process's pipeline stage in vLLM; 0 where there is only one, or no vLLM."""
    group = find(("vllm.distributed.parallel_state", "get_pp_group"))
    try:
        return int(group().rank_in_group) if group is not None else 0
    except (AssertionError, ValueError, RuntimeError):  # not initialized: the scheduler, which asks for stage 0
        return 0


def version() -> str | None:
    """The version of LMCache in this environment, or None."""
    try:
        return metadata.version("lmcache")
    except metadata.PackageNotFoundError:
        return None


def _log_as_lmcache_does() -> None:
    """Gives our lines LMCache's handler: its hosts leave the root logger without one, so INFO would be lost."""
    make = find(("lmcache.logging", "init_logger"))
    if make is not None:
        make("memkv_lmcache")


_log_as_lmcache_does()
