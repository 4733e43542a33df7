# SPDX-License-Identifier: Apache-2.0
"""In-process mode: LMCache's own engine, our storage plugin and our remote connector, a real node."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lmcache_rig import paged
from lmcache_rig.engine import CHUNK_TOKENS, REMOTE_PLUGIN, STORAGE_PLUGIN, Engine, write_yaml
from memkv_rig.cluster import Cluster

Make = Callable[..., Engine]
TOKEN_COUNT = 300
WHOLE = TOKEN_COUNT // CHUNK_TOKENS * CHUNK_TOKENS
DEADLINE_MS = 1000
SLACK_S = 2.0  # of a machine that is busy with something else

TOKENS = torch.randint(0, 30_000, (TOKEN_COUNT,), generator=torch.Generator().manual_seed(1))
SLOTS = torch.randperm(paged.BLOCK_COUNT * paged.BLOCK_TOKENS, generator=torch.Generator().manual_seed(2))[:TOKEN_COUNT]
CACHES = paged.random_caches(3)

MODES = {
    "whole chunks": (STORAGE_PLUGIN, {}, WHOLE),
    "partial chunk": (STORAGE_PLUGIN, {"save_unfull_chunk": True}, TOKEN_COUNT),
    "layerwise": (STORAGE_PLUGIN, {"use_layerwise": True}, WHOLE),
    "layerwise, partial": (STORAGE_PLUGIN, {"use_layerwise": True, "save_unfull_chunk": True}, TOKEN_COUNT),
    "remote connector": (REMOTE_PLUGIN, {}, WHOLE),
    "remote connector, partial": (REMOTE_PLUGIN, {"save_unfull_chunk": True}, TOKEN_COUNT),
}


@pytest.fixture
def make(cluster: Cluster, tmp_path: Path) -> Iterator[Make]:
    """Makes an engine, in place of the one before it."""
    made: list[Engine] = []

    def start(
        plugin: dict[str, Any] = STORAGE_PLUGIN, *, rank: int = 0, world_size: int = 1, **settings: Any
    ) -> Engine:
        stop()
        yaml = write_yaml(tmp_path / "lmcache.yaml", plugin, **settings)
        made.append(Engine(yaml, f"engine-{len(made)}", rank=rank, world_size=world_size))
        return made[-1]

    def stop() -> None:
        if made and made[-1] is not None:
            made[-1].close()

    yield start
    stop()


def same(caches: list[torch.Tensor], count: int) -> bool:
    """Whether the first ``count`` tokens are CACHES', bit for bit, and no other slot was written."""
    taken = SLOTS[:count]
    expected = paged.empty_caches()
    for cache, source in zip(expected, CACHES, strict=True):
        cache[:, taken] = source[:, taken]
    return all(torch.equal(a.view(torch.int16), b.view(torch.int16)) for a, b in zip(caches, expected, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_engine_hits(make: Make, mode: str) -> None:
    plugin, settings, expected = MODES[mode]
    first = make(plugin, **settings)
    assert first.lookup(TOKENS) == 0
    first.store(TOKENS, CACHES, SLOTS)
    first.settle()
    second = make(plugin, **settings)
    found = paged.empty_caches()
    assert second.lookup(TOKENS) == expected
    assert second.retrieve(TOKENS[:expected], found, SLOTS) == expected
    assert same(found, expected)
    second.settle()


def test_a_fresh_process_hits(cluster: Cluster, tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path / "lmcache.yaml", STORAGE_PLUGIN, save_unfull_chunk=True)
    said = []
    for what in ("store", "retrieve"):
        command = [sys.executable, "-m", "lmcache_rig.process", what, str(yaml), str(TOKEN_COUNT)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr[-4000:]
        said.append(json.loads(ran.stdout.splitlines()[-1]))
    stored, retrieved = said
    assert stored["found"] == 0
    assert retrieved["found"] == TOKEN_COUNT
    assert retrieved["digest"] == stored["digest"]


@pytest.mark.parametrize("settings", [{}, {"save_unfull_chunk": True}], ids=["whole", "partial"])
def test_async_loading(make: Make, settings: dict[str, Any]) -> None:
    expected = TOKEN_COUNT if settings else WHOLE
    first = make(enable_async_loading=True, **settings)
    first.store(TOKENS, CACHES, SLOTS)
    first.settle()
    second = make(enable_async_loading=True, **settings)
    found = paged.empty_caches()
    assert second.prefetch(TOKENS, "r1") == expected
    assert second.retrieve(TOKENS[:expected], found, SLOTS, request="r1") == expected
    assert same(found, expected)
    # A hole ends what is promised, and what came behind it is given back.
    chunks = list(second.engine.token_database.process_tokens(tokens=TOKENS))
    second.plugin.remove(chunks[2][2])
    assert second.prefetch(TOKENS, "r2") == 2 * CHUNK_TOKENS
    assert second.retrieve(TOKENS[: 2 * CHUNK_TOKENS], paged.empty_caches(), SLOTS, request="r2") == 2 * CHUNK_TOKENS
    second.settle()


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("hole", [0, 2, 3])
def test_a_hole_ends_what_is_retrieved(make: Make, hole: int, layerwise: bool) -> None:
    engine = make(use_layerwise=layerwise)
    engine.store(TOKENS, CACHES, SLOTS)
    engine.settle()
    gone = list(engine.engine.token_database.process_tokens(tokens=TOKENS))[hole][2]
    engine.plugin.batched_remove(gone.split_layers(paged.LAYER_COUNT)[-1:] if layerwise else [gone])
    assert engine.lookup(TOKENS) == hole * CHUNK_TOKENS
    found = paged.empty_caches()
    if hole:
        assert engine.retrieve(TOKENS, found, SLOTS) == hole * CHUNK_TOKENS
    assert same(found, hole * CHUNK_TOKENS)
    engine.settle()


def test_altered_bytes_are_a_miss(make: Make, cluster: Cluster) -> None:
    engine = make()
    engine.store(TOKENS, CACHES, SLOTS)
    engine.settle()
    assert cluster.flip_stored_bytes() > 0
    found = paged.empty_caches()
    engine.lookup(TOKENS)
    assert engine.retrieve(TOKENS, found, SLOTS) == 0
    assert same(found, 0)
    engine.settle()


@pytest.mark.parametrize("plugin", [STORAGE_PLUGIN, REMOTE_PLUGIN], ids=["storage plugin", "remote connector"])
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_node_that_is_gone_costs_one_deadline(
    make: Make, cluster: Cluster, plugin: dict[str, Any], fault: str
) -> None:
    engine = make(plugin, options={"timeout_ms": DEADLINE_MS})
    engine.store(TOKENS, CACHES, SLOTS)
    engine.settle()
    other = torch.flip(TOKENS, [0])
    if fault == "killed":
        cluster.kill()
    with cluster.frozen() if fault == "frozen" else contextlib.nullcontext():
        calls: list[Callable[[], Any]] = [
            lambda: engine.lookup(TOKENS),
            lambda: engine.store(other, CACHES, SLOTS),
            lambda: engine.retrieve(TOKENS, paged.empty_caches(), SLOTS),
        ]
        for call in calls:
            begun = time.monotonic()
            assert not call()
            assert time.monotonic() - begun < DEADLINE_MS / 1000 + SLACK_S
        begun = time.monotonic()
        for _ in range(10):
            assert [call() for call in calls] == [0, None, 0]
        assert time.monotonic() - begun < DEADLINE_MS / 1000, "thirty calls, less than one deadline"
        engine.settle()


def test_layerwise_a_node_that_is_gone_costs_one_deadline(make: Make, cluster: Cluster) -> None:
    """Without a retrieve: LMCache asks for one only after a hit, and fails by itself where there is nothing."""
    engine = make(use_layerwise=True, options={"timeout_ms": DEADLINE_MS})
    engine.store(TOKENS, CACHES, SLOTS)
    engine.settle()
    with cluster.frozen():
        begun = time.monotonic()
        assert engine.lookup(TOKENS) == 0
        engine.store(torch.flip(TOKENS, [0]), CACHES, SLOTS)
        assert time.monotonic() - begun < 2 * DEADLINE_MS / 1000 + SLACK_S
        begun = time.monotonic()
        assert [engine.lookup(TOKENS) for _ in range(10)] == [0] * 10
        assert time.monotonic() - begun < DEADLINE_MS / 1000
        engine.settle()


def test_async_loading_answers_when_a_node_is_frozen(make: Make, cluster: Cluster) -> None:
    engine = make(enable_async_loading=True, options={"timeout_ms": DEADLINE_MS})
    engine.store(TOKENS, CACHES, SLOTS)
    engine.settle()
    with cluster.frozen():
        assert [engine.prefetch(TOKENS, f"r{turn}", timeout_s=10) for turn in range(5)] == [0] * 5
    engine.settle()


def test_two_replicas_share_and_what_differs_does_not(make: Make) -> None:
    first = make(options={"prefix": "fleet-a"})
    tags = {"lmcache.tag.tenant": "a"}
    first.store(TOKENS, CACHES, SLOTS, request_configs=tags)
    first.settle()
    assert first.lookup(TOKENS, request_configs=tags) == WHOLE
    assert first.lookup(TOKENS, request_configs={"lmcache.tag.tenant": "b"}) == 0
    assert first.lookup(TOKENS) == 0
    replica = make(options={"prefix": "fleet-a"})
    assert replica.lookup(TOKENS, request_configs=tags) == WHOLE
    for settings in ({"options": {"prefix": "fleet-b"}}, {"options": {"prefix": "fleet-a", "tag": "rev-2"}}):
        assert make(**settings).lookup(TOKENS, request_configs=tags) == 0
    assert make(options={"prefix": "fleet-a"}, chunk_size=32).lookup(TOKENS, request_configs=tags) == 0


def test_tensor_parallel_ranks_keep_apart(make: Make) -> None:
    first = make(rank=0, world_size=2)
    first.store(TOKENS, CACHES, SLOTS)
    first.settle()
    assert make(rank=1, world_size=2).lookup(TOKENS) == 0
    assert make(rank=0, world_size=2).lookup(TOKENS) == WHOLE
