# SPDX-License-Identifier: Apache-2.0
"""Lets LMCache's in-process mode copy to and from vLLM's KV cache on a CPU; loaded by a .pth in the tests' environment.

LMCache 0.5.6 has no connector for it ("No supported cpu connector found."). MP mode needs none of this.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from typing import Any

TARGET = "lmcache.v1.gpu_connector"


class Finder(importlib.abc.MetaPathFinder):
    """Adds to LMCache's module once it is imported, and costs nothing where it is not."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                extend(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def extend(module: Any) -> None:
    create = module.CreateGPUConnector

    def create_any(config: Any, metadata: Any, engine: Any, layout_hints: Any = None) -> Any:
        from lmcache import torch_device_type

        if torch_device_type != "cpu":
            return create(config, metadata, engine, layout_hints)
        return CPUConnector(metadata)

    module.CreateGPUConnector = create_any


class CPUConnector:
    """What LMCache calls a GPU connector.

    vLLM's cache of a layer is [blocks, heads, tokens, K and V]; an object is [K and V, layers, tokens, hidden].
    """

    def __init__(self, metadata: Any) -> None:
        self._layers, _, _, self._heads, self._size = metadata.kv_shape
        self._caches: Any = None

    def get_shape(self, num_tokens: int) -> Any:
        import torch

        return torch.Size([2, self._layers, num_tokens, self._heads * self._size])

    def initialize_kvcaches_ptr(self, **kwargs: Any) -> None:
        self._caches = kwargs.get("kvcaches", self._caches)

    def _slots(self, start: int, end: int, **kwargs: Any) -> Any:
        """For each layer a view of [K and V, blocks, tokens, heads, size], and where the tokens are in it."""
        self.initialize_kvcaches_ptr(**kwargs)
        caches = self._caches.values() if isinstance(self._caches, dict) else self._caches
        slots = kwargs["slot_mapping"][start:end].long()
        for cache in caches:
            blocks, heads, tokens, both = cache.shape
            view = cache.view(blocks, heads, tokens, 2, both // 2).permute(3, 0, 2, 1, 4)
            yield view, slots // tokens, slots % tokens

    def from_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        for layer, (view, block, offset) in enumerate(self._slots(start, end, **kwargs)):
            memory_obj.tensor[:, layer] = view[:, block, offset].flatten(2)

    def to_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        skip = min(end - start, max(0, kwargs.get("vllm_cached_tokens", 0) - start))
        for layer, (view, block, offset) in enumerate(self._slots(start + skip, end, **kwargs)):
            tokens = memory_obj.tensor[:, layer, skip:]
            view[:, block, offset] = tokens.unflatten(2, (self._heads, self._size))

    def batched_from_gpu(self, memory_objs: Any, starts: Any, ends: Any, **kwargs: Any) -> None:
        for each, start, end in zip(memory_objs, starts, ends, strict=True):
            self.from_gpu(each, start, end, **kwargs)

    def batched_to_gpu(self, memory_objs: Any, starts: Any, ends: Any, **kwargs: Any) -> None:
        for each, start, end in zip(memory_objs, starts, ends, strict=True):
            self.to_gpu(each, start, end, **kwargs)


sys.meta_path.insert(0, Finder())
