# SPDX-License-Identifier: Apache-2.0
"""No LMCache here: its keys, memory objects and allocator, as much of them as the adapters ask for."""

from __future__ import annotations

import ctypes
import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

AUTH_KEY = "5a" * 32
SIZES = {"bfloat16": 2, "float16": 2, "uint8": 1, "float8_e4m3fn": 1, "float32": 4}
WHOLE = ((2, 4, 64, 128),)  # K and V, layers, tokens, hidden


@dataclass(frozen=True)
class ObjectKey:
    """LMCache's key of MP mode."""

    chunk_hash: bytes
    model_name: str = "org/model"
    kv_rank: int = 1 << 24
    object_group_id: int = 0
    cache_salt: str = ""

    def to_encoded_object_key(self) -> str:
        return self.chunk_hash.hex()


@dataclass(frozen=True)
class CacheEngineKey:
    """LMCache's key of in-process mode."""

    chunk_hash: int | bytes
    model_name: str = "org/model"
    world_size: int = 1
    worker_id: int = 0
    dtype: str = "torch.bfloat16"
    tags: tuple[tuple[str, str], ...] | None = None

    def split_layers(self, num_layers: int) -> list[LayerCacheEngineKey]:
        plain = {name: getattr(self, name) for name in CacheEngineKey.__dataclass_fields__}
        return [LayerCacheEngineKey(**plain, layer_id=layer) for layer in range(num_layers)]


@dataclass(frozen=True)
class LayerCacheEngineKey(CacheEngineKey):
    """A layer of a chunk."""

    layer_id: int = 0


@dataclass
class Desc:
    """MemoryLayoutDesc."""

    shapes: Sequence[Sequence[int]]
    dtypes: Sequence[str]


def byte_count(shapes: Iterable[Sequence[int]], dtypes: Iterable[str]) -> int:
    total = 0
    for shape, dtype in zip(shapes, dtypes, strict=True):
        elements = 1
        for extent in shape:
            elements *= extent
        total += elements * SIZES[dtype.removeprefix("torch.")]
    return total


@dataclass
class MemoryObj:
    """A memory object: its bytes, its layout, its reference count."""

    shapes: Sequence[Sequence[int]] = WHOLE
    dtypes: Sequence[str] = ("torch.bfloat16",)
    fmt: str = "KV_2LTD"
    content: bytes = b""
    on_free: Callable[[], None] = field(default=lambda: None)
    refs: int = 1

    def __post_init__(self) -> None:
        self.buffer = bytearray(byte_count(self.shapes, self.dtypes))
        if self.content:
            self.buffer[:] = self.content
        self.meta = SimpleNamespace(
            shape=self.shapes[0], dtype=self.dtypes[0], shapes=list(self.shapes), dtypes=list(self.dtypes),
            fmt=SimpleNamespace(name=self.fmt),
        )  # fmt: skip
        self._lock = threading.Lock()

    @property
    def byte_array(self) -> memoryview:
        assert self.refs > 0, "touched after it was freed"
        return memoryview((ctypes.c_ubyte * len(self.buffer)).from_buffer(self.buffer))  # format "<B", as LMCache's

    def get_size(self) -> int:
        return len(self.buffer)

    def ref_count_up(self) -> None:
        with self._lock:
            assert self.refs > 0
            self.refs += 1

    def ref_count_down(self) -> None:
        with self._lock:
            self.refs -= 1
            assert self.refs >= 0, "freed twice"
            freed = self.refs == 0
        if freed:
            self.on_free()


def filled(
    seed: int, shapes: Sequence[Sequence[int]] = WHOLE, dtypes: Sequence[str] = ("torch.bfloat16",)
) -> MemoryObj:
    """An object with bytes of its own."""
    return MemoryObj(shapes, dtypes, content=random.Random(seed).randbytes(byte_count(shapes, dtypes)))


def hashes(*numbers: int) -> list[ObjectKey]:
    return [ObjectKey(bytes([number]) * 32) for number in numbers]


def wait(fd: int, ask: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """As LMCache's controllers do: asks only after the file descriptor was signalled."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if poller.poll(100):
            os.read(fd, 4096)
            result = ask()
            if result:
                return result
    raise AssertionError("no result was notified")


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Polls until it holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.005)


class Metadata(SimpleNamespace):
    """LMCacheMetadata of a model with 4 layers, 2 KV heads of 64, chunks of 64 tokens."""

    def __init__(self, **fields: Any) -> None:
        defaults: dict[str, Any] = {
            "model_name": "org/model", "world_size": 1, "worker_id": 0, "local_world_size": 1, "use_mla": False,
            "kv_dtype": "torch.bfloat16", "kv_shape": (4, 2, 64, 2, 64), "chunk_size": 64, "role": "worker",
        }  # fmt: skip
        super().__init__(**{**defaults, **fields})

    def get_shapes(self, num_tokens: int | None = None) -> list[tuple[int, ...]]:
        layers, kv_size, _, heads, size = self.kv_shape
        return [(kv_size, layers, num_tokens or self.chunk_size, heads * size)]

    def get_dtypes(self) -> list[str]:
        return [self.kv_dtype]


def config(**fields: Any) -> SimpleNamespace:
    """LMCacheEngineConfig."""
    defaults: dict[str, Any] = {
        "chunk_size": 64, "use_layerwise": False, "enable_blending": False, "lookup_timeout_ms": 3000,
        "pre_caching_hash_algorithm": "sha256_cbor", "extra_config": {},
    }  # fmt: skip
    return SimpleNamespace(**{**defaults, **fields})


class Allocator:
    """LocalCPUBackend: hands out objects within a number of bytes, and knows what is still out."""

    def __init__(self, capacity_bytes: int = 64 << 20) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._lock = threading.Lock()

    def allocate(
        self, shapes: Any, dtypes: Any, fmt: Any = None, eviction: bool = True, busy_loop: bool = True
    ) -> MemoryObj | None:
        assert not busy_loop, "it would wait for ever"
        size = byte_count(shapes, dtypes)
        with self._lock:
            if self.used_bytes + size > self.capacity_bytes:
                return None
            self.used_bytes += size
        return MemoryObj(list(shapes), list(dtypes), fmt, on_free=lambda: self._free(size))

    def _free(self, size: int) -> None:
        with self._lock:
            self.used_bytes -= size


def chunks(*numbers: int, **fields: Any) -> list[CacheEngineKey]:
    return [CacheEngineKey(number, **fields) for number in numbers]
