# SPDX-License-Identifier: Apache-2.0
"""LMCache's real engine of the in-process mode, from a yaml file, with our plugin; no vLLM, no GPU."""

from __future__ import annotations

import json
import queue
import time
from pathlib import Path
from typing import Any

import torch
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.metadata import LMCacheMetadata
from memkv_rig.cluster import wait_until

from lmcache_rig import paged

try:
    from lmcache.v1.cache_engine import LMCacheEngineBuilder
    from lmcache.v1.event_manager import EventStatus, EventType
except ImportError:  # LMCache 0.5.7
    from lmcache.inprocess.v1.cache_engine import LMCacheEngineBuilder
    from lmcache.inprocess.v1.event_manager import EventStatus, EventType

CHUNK_TOKENS = 64
STORAGE_PLUGIN = {
    "storage_plugins": "memkv",
    "extra_config": {
        "storage_plugin.memkv.module_path": "memkv_lmcache.backend",
        "storage_plugin.memkv.class_name": "MemKVStorageBackend",
    },
}
REMOTE_PLUGIN = {
    "remote_storage_plugins": "memkv",
    "extra_config": {
        "remote_storage_plugin.memkv.module_path": "memkv_lmcache.connector",
        "remote_storage_plugin.memkv.class_name": "MemKVConnectorAdapter",
    },
}


def write_yaml(path: Path, plugin: dict[str, Any], *, options: dict[str, Any] | None = None, **settings: Any) -> Path:
    """LMCache's yaml (JSON is yaml). ``options``: ours, under the plugin's name."""
    kind = "storage_plugin" if "storage_plugins" in plugin else "remote_storage_plugin"
    extra = {**plugin["extra_config"], **{f"{kind}.memkv.{name}": value for name, value in (options or {}).items()}}
    described = {
        "chunk_size": CHUNK_TOKENS,
        "local_cpu": False,
        "max_local_cpu_size": 0.1,
        **plugin,
        **settings,
        "extra_config": extra,
    }
    path.write_text(json.dumps(described))
    return path


class Answers:
    """Where the engine's answers to lookups of async loading arrive; in vLLM a socket to the scheduler."""

    def __init__(self) -> None:
        self._arrived: queue.Queue[tuple[str, int]] = queue.Queue()

    def send_response_to_scheduler(self, lookup_id: str, num_hit_tokens: int) -> None:
        self._arrived.put((lookup_id, num_hit_tokens))

    def next(self, timeout_s: float) -> tuple[str, int]:
        return self._arrived.get(timeout=timeout_s)


class Engine:
    """One engine, as in one worker of vLLM. ``rank`` and ``world_size``: tensor-parallel."""

    def __init__(self, yaml: Path, name: str, *, rank: int = 0, world_size: int = 1) -> None:
        config = LMCacheEngineConfig.from_file(str(yaml))
        self.layerwise = bool(config.use_layerwise)
        metadata = LMCacheMetadata(
            model_name="org/model",
            world_size=world_size,
            local_world_size=world_size,
            worker_id=rank,
            local_worker_id=rank,
            kv_dtype=torch.bfloat16,
            kv_shape=(paged.LAYER_COUNT, 2, CHUNK_TOKENS, paged.HEAD_COUNT, paged.HEAD_SIZE),
            chunk_size=CHUNK_TOKENS,
            role="worker",
        )
        self._name = name
        self.answers = Answers()
        connector = paged.Layers() if self.layerwise else paged.WholeChunks()
        self.engine = LMCacheEngineBuilder.get_or_create(
            name, config, metadata, connector, lambda *_: None, lambda value, _: value
        )
        self.engine.post_init(async_lookup_server=self.answers)

    @property
    def plugin(self) -> Any:
        """Our storage plugin, if LMCache has loaded it."""
        return self.engine.storage_manager.storage_backends.get("memkv")

    def used_bytes(self) -> int:
        """What is taken of LMCache's host memory."""
        allocator = self.engine.storage_manager.local_cpu_backend.memory_allocator
        return int(allocator.pin_allocator.total_allocated_size)

    def store(self, tokens: torch.Tensor, caches: list[torch.Tensor], slots: torch.Tensor, **more: Any) -> None:
        """Hands all chunks over; ``settle`` waits for them."""
        if not self.layerwise:
            self.engine.store(tokens, kvcaches=caches, slot_mapping=slots, **more)
            return
        steps = self.engine.store_layer(tokens, kvcaches=caches, slot_mapping=slots, sync=True, **more)
        for _ in range(paged.LAYER_COUNT + 1):
            next(steps)

    def settle(self) -> None:
        """Returns when nothing is on its way any more, and its memory is given back."""
        assert wait_until(lambda: self.used_bytes() == 0), "references are not given back"

    def lookup(self, tokens: torch.Tensor, request: str = "r", **more: Any) -> int:
        return int(self.engine.lookup(tokens, lookup_id=request, pin=True, **more))

    def retrieve(
        self, tokens: torch.Tensor, caches: list[torch.Tensor], slots: torch.Tensor, request: str = "r", **more: Any
    ) -> int:
        """How many tokens it got into ``caches``. Layerwise LMCache must have promised some."""
        settings = {"kvcaches": caches, "slot_mapping": slots, "req_id": request, **more}
        if self.layerwise:
            steps = self.engine.retrieve_layer(tokens, sync=True, **settings)
            for _ in range(paged.LAYER_COUNT + 1):
                next(steps)
            mask = next(steps)
        else:
            mask = self.engine.retrieve(tokens, **settings)
        self.engine.lookup_unpin(request)
        return int(mask.sum())

    def prefetch(self, tokens: torch.Tensor, request: str, timeout_s: float = 30.0) -> int:
        """Async loading: how many tokens LMCache tells the scheduler to be in host memory."""
        self.engine.async_lookup_and_prefetch(request, tokens, pin=True)
        answered, count = self.answers.next(timeout_s)
        assert answered == request
        end_s = time.monotonic() + timeout_s
        while self.engine.event_manager.get_event_status(EventType.LOADING, request) is EventStatus.ONGOING:
            assert time.monotonic() < end_s
            time.sleep(0.001)
        return count

    def close(self) -> None:
        LMCacheEngineBuilder.destroy(self._name)
