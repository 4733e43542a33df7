# SPDX-License-Identifier: Apache-2.0
"""Backends without an engine and without a network; the fakes are in ``sglang_fakes.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from memkv_core import ClientConfig
from memkv_core.authority import Authority
from memkv_sglang import backend
from memkv_sglang.backend import MemKVHiCacheStorage

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out, so that test files may share names

from sglang_fakes import AUTH_KEY, DictClient, FakeCluster, storage_config


@pytest.fixture
def memkv_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A license, a key and a server's address in the environment; nothing listens there."""
    authority = Authority.create(tmp_path / "authority")
    for name in ("MEMKV_CONFIG", "MEMKV_NAMESPACE", "MEMKV_TIMEOUT_MS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEMKV_SERVERS", "127.0.0.1:9,127.0.0.2:9")
    monkeypatch.setenv("MEMKV_AUTH_KEY", AUTH_KEY)
    monkeypatch.setenv("MEMKV_LICENSE", authority.issue("tests", plan="enterprise", days=1))
    monkeypatch.setenv("MEMKV_LICENSE_KEYS", str(authority.public_keys))
    monkeypatch.setenv("MEMKV_TRANSPORT", "tcp")
    return monkeypatch


@pytest.fixture
def cluster(memkv_env: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """A cluster that is a dict; every backend made in the test uses it."""
    made = FakeCluster()
    client = type("ClusterClient", (DictClient,), {"cluster": made})
    memkv_env.setattr(backend, "Client", client)
    yield made
    assert ClientConfig.load().servers == ("127.0.0.1:9", "127.0.0.2:9")


@pytest.fixture
def make(cluster: FakeCluster) -> Iterator[Callable[..., MemKVHiCacheStorage]]:
    """Makes backends; ``pool`` is registered as the KV pool, the rest goes into the storage config."""
    made: list[MemKVHiCacheStorage] = []

    def make_backend(pool: Any = None, *, extra: Mapping[str, Any] | None = None, **fields: Any) -> MemKVHiCacheStorage:
        if extra is not None:
            fields["extra_config"] = {"interface_v1": 1, **extra}
        storage = MemKVHiCacheStorage(storage_config(**fields), {})
        if pool is not None:
            storage.register_mem_pool_host(pool)
        made.append(storage)
        return storage

    yield make_backend
    for storage in made:
        storage.close()
