# SPDX-License-Identifier: Apache-2.0
"""sglang's file backend, a file for each page: the page cache of this machine, no other process."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig

from memkv_benchmarks.contenders.base import Blocks, ContenderError


class HiCache:
    synthetic = False

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="memkv-peers-")
        known = HiCacheStorageConfig.__dataclass_fields__
        fields = {
            "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1,
            "is_mla_model": False, "enable_storage_metrics": False, "is_page_first_layout": True,
            "model_name": "bench", "extra_config": {},
        }  # fmt: skip
        config = HiCacheStorageConfig(**{name: value for name, value in fields.items() if name in known})
        self._store = HiCacheFile(config, self._folder.name)

    def versions(self) -> str:
        return f"HiCacheFile of sglang {importlib.metadata.version('sglang')}, batch_set and batch_get, page cache"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        self._sources = [torch.from_numpy(row) for row in source]
        self._targets = [torch.from_numpy(row) for row in target]

    def put(self, keys: Sequence[str]) -> None:
        if not self._store.batch_set(keys, self._sources):
            raise ContenderError("a page was not stored")

    def get(self, keys: Sequence[str]) -> None:
        if any(found is None for found in self._store.batch_get(keys, self._targets)):
            raise ContenderError("a page is missing")

    def exists(self, keys: Sequence[str]) -> int:
        return int(self._store.exists(keys[0])) if len(keys) == 1 else int(self._store.batch_exists(keys))

    def forget(self, keys: Sequence[str]) -> None:
        gone = set(keys)
        for path in Path(self._folder.name).iterdir():
            if path.name.split("_")[0] in gone:
                path.unlink()

    def close(self) -> None:
        self._folder.cleanup()


make = HiCache
