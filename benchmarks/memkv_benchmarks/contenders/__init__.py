# SPDX-License-Identifier: Apache-2.0
"""What is measured, a module each. A contender runs in a process of its own, under the Python that has its library."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final

from memkv_benchmarks.contenders.base import Contender


@dataclass(frozen=True)
class Entry:
    """Where a contender is, what it is called, and which environment of nox has what it needs."""

    module: str
    title: str
    environment: str = "peers"
    option: str = ""


ENTRIES: Final = {
    "memkv-tcp": Entry("memkv_store", "MemKV tcp", option="tcp/file"),
    "memkv-shm": Entry("memkv_store", "MemKV shm", option="shm/file"),
    "memkv-tcp-memory": Entry("memkv_store", "MemKV tcp, mode memory", option="tcp/memory"),
    "raw": Entry("raw_loopback", "C loopback"),
    "memmove": Entry("memmove", "memmove"),
    "mooncake": Entry("mooncake_store", "Mooncake Store, tcp"),
    "redis": Entry("redis_store", "Redis"),
    "memcached": Entry("memcached", "memcached"),
    "lmcache": Entry("lmcache_server", "LMCache lm://", environment="engine-lmcache"),
    "hicache": Entry("hicache_file", "sglang HiCacheFile", environment="engine-sglang"),
    "nixl": Entry("nixl_posix", "NIXL POSIX", environment="engine-nixl"),
}


def make(name: str) -> Contender:
    """The contender, its servers running. Raises whatever says why it cannot be had."""
    entry = ENTRIES[name]
    module = importlib.import_module(f"memkv_benchmarks.contenders.{entry.module}")
    made: Contender = module.make(entry.option) if entry.option else module.make()
    return made
