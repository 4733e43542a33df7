# SPDX-License-Identifier: Apache-2.0
"""LMCache's own NIXL storage, unpatched, on MemKV's plugin under the name OBJ: real engine, real agent, real node.

Its pool mode names objects at random, so that nothing is ever found again; the mode without a pool is the one to use.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lmcache_rig import paged
from lmcache_rig.engine import CHUNK_TOKENS, Engine, write_yaml
from lmcache_rig.versions import NIXL
from memkv_rig.cluster import Cluster, wait_until

from memkv_core import Client, ClientConfig

Make = Callable[..., Engine]
TOKENS = torch.randint(0, 30_000, (300,), generator=torch.Generator().manual_seed(1))
SLOTS = torch.randperm(paged.BLOCK_COUNT * paged.BLOCK_TOKENS, generator=torch.Generator().manual_seed(2))[:300]
CHUNKS = len(TOKENS) // CHUNK_TOKENS
WHOLE = CHUNKS * CHUNK_TOKENS
CACHES = paged.random_caches(3)
NAMESPACE = "lmcache-nixl"
DEADLINE_MS = 1500
SLACK_S = 3.0  # of a machine that is busy with something else


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A mirror of NIXL's folder in which OBJ is MemKV. NIXL looks into it once in a process."""
    assert NIXL.is_dir(), "prepare.py makes it"
    sys.path.append(str(NIXL))
    from memkv_nixl._compat import require_builds
    from memkv_nixl.mirror import mirror

    return str(mirror(require_builds()[0], ("OBJ",), cache=tmp_path_factory.mktemp("cache")))


@pytest.fixture
def make(cluster: Cluster, plugins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes an engine, in place of the one before it. Options are LMCache's, of its NIXL storage."""
    monkeypatch.setenv("NIXL_PLUGIN_DIR", plugins)
    # It warns of each page of its own that is there when it closes.
    logging.getLogger("lmcache.v1.memory_management").setLevel(logging.ERROR)
    made: list[Engine] = []

    def start(**options: Any) -> Engine:
        stop()
        params = {"bucket": NAMESPACE, "timeout_ms": str(DEADLINE_MS)}
        storage = {"enable_nixl_storage": True, "nixl_backend": "OBJ", "nixl_pool_size": 0}
        extra = {**storage, "nixl_backend_params": params, **options}
        settings: dict[str, Any] = {"nixl_buffer_device": "cpu", "save_unfull_chunk": False}
        yaml = write_yaml(tmp_path / "lmcache.yaml", {"extra_config": extra}, **settings)
        made.append(Engine(yaml, f"nixl-{len(made)}"))
        return made[-1]

    def stop() -> None:
        if made:
            made[-1].close()

    yield start
    stop()


def same(caches: list[torch.Tensor], count: int) -> bool:
    """Whether the first ``count`` tokens are CACHES', bit for bit, and no other slot was written."""
    expected = paged.empty_caches()
    for cache, source in zip(expected, CACHES, strict=True):
        cache[:, SLOTS[:count]] = source[:, SLOTS[:count]]
    return all(torch.equal(a.view(torch.int16), b.view(torch.int16)) for a, b in zip(caches, expected, strict=True))


def names(engine: Engine) -> list[str]:
    """The objects' names, as LMCache makes them."""
    storage = engine.engine.storage_manager.storage_backends["NixlStorageBackend"]
    return [storage._format_object_key(key) for _, _, key in engine.engine.token_database.process_tokens(tokens=TOKENS)]


def store(engine: Engine, client: Client) -> list[str]:
    """Stores CACHES and waits until all is there: the objects' names."""
    engine.store(TOKENS, CACHES, SLOTS)
    named = names(engine)[:CHUNKS]
    assert wait_until(lambda: all(client.exists(named)))
    return named


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(ClientConfig.load(namespace=NAMESPACE)) as made:
        yield made


@pytest.mark.parametrize("options", [{}, {"nixl_async_put": True}, {"nixl_presence_cache": True}], ids=str)
def test_a_fresh_engine_hits(make: Make, cluster: Cluster, client: Client, options: dict[str, Any]) -> None:
    first = make(**options)
    assert first.lookup(TOKENS) == 0
    store(first, client)
    assert cluster.record_count() == CHUNKS
    second = make(**options)
    found = paged.empty_caches()
    assert second.lookup(TOKENS) == WHOLE
    assert second.retrieve(TOKENS[:WHOLE], found, SLOTS) == WHOLE
    assert same(found, WHOLE)


def test_what_is_gone_before_it_is_loaded_is_a_miss(make: Make, client: Client) -> None:
    """LMCache catches NIXL_ERR_BACKEND and nothing else; one object that is gone costs it the whole batch."""
    engine = make()
    named = store(engine, client)
    assert engine.lookup(TOKENS) == WHOLE
    assert client.delete(named[2:3]) == [True]
    found = paged.empty_caches()
    assert engine.retrieve(TOKENS[:WHOLE], found, SLOTS) == 0
    assert same(found, 0)
    assert engine.lookup(TOKENS) == 2 * CHUNK_TOKENS
    assert engine.retrieve(TOKENS[: 2 * CHUNK_TOKENS], found, SLOTS) == 2 * CHUNK_TOKENS
    assert same(found, 2 * CHUNK_TOKENS)


def test_a_frozen_node_costs_one_deadline(make: Make, cluster: Cluster, client: Client) -> None:
    engine = make()
    store(engine, client)
    assert engine.lookup(TOKENS) == WHOLE
    with cluster.frozen():
        found = paged.empty_caches()
        started_s = time.monotonic()
        assert engine.retrieve(TOKENS[:WHOLE], found, SLOTS) == 0
        assert time.monotonic() - started_s < DEADLINE_MS / 1000 + SLACK_S
        assert same(found, 0)
        assert engine.lookup(TOKENS) == 0
    assert wait_until(lambda: engine.lookup(TOKENS) == WHOLE), "it does not come back"
    assert engine.retrieve(TOKENS[:WHOLE], found, SLOTS) == WHOLE
    assert same(found, WHOLE)
