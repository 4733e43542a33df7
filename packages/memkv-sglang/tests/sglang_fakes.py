# SPDX-License-Identifier: Apache-2.0
"""No engine here: host pools made of numpy arrays, and a cluster that is a dict behind the real client's calls."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from memkv_core import Client

AUTH_KEY = "5a" * 32
Array = npt.NDArray[Any]


class FakeTensor:
    """As much of a CPU tensor as the adapter asks for."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def numel(self) -> int:
        return self.array.size

    def element_size(self) -> int:
        return self.array.itemsize

    def is_contiguous(self) -> bool:
        return self.array.flags.c_contiguous

    def contiguous(self) -> FakeTensor:
        return FakeTensor(np.ascontiguousarray(self.array))


class FakeHostPool:
    """What every host pool here has; page ``i`` starts at slot ``i * page_size``."""

    dtype = "torch.bfloat16"
    start_layer = 0

    def __init__(self, *, layout: str, layers: int, page_size: int, page_count: int = 8) -> None:
        self.layout = layout
        self.layer_num = self.end_layer = layers
        self.page_size = page_size
        self.page_num = page_count
        self.size = page_size * page_count

    def pages_at(self, *pages: int) -> Array:
        """The host indices of whole pages."""
        return np.concatenate([np.arange(page * self.page_size, (page + 1) * self.page_size) for page in pages])

    def page_bytes(self, page: int) -> bytes:
        """The flat page, by way of the array and not of addresses."""
        return self.flat(page).tobytes()

    def flat(self, page: int) -> Array:
        raise NotImplementedError

    def get_data_page(self, index: int, flat: bool = True) -> FakeTensor:
        return FakeTensor(self.flat(index // self.page_size))

    def get_dummy_flat_data_page(self) -> FakeTensor:
        return FakeTensor(np.zeros_like(self.flat(0)))


class MHATokenToKVPoolHost(FakeHostPool):
    """K and V by head, in sglang's four layouts, 2 bytes an element."""

    def __init__(self, *, heads: int = 2, dim: int = 4, **shape: Any) -> None:
        super().__init__(**shape)
        self.head_num, self.head_dim, self.v_head_dim = heads, dim, dim
        size, layers, page = self.size, self.layer_num, self.page_size
        dims = {
            "layer_first": (2, layers, size, heads, dim),
            "page_first": (2, size, layers, heads, dim),
            "page_first_direct": (2, self.page_num, layers, page, heads, dim),
            "page_head": (2, self.page_num, heads, page, layers, dim),
        }[self.layout]
        self.array = np.random.default_rng(7).integers(0, 1 << 16, dims, dtype=np.uint16)
        self.kv_buffer = FakeTensor(self.array)

    def _slice(self, page: int) -> tuple[Any, ...]:
        begin, end = page * self.page_size, (page + 1) * self.page_size
        if self.layout == "layer_first":
            return (slice(None), slice(None), slice(begin, end))
        return (slice(None), slice(begin, end) if self.layout == "page_first" else slice(page, page + 1))

    def flat(self, page: int) -> Array:
        flat: Array = self.array[self._slice(page)].reshape(-1)
        return flat

    def set_from_flat_data_page(self, index: int, data_page: FakeTensor) -> None:
        target = self.array[self._slice(index // self.page_size)]
        target[...] = data_page.array.reshape(target.shape)

    def get_page_buffer_meta(self, indices: Array) -> tuple[list[int], list[int]]:
        base, element = self.kv_buffer.data_ptr(), self.head_num * self.head_dim * 2
        v_offset = self.layer_num * self.size * element
        addresses = []
        starts = indices.tolist()[:: self.page_size]
        for start in starts:
            if self.layout == "layer_first":
                for layer in range(self.layer_num):
                    k = base + (start + layer * self.size) * element
                    addresses += [k, k + v_offset]
            else:
                k = base + start * self.layer_num * element
                addresses += [k, k + v_offset]
        layers = 1 if self.layout == "layer_first" else self.layer_num
        return addresses, [layers * self.page_size * element] * len(addresses)

    def get_split_heads_page_buffer_meta(self, indices: Array, factor: int) -> tuple[list[int], list[int]]:
        whole, sizes = self.get_page_buffer_meta(indices)
        piece = sizes[0] // factor
        addresses = []
        for k, v in zip(whole[0::2], whole[1::2], strict=True):
            for group in range(factor):
                addresses += [k + group * piece, v + group * piece]
        return addresses, [piece] * len(addresses)


class MLATokenToKVPoolHost(FakeHostPool):
    """One latent row per token and layer, 2 bytes an element."""

    def __init__(self, *, dim: int = 6, **shape: Any) -> None:
        super().__init__(**shape)
        self.kv_cache_dim = dim
        dims = {
            "layer_first": (self.layer_num, self.size, 1, dim),
            "page_first": (self.size, self.layer_num, 1, dim),
            "page_first_direct": (self.page_num, self.layer_num, self.page_size, 1, dim),
        }[self.layout]
        self.array = np.random.default_rng(8).integers(0, 1 << 16, dims, dtype=np.uint16)
        self.kv_buffer = FakeTensor(self.array)

    def _slice(self, page: int) -> tuple[Any, ...]:
        rows = slice(page * self.page_size, (page + 1) * self.page_size)
        if self.layout == "layer_first":
            return (slice(None), rows)
        return (rows,) if self.layout == "page_first" else (slice(page, page + 1),)

    def flat(self, page: int) -> Array:
        flat: Array = self.array[self._slice(page)].reshape(-1)
        return flat

    def set_from_flat_data_page(self, index: int, data_page: FakeTensor) -> None:
        target = self.array[self._slice(index // self.page_size)]
        target[...] = data_page.array.reshape(target.shape)

    def get_page_buffer_meta(self, indices: Array) -> tuple[list[int], list[int]]:
        base, row = self.kv_buffer.data_ptr(), self.kv_cache_dim * 2
        addresses = []
        for start in indices.tolist()[:: self.page_size]:
            if self.layout == "layer_first":
                addresses += [base + (start + layer * self.size) * row for layer in range(self.layer_num)]
            else:
                addresses.append(base + start * self.layer_num * row)
        layers = 1 if self.layout == "layer_first" else self.layer_num
        return addresses, [layers * self.page_size * row] * len(addresses)


class MambaPoolHost(FakeHostPool):
    """A state per page (page size 1) in two buffers; its pages can be copied, and addressed unless told otherwise."""

    dtype = "torch.float32"

    def __init__(self, *, page_count: int = 8, addressable: bool = True) -> None:
        super().__init__(layout="page_first", layers=2, page_size=1, page_count=page_count)
        self.addressable = addressable
        rng = np.random.default_rng(9)
        self.temporal = rng.integers(0, 256, (page_count, 32), dtype=np.uint8)
        self.conv = rng.integers(0, 256, (page_count, 12), dtype=np.uint8)
        self.kv_buffer = [FakeTensor(self.temporal), FakeTensor(self.conv)]

    def get_hybrid_pool_buffer(self) -> list[FakeTensor]:
        return self.kv_buffer

    def flat(self, page: int) -> Array:
        return np.concatenate([self.temporal[page], self.conv[page]])

    def set_from_flat_data_page(self, index: int, data_page: FakeTensor) -> None:
        self.temporal[index], self.conv[index] = data_page.array[:32], data_page.array[32:]

    def get_page_buffer_meta(self, indices: Array) -> tuple[list[int], list[int]]:
        if not self.addressable:
            raise NotImplementedError("registered side states")
        addresses, sizes = [], []
        for page in indices.tolist():
            addresses += [self.kv_buffer[0].data_ptr() + page * 32, self.kv_buffer[1].data_ptr() + page * 12]
            sizes += [32, 12]
        return addresses, sizes


@dataclass
class FakeCluster:
    """Namespaces of keys of bytes; ``down`` makes every call a miss, ``fail`` makes it raise."""

    blocks: dict[str, dict[str, bytes]] = field(default_factory=dict)
    identities: dict[str, bytes] = field(default_factory=dict)
    down: bool = False
    fail: Exception | None = None
    calls: list[tuple[str, int, int]] = field(default_factory=list)  # operation, keys, timeout_ms
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pages(self) -> dict[str, bytes]:
        """All page blocks of all namespaces by key; without the generation records."""
        return {
            key: block for blocks in self.blocks.values() for key, block in blocks.items() if "generation/" not in key
        }


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode()


class DictClient(Client):
    """The real client up to the network: its configuration, license, log lines and namespaces; its blocks in a dict."""

    cluster: FakeCluster

    def scoped(self, *, identity: Mapping[str, Any] | None, namespace: str | None = None) -> Client:
        client = super().scoped(identity=identity, namespace=namespace)
        client.__class__ = type(self)
        return client

    def _call(self, operation: str, keys: Sequence[Any], timeout_ms: int | None) -> dict[str, bytes] | None:
        self._begin(timeout_ms)
        with self.cluster.lock:
            self.cluster.calls.append((operation, len(keys), timeout_ms or 0))
        if self.cluster.fail is not None:
            raise self.cluster.fail
        recorded = self.cluster.identities.setdefault(self.namespace, self.identity)
        if self.cluster.down or recorded != self.identity:
            return None
        return self.cluster.blocks.setdefault(self.namespace, {})

    def put(self, keys: Any, sources: Any, *, meta: Any = None, timeout_ms: int | None = None) -> list[bool]:
        blocks = self._call("put", keys, timeout_ms)
        if blocks is None:
            return [False] * len(keys)
        for key, source in zip(keys, sources, strict=True):
            parts = source if isinstance(source, list) else [source]
            blocks[_text(key)] = b"".join(bytes(part) for part in parts)
        return [True] * len(keys)

    def get(self, keys: Any, targets: Any, *, with_meta: bool = False, timeout_ms: int | None = None) -> Any:
        blocks = self._call("get", keys, timeout_ms)
        return [
            self._fill(None if blocks is None else blocks.get(_text(key)), target)
            for key, target in zip(keys, targets, strict=True)
        ]

    @staticmethod
    def _fill(block: bytes | None, target: Any) -> int | None:
        parts = [memoryview(part).cast("B") for part in (target if isinstance(target, list) else [target])]
        if block is None or len(block) > sum(map(len, parts)):
            return None
        offset = 0
        for part in parts:
            piece = block[offset : offset + len(part)]
            part[: len(piece)] = piece
            offset += len(piece)
        return len(block)

    def exists(self, keys: Any, *, timeout_ms: int | None = None) -> list[bool]:
        blocks = self._call("exists", keys, timeout_ms)
        return [blocks is not None and _text(key) in blocks for key in keys]

    def lookup(self, keys: Any, *, timeout_ms: int | None = None) -> int:
        blocks = self._call("lookup", keys, timeout_ms)
        return next((at for at, key in enumerate(keys) if blocks is None or _text(key) not in blocks), len(keys))


def storage_config(**fields: Any) -> SimpleNamespace:
    """sglang 0.5.23's HiCacheStorageConfig."""
    defaults: dict[str, Any] = {
        "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1,
        "is_mla_model": False, "enable_storage_metrics": False, "is_page_first_layout": True,
        "model_name": "org/tiny", "tp_lcm_size": None, "should_split_heads": False, "dp_rank": 0,
        "extra_config": {"interface_v1": 1}, "dcp_size": 1, "dcp_rank": 0, "logical_page_size": None,
    }  # fmt: skip
    return SimpleNamespace(**{**defaults, **fields})


def hashes(*numbers: int) -> list[str]:
    """Page hashes as sglang makes them: 64 hex digits."""
    return [f"{number:064x}" for number in numbers]
