# SPDX-License-Identifier: Apache-2.0
"""Lets the real sglang run on a machine without a GPU. Installed beside it by ``prepare.py``; not a part of MemKV.

A ``.pth`` file imports this module at every start of the interpreter, since sglang spawns its scheduler as a process
of its own. Nothing is imported until sglang imports it; then four things are put right:

* torchvision's wheel links to CUDA and cannot declare two operators beside a CPU build of torch. They are declared
  first, and never called.
* one module of vLLM is imported for a function that only other models call.
* host pools pin their memory with CUDA, and keep 10 GiB of the machine free: neither on a test machine.
* the copies between device and host pools are CUDA kernels: here they are torch's indexing, for every layout.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

RESERVE_BYTES = 512 * 1024**2
_keep: list[Any] = []  # torch forgets an operator library whose object dies


def _declare_vision_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    _keep.append(library)


def _rotary_embedding(*_: Any) -> None:
    raise RuntimeError("vLLM's rotary embedding is not there on a CPU, and no test model needs it")


# -- host pools --------------------------------------------------------------------------------------------------------
def _base(module: ModuleType) -> None:
    module.HICACHE_HOST_MEMORY_RESERVE_BYTES = RESERVE_BYTES  # type: ignore[attr-defined]
    original = module.HostKVCache.__init__

    def without_pinning(self: Any, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **{**named, "pin_memory": False})

    module.HostKVCache.__init__ = without_pinning


def _common(module: ModuleType) -> None:
    module._cuda_host_register = lambda *_, **__: None  # type: ignore[attr-defined]


def _where(pool: Any, layer: int, slots: Any) -> tuple[Any, ...]:
    """The index of ``slots`` of one layer in a host buffer of the pool's layout."""
    page, within = slots // pool.page_size, slots % pool.page_size
    index: tuple[Any, ...] = {
        "layer_first": (layer, slots),
        "page_first": (slots, layer),
        "page_first_direct": (page, layer, within),
        "page_head": (page, slice(None), within, layer),
    }[pool.layout]
    return index


def _copies(buffers: Callable[[Any], Sequence[tuple[Any, Sequence[Any]]]]) -> tuple[Any, Any]:
    """(load one layer, back up all layers) for pools whose ``buffers`` are pairs: host tensor, device layers."""

    def load(
        self: Any, device_pool: Any, host_indices: Any, device_indices: Any, layer_id: int, io_backend: str, **more: Any
    ) -> None:
        if not more.get("is_draft") and not 0 <= layer_id < self.target_layer_num:
            return
        host_slots, device_slots = host_indices.cpu().long(), device_indices.cpu().long()
        for host, device in buffers(self):
            rows = host[_where(self, layer_id, host_slots)]
            device[layer_id][device_slots] = rows.reshape(device[layer_id][device_slots].shape)

    def back_up(self: Any, device_pool: Any, host_indices: Any, device_indices: Any, io_backend: str) -> None:
        host_slots, device_slots = host_indices.cpu().long(), device_indices.cpu().long()
        for host, device in buffers(self):
            for layer in range(self.layer_num):
                host[_where(self, layer, host_slots)] = device[layer][device_slots]

    return load, back_up


def _mha(module: ModuleType) -> None:
    load, back_up = _copies(
        lambda pool: ((pool.k_buffer, pool.device_k_buffers), (pool.v_buffer, pool.device_v_buffers))
    )
    module.MHATokenToKVPoolHost.load_to_device_per_layer = load
    module.MHATokenToKVPoolHost.backup_from_device_all_layer = back_up


def _mla(module: ModuleType) -> None:
    load, back_up = _copies(lambda pool: ((pool.kv_buffer, pool.device_kv_buffers),))
    module.MLATokenToKVPoolHost.load_to_device_per_layer = load
    module.MLATokenToKVPoolHost.backup_from_device_all_layer = back_up


_POOLS = "sglang.srt.mem_cache.pool_host."
_AFTER: dict[str, Callable[[ModuleType], None]] = {
    f"{_POOLS}base": _base,
    f"{_POOLS}common": _common,
    f"{_POOLS}mha": _mha,
    f"{_POOLS}mla": _mla,
}
_STUBS: dict[str, dict[str, Any]] = {"vllm": {}, "vllm._custom_ops": {"rotary_embedding": _rotary_embedding}}


class _Stub(importlib.abc.Loader):
    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(_STUBS[module.__name__])


class _Patched(importlib.abc.Loader):
    """The module's own loader, and then the patch."""

    def __init__(self, loader: Any, patch: Callable[[ModuleType], None]) -> None:
        self._loader, self._patch = loader, patch

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._patch(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self._declared = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname == "torchvision" and not self._declared:
            self._declared = True
            _declare_vision_operators()
        elif fullname in _STUBS:
            return importlib.util.spec_from_loader(fullname, _Stub(), is_package=fullname == "vllm")
        elif fullname in _AFTER:
            spec = importlib.machinery.PathFinder.find_spec(fullname, path)
            if spec is not None:
                spec.loader = _Patched(spec.loader, _AFTER[fullname])
            return spec
        return None


sys.meta_path.insert(0, _Finder())
