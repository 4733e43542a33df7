# SPDX-License-Identifier: Apache-2.0
"""The KV caches of a model in plain memory, and what LMCache copies chunks with: the only stand-ins of these tests.

LMCache's own connectors need a GPU; all else that the engine does is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

try:
    from lmcache.v1.gpu_connector import gpu_connectors
except ImportError:  # LMCache 0.5.7
    from lmcache.inprocess.v1.gpu_connector import gpu_connectors

LAYER_COUNT, HEAD_COUNT, HEAD_SIZE, BLOCK_TOKENS, BLOCK_COUNT = 4, 2, 64, 16, 64
HIDDEN = HEAD_COUNT * HEAD_SIZE


def random_caches(seed: int) -> list[torch.Tensor]:
    """For each layer a cache of [K and V, slots, hidden]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, BLOCK_COUNT * BLOCK_TOKENS, HIDDEN)
    return [torch.randn(shape, generator=generator).to(torch.bfloat16) for _ in range(LAYER_COUNT)]


def empty_caches() -> list[torch.Tensor]:
    return [torch.zeros((2, BLOCK_COUNT * BLOCK_TOKENS, HIDDEN), dtype=torch.bfloat16) for _ in range(LAYER_COUNT)]


class WholeChunks(gpu_connectors.GPUConnectorInterface):  # type: ignore[misc]
    """Objects of [K and V, layers, tokens, hidden]. ``kvcaches`` and ``slot_mapping`` come with each call."""

    def get_shape(self, num_tokens: int) -> torch.Size:
        return torch.Size([2, LAYER_COUNT, num_tokens, HIDDEN])

    def from_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        slots = kwargs["slot_mapping"][start:end]
        for layer, cache in enumerate(kwargs["kvcaches"]):
            memory_obj.tensor[:, layer] = cache[:, slots]

    def to_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        slots = kwargs["slot_mapping"][start:end]
        for layer, cache in enumerate(kwargs["kvcaches"]):
            cache[:, slots] = memory_obj.tensor[:, layer]

    def batched_from_gpu(self, memory_objs: Any, starts: list[int], ends: list[int], **kwargs: Any) -> None:
        for each, start, end in zip(memory_objs, starts, ends, strict=True):
            self.from_gpu(each, start, end, **kwargs)

    def batched_to_gpu(self, memory_objs: Any, starts: list[int], ends: list[int], **kwargs: Any) -> None:
        for each, start, end in zip(memory_objs, starts, ends, strict=True):
            self.to_gpu(each, start, end, **kwargs)


class Layers(gpu_connectors.VLLMPagedMemLayerwiseGPUConnector):  # type: ignore[misc]
    """Objects of one layer, [tokens, K and V, hidden]. LMCache asserts the class; none of its code is used."""

    def __init__(self) -> None:
        pass

    def get_shape(self, num_tokens: int) -> torch.Size:
        return torch.Size([num_tokens, 2, HIDDEN])

    def batched_from_gpu(
        self, memory_objs: Sequence[Sequence[Any]], starts: list[int], ends: list[int], **kwargs: Any
    ) -> Iterator[None]:
        """One step for each layer, after one to begin with."""
        yield
        for cache, objects in zip(kwargs["kvcaches"], memory_objs, strict=True):
            for each, start, end in zip(objects, starts, ends, strict=True):
                each.tensor.copy_(cache[:, kwargs["slot_mapping"][start:end]].transpose(0, 1))
            yield

    def batched_to_gpu(self, starts: list[int], ends: list[int], **kwargs: Any) -> Any:
        """Takes the objects of a layer at each step; one step more waits for the device."""
        for cache in kwargs["kvcaches"]:
            objects = yield
            for each, start, end in zip(objects, starts, ends, strict=True):
                cache[:, kwargs["slot_mapping"][start:end]] = each.tensor.transpose(0, 1)
        yield
        yield
