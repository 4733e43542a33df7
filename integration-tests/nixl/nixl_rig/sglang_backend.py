# SPDX-License-Identifier: Apache-2.0
"""sglang's own NIXL backend, the real class, on the CPU: stores pages, looks them up and reads them back.

    python sglang_backend.py PLUGIN PARAMS          (JSON; what is found goes to stdout as JSON, on the last line)

sglang's packages are entered without their ``__init__``, which want a GPU; the backend's own modules are untouched.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch

PAGES, PAGE_BYTES, PAGE_TOKENS = 32, 4 * 16 * 128, 16


def enter_sglang() -> None:
    """Modules that stand for sglang's packages, and for the two that need a GPU."""
    spec = importlib.util.find_spec("sglang")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for name in ("", ".srt", ".srt.mem_cache", ".srt.utils"):
        module = types.ModuleType(f"sglang{name}")
        module.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[module.__name__] = module
    for name, member, value in (
        ("sglang.srt.mem_cache.pool_host", "HostKVCache", object),
        ("sglang.srt.mem_cache.storage.mmap", "alloc_mmap", lambda shape, dtype: torch.zeros(shape, dtype=dtype)),
    ):
        module = types.ModuleType(name)
        setattr(module, member, value)
        sys.modules[name] = module


class Pool:
    """What the backend asks of sglang's host pool."""

    layout, page_size, pin_memory, dtype = "layer_first", PAGE_TOKENS, False, torch.uint8

    def __init__(self) -> None:
        self.kv_buffer = torch.randint(0, 255, (PAGES, PAGE_BYTES), dtype=torch.uint8)

    def get_dummy_flat_data_page(self) -> torch.Tensor:
        return torch.zeros(PAGE_BYTES, dtype=torch.uint8)

    def get_data_page(self, index: Any, flat: bool = True) -> torch.Tensor:
        return self.kv_buffer[int(index) // PAGE_TOKENS]

    def set_from_flat_data_page(self, index: Any, page: torch.Tensor) -> None:
        self.kv_buffer[int(index) // PAGE_TOKENS].copy_(page)


def main() -> None:
    enter_sglang()
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
    from sglang.srt.mem_cache.storage.nixl.hicache_nixl import HiCacheNixl

    plugin = {sys.argv[1]: {"active": True, **json.loads(sys.argv[2])}}
    config = HiCacheStorageConfig(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1, is_mla_model=False,
        enable_storage_metrics=False, is_page_first_layout=False, model_name="org/m", extra_config={"plugin": plugin},
    )  # fmt: skip
    backend, pool = HiCacheNixl(config), Pool()
    backend.register_mem_pool_host(pool)
    keys, indices = [f"hash{number:04x}" for number in range(PAGES)], torch.arange(PAGES * PAGE_TOKENS)
    found: dict[str, Any] = {"kind": backend.backend_selector.mem_type, "before": backend.batch_exists(keys)}
    found["set"] = sum(backend.batch_set_v1(keys, indices))
    found["exists"] = backend.batch_exists(keys)
    found["prefix"] = backend.batch_exists([*keys[:5], "another", *keys[5:]])
    stored = pool.kv_buffer.clone()
    pool.kv_buffer.zero_()
    found["get"] = sum(backend.batch_get_v1(keys, indices))
    found["equal"] = bool(torch.equal(stored, pool.kv_buffer))
    found["missing"] = list(backend.batch_get_v1(["nope1", "nope2"], indices[: 2 * PAGE_TOKENS]))
    backend.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
