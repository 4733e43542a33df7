# SPDX-License-Identifier: Apache-2.0
"""Adapters without LMCache and torch, against a server of the testing kit behind real sockets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.authority import Authority
from memkv_core.testing.socket_server import SocketServer

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out, so that test files may share names

from lmcache_fakes import AUTH_KEY, Allocator, Metadata, config

from memkv_lmcache.backend import MemKVStorageBackend
from memkv_lmcache.l2_adapter import MemKVL2Adapter, MemKVL2AdapterConfig


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketServer]:
    """A server; its address, a key and a license stand in the environment."""
    authority = Authority.create(tmp_path / "authority")
    for name in ("MEMKV_CONFIG", "MEMKV_NAMESPACE", "MEMKV_TIMEOUT_MS", "MEMKV_CONNECTIONS"):
        monkeypatch.delenv(name, raising=False)
    with SocketServer([bytes.fromhex(AUTH_KEY)]) as made:
        monkeypatch.setenv("MEMKV_SERVERS", made.address)
        monkeypatch.setenv("MEMKV_AUTH_KEY", AUTH_KEY)
        monkeypatch.setenv("MEMKV_LICENSE", authority.issue("tests", plan="enterprise", days=1))
        monkeypatch.setenv("MEMKV_LICENSE_KEYS", str(authority.public_keys))
        monkeypatch.setenv("MEMKV_TRANSPORT", "tcp")
        yield made
        made.thaw()


@pytest.fixture
def make_l2(server: SocketServer) -> Iterator[Callable[..., MemKVL2Adapter]]:
    """Makes L2 adapters from ``adapter_params``, and closes them."""
    made: list[MemKVL2Adapter] = []

    def make(l1_memory_desc: Any = None, **params: Any) -> MemKVL2Adapter:
        adapter = MemKVL2Adapter(MemKVL2AdapterConfig.from_dict(params), l1_memory_desc=l1_memory_desc)
        made.append(adapter)
        return adapter

    yield make
    for adapter in made:
        adapter.close()


@pytest.fixture
def make_backend(server: SocketServer) -> Iterator[Callable[..., MemKVStorageBackend]]:
    """Makes storage plugins and closes them; then every object must have been given back.

    ``extra``: settings under the plugin's name. ``allocator`` None makes the scheduler's.
    """
    made: list[MemKVStorageBackend] = []

    def make(
        *, extra: Any = None, allocator: Any = Allocator, settings: Any = None, **metadata: Any
    ) -> MemKVStorageBackend:
        plugin = {"storage_plugin.memkv.module_path": "memkv_lmcache.backend"}
        plugin.update({f"storage_plugin.memkv.{name}": value for name, value in (extra or {}).items()})
        backend = MemKVStorageBackend(
            config=config(extra_config=plugin, **(settings or {})),
            dst_device="cpu",
            metadata=Metadata(**metadata),
            local_cpu_backend=allocator() if allocator is Allocator else allocator,
            loop=None,
        )
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.close()
        if backend.local_cpu_backend is not None:
            assert backend.local_cpu_backend.used_bytes == 0, "objects leaked"
