# SPDX-License-Identifier: Apache-2.0
"""LMCache's real StorageManager of MP mode, with its controllers and our L2 adapter; no server, no GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from lmcache.v1.distributed import api
from lmcache.v1.distributed import config as settings
from lmcache.v1.distributed.l2_adapters.config import L2AdaptersConfig
from lmcache.v1.distributed.l2_adapters.plugin_l2_adapter import PluginL2AdapterConfig
from lmcache.v1.distributed.storage_manager import StorageManager

L1_BYTES = 64 << 20
SHAPE = (2, 4, 64, 128)
LAYOUT = api.MemoryLayoutDesc(shapes=[torch.Size(SHAPE)], dtypes=[torch.bfloat16])


def keys(count: int, *, first: int = 0, salt: str = "") -> list[Any]:
    """Keys of consecutive chunks."""
    rank = api.ObjectKey.ComputeKVRank(1, 0, 1, 0)
    return [
        api.ObjectKey(chunk_hash=number.to_bytes(32, "big"), model_name="org/model", kv_rank=rank, cache_salt=salt)
        for number in range(first, first + count)
    ]


class Storage:
    """One StorageManager with one L2 adapter, MemKV's. ``params``: its adapter_params."""

    def __init__(self, **params: Any) -> None:
        # No name in shared memory: two managers of one process would have the same, and the same bytes.
        memory = settings.L1MemoryManagerConfig(size_in_bytes=L1_BYTES, use_lazy=False, align_bytes=4096, shm_name="")
        plugin = PluginL2AdapterConfig("memkv_lmcache.l2_adapter", "MemKVL2Adapter", params)
        self.manager = StorageManager(
            settings.StorageManagerConfig(
                l1_manager_config=settings.L1ManagerConfig(memory_config=memory),
                eviction_config=settings.EvictionConfig(eviction_policy="LRU"),
                l2_adapter_config=L2AdaptersConfig(adapters=[plugin]),
            )
        )

    @property
    def adapter(self) -> Any:
        return self.manager.l2_adapters()[0][1]

    def write(self, wanted: Sequence[Any], seed: int = 1) -> dict[Any, bytes]:
        """Puts random objects into L1, from where LMCache stores them in L2; what was written."""
        generator = torch.Generator().manual_seed(seed)
        objects = self.manager.reserve_write(list(wanted), LAYOUT)
        written = {}
        for key, each in objects.items():
            each.tensor.copy_(torch.randn(SHAPE, generator=generator))
            written[key] = bytes(each.byte_array)
        assert len(written) == len(wanted)
        self.manager.finish_write(list(wanted))
        return written

    def is_stored(self, wanted: Sequence[Any]) -> bool:
        """Whether the adapter lists all of them, so that every node's answer is in."""
        return len(self.adapter.list_l2_keys(page_size=10_000).entries) >= len(wanted)

    def submit(self, wanted: Sequence[Any]) -> Any:
        row = api.GroupedObjectKeys(keys=list(wanted), object_group_id=0, layout_desc=LAYOUT)
        return self.manager.submit_prefetch_task(api.PrefetchTaskSpec(key_groups=[row]))

    def settle(self, handles: Sequence[Any], timeout_s: float) -> list[int | None]:
        """For each prefetch how many leading objects it got; None where it never ended."""
        hits: dict[int, int] = {}
        end_s = time.monotonic() + timeout_s
        while len(hits) < len(handles) and time.monotonic() < end_s:
            for at, handle in enumerate(handles):
                result = None if at in hits else self.manager.query_prefetch_status(handle)
                if result is not None:
                    hits[at] = result.hit_cells[0].count_leading_ones()
            time.sleep(0.002)
        return [hits.get(at) for at in range(len(handles))]

    def prefetch(self, wanted: Sequence[Any], timeout_s: float = 30.0) -> int | None:
        return self.settle([self.submit(wanted)], timeout_s)[0]

    def read(self, wanted: Sequence[Any]) -> list[bytes]:
        """What a prefetch brought, unlocked again."""
        with self.manager.read_prefetched_results(list(wanted)) as objects:
            contents = [bytes(each.byte_array) for each in objects]
        self.manager.finish_read_prefetched(list(wanted))
        return contents

    def drop(self, locked: Sequence[Any] = ()) -> None:
        """Empties L1; ``locked``: what prefetches got and nobody read."""
        if locked:
            self.manager.finish_read_prefetched(list(locked))
        self.manager.clear(force=False)

    def close(self) -> None:
        self.manager.close()
