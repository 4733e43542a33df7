# SPDX-License-Identifier: Apache-2.0
"""Two real nodes: how keys spread, and what a node that is dead or frozen costs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from memkv_core import Client
from memkv_core.router import Router, key_hash, namespace_seed

if TYPE_CHECKING:
    from conftest import Cluster

TIMEOUT_MS = 2000
SLACK_S = 2.0  # a busy machine; what is asserted is that no call waits for more than its own deadline
BLOCK_BYTES = 64 * 1024
KEYS = [f"block-{number:05d}" for number in range(400)]


def _values() -> list[bytes]:
    return [os.urandom(BLOCK_BYTES) for _ in KEYS]


def _read(client: Client) -> list[bytes | None]:
    targets = [bytearray(BLOCK_BYTES) for _ in KEYS]
    lengths = client.get(KEYS, targets)
    return [None if length is None else bytes(target) for length, target in zip(lengths, targets)]


def _node_of_key(client: Client) -> list[int]:
    seed = namespace_seed(client.namespace)
    return Router(client.servers).place([key_hash(key.encode(), seed) for key in KEYS])


def test_keys_spread_evenly(cluster: Cluster) -> None:
    keys = [f"spread-{number}" for number in range(20_000)]
    with cluster.client() as client:
        assert all(client.put(keys, [b"x"] * len(keys), timeout_ms=60_000))
        assert client.exists(keys, timeout_ms=60_000).count(True) == len(keys)
    records = [cluster.status(node)["storage"]["records"] for node in (0, 1)]
    assert sum(records) == len(keys)
    assert all(abs(count - len(keys) / 2) <= 0.10 * len(keys) / 2 for count in records), records


def test_a_killed_node_costs_its_own_keys_only(cluster: Cluster) -> None:
    values = _values()
    with cluster.client(timeout_ms=TIMEOUT_MS) as client:
        assert client.put(KEYS, values) == [True] * len(KEYS)
        assert _read(client) == values
        nodes = _node_of_key(client)
        cluster.kill(0)
        for _ in range(5):
            started_s = time.monotonic()
            found = _read(client)
            assert time.monotonic() - started_s < TIMEOUT_MS / 1000 + SLACK_S
            assert found == [value if node == 1 else None for node, value in zip(nodes, values)]
        assert client.exists(KEYS) == [node == 1 for node in nodes]
        assert client.lookup(KEYS) == nodes.index(0)
        stored = client.put(KEYS, values)
        assert stored == [node == 1 for node in nodes]
        assert client.stats().misses["unreachable"] > 0

        cluster.up()
        cluster.wait_until(lambda: _read(client) == values)  # by itself, on the same client: nothing was lost
        assert client.stats().breaker_opened >= 1


def test_a_frozen_node_costs_one_deadline_and_then_nothing(cluster: Cluster) -> None:
    values = _values()
    with cluster.client(timeout_ms=TIMEOUT_MS) as client:
        assert client.put(KEYS, values) == [True] * len(KEYS)
        nodes = _node_of_key(client)
        expected = [value if node == 0 else None for node, value in zip(nodes, values)]
        with cluster.frozen(1):
            started_s = time.monotonic()
            assert _read(client) == expected
            first_s = time.monotonic() - started_s
            assert first_s < TIMEOUT_MS / 1000 + SLACK_S
            started_s = time.monotonic()
            for _ in range(10):
                assert _read(client) == expected
            assert time.monotonic() - started_s < TIMEOUT_MS / 1000  # ten calls in less than one deadline
        cluster.wait_until(lambda: _read(client) == values)


@pytest.mark.parametrize("replicas", [2])
def test_with_two_replicas_a_killed_node_costs_nothing(cluster: Cluster, replicas: int) -> None:
    values = _values()
    with cluster.client(timeout_ms=TIMEOUT_MS, replicas=replicas) as client:
        assert client.put(KEYS, values) == [True] * len(KEYS)
        cluster.kill(1)
        assert _read(client) == values
        assert client.lookup(KEYS) == len(KEYS)
