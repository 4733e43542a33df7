# SPDX-License-Identifier: Apache-2.0
"""A namespace is dropped on all nodes by one command; no node brings a block of it back after kill -9."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Cluster

KEYS = [f"block-{number}" for number in range(200)]
BLOCK_BYTES = 16 * 1024


def _memkv(cluster: Cluster, *words: str) -> list[dict[str, Any]]:
    ran = subprocess.run(
        ["memkv", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **cluster.env},
    )
    assert ran.returncode == 0, ran.stderr
    nodes: list[dict[str, Any]] = json.loads(ran.stdout)["nodes"]
    return nodes


def test_dropped_on_all_nodes_for_good(cluster: Cluster) -> None:
    with cluster.client(namespace="doomed") as doomed, cluster.client(namespace="kept") as kept:
        for client in (doomed, kept):
            assert all(client.put(KEYS, [os.urandom(BLOCK_BYTES) for _ in KEYS]))
        before = _memkv(cluster, "admin", "namespaces")
        records = [{row["name"]: row["records"] for row in node["namespaces"]} for node in before]
        assert min(of_node["doomed"] for of_node in records) > 50, "on both nodes"
        assert sum(of_node["doomed"] for of_node in records) == len(KEYS)

        dropped = _memkv(cluster, "admin", "drop", "doomed", "--yes")
        assert sum(node["records"] for node in dropped) == len(KEYS)
        assert not any(doomed.exists(KEYS))
        assert all(kept.exists(KEYS))
    for node, pids in enumerate([cluster.pids(node) for node in range(2)]):
        cluster.kill(node, pids)
    cluster.up()
    with cluster.client(namespace="doomed") as doomed, cluster.client(namespace="kept") as kept:
        targets = [bytearray(BLOCK_BYTES) for _ in KEYS]
        assert doomed.get(KEYS, targets, timeout_ms=60_000) == [None] * len(KEYS)
        assert not any(doomed.exists(KEYS))
        assert all(kept.exists(KEYS))
        assert all(doomed.put(KEYS, targets))
        assert all(doomed.exists(KEYS))
