# SPDX-License-Identifier: Apache-2.0
"""sglang's own HiCacheController over real host pools, driven as its scheduler drives it; no model, no engine."""

from __future__ import annotations

import threading
from typing import Any

import torch
from sglang.srt.managers.cache_controller import HiCacheController
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
from sglang.srt.mem_cache.utils import get_hash_str
from sglang.srt.runtime_context import get_parallel

PAGE, LAYERS, PAGES = 16, 4, 96  # pages of the device pool; the host pool has twice as many
WAIT_S = 30


def one_rank() -> None:
    """What an engine's start would have set: this process is the only rank."""
    torch.set_num_threads(1)
    get_parallel().override_permanently(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_dcp_size=1, attn_dcp_rank=0, attn_tp_rank=0, attn_tp_size=1,
        attn_dp_rank=0, attn_dp_size=1,
    )  # fmt: skip


def host_pool(kind: str, layout: str, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """(device pool, host pool); kind is mha or mla."""
    common = {"size": PAGE * PAGES, "page_size": PAGE, "dtype": dtype, "layer_num": LAYERS, "device": "cpu"}
    made: Any = MHATokenToKVPool if kind == "mha" else MLATokenToKVPool
    shape = {"head_num": 2, "head_dim": 64} if kind == "mha" else {"kv_lora_rank": 128, "qk_rope_head_dim": 64}
    device = made(**common, **shape, enable_memory_saver=False)
    info = device.get_device_pool_infos()[0].buffer_info
    more: dict[str, Any] = {
        "pin_memory": False, "device_capacity_tokens": device.size,
        "start_layer": device.start_layer, "end_layer": device.end_layer,
    }  # fmt: skip
    if kind == "mla":
        more |= {"target_layer_num": device.layer_num, "override_kv_cache_dim": device.kv_cache_dim}
    host: Any = MHATokenToKVPoolHost if kind == "mha" else MLATokenToKVPoolHost
    return device, host(info, 2.0, 0, PAGE, layout, **more)


class _Allocator:
    """As much of the engine's allocator as the controller asks for."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def get_kvcache(self) -> Any:
        return self._device

    def set_hicache_transfer_done_event(self, *_: Any, **__: Any) -> None:
        """No device transfers here."""


class Controller:
    """One engine's cache controller with our storage backend, its threads running."""

    def __init__(
        self,
        kind: str,
        layout: str,
        *,
        v1: bool,
        model: str = "org/tiny",
        dtype: torch.dtype = torch.bfloat16,
        **extra: Any,
    ) -> None:
        device, self.pool = host_pool(kind, layout, dtype)
        config = {
            "backend_name": "memkv", "module_path": "memkv_sglang.backend", "class_name": "MemKVHiCacheStorage",
            **({"interface_v1": 1} if v1 else {}), **extra,
        }  # fmt: skip
        self.inner = HiCacheController(
            _Allocator(device), self.pool, PAGE, tp_group=None, load_cache_event=threading.Event(),
            io_backend="direct", storage_backend="dynamic", prefetch_threshold=PAGE, model_name=model,
            storage_backend_extra_config=config,
        )  # fmt: skip

    @property
    def storage(self) -> Any:
        return self.inner.storage_backend

    def fill(self, seed: int = 0) -> None:
        """Random bytes in every page of the host pool."""
        generator = torch.Generator().manual_seed(seed)
        view = self.pool.kv_buffer.view(torch.uint8)
        view.copy_(torch.randint(0, 256, view.shape, generator=generator, dtype=torch.uint8))

    def page(self, slot: int) -> torch.Tensor:
        """A copy of the page that begins at a slot, as bytes."""
        flat: torch.Tensor = self.pool.get_data_page(slot, flat=True)
        return flat.contiguous().view(torch.uint8).clone()

    def write(self, tokens: list[int]) -> tuple[int, list[torch.Tensor]]:
        """Backs the pages of a prompt up from fresh host slots: (tokens that were stored, the pages' bytes)."""
        slots = self.pool.alloc(len(tokens))
        pages = [self.page(int(slot)) for slot in slots[::PAGE]]
        self.inner.write_storage(slots, tokens, get_hash_str(tokens, None, page_size=PAGE))
        done = self.inner.ack_backup_queue.get(timeout=WAIT_S)
        self.pool.free(slots)
        return done.completed_tokens, pages

    def read(self, tokens: list[int]) -> tuple[int, int, list[torch.Tensor]]:
        """Prefetches a prompt: (tokens that storage has, tokens that arrived, the bytes of their pages)."""
        self.inner.prefetch("request", tokens, None)
        operation = self.inner.prefetch_hit_queue.get(timeout=WAIT_S)
        hit = operation.storage_hit_count
        if not hit:
            return 0, 0, []
        operation.host_indices = self.inner.alloc_prefetch_host_buffers(operation, hit)
        self.inner.prefetch_buffer.put(operation)
        completed = 0
        while True:
            ack = self.inner.ack_prefetch_queue.get(timeout=WAIT_S)
            completed = ack.completed_tokens if ack.completed_tokens is not None else completed
            if ack.completed_req:
                break
        slots = operation.host_indices[:completed:PAGE]
        pages = [self.page(int(slot)) for slot in slots]
        self.pool.free(operation.host_indices)
        return hit, completed, pages

    def close(self) -> None:
        self.inner.detach_storage_backend()
