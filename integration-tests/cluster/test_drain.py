# SPDX-License-Identifier: Apache-2.0
"""A node is drained, stopped and brought back under the load of a live client: no error, and every hit there can be."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from memkv_core import Client
from memkv_core.router import Router, key_hash, namespace_seed

if TYPE_CHECKING:
    from conftest import Cluster

TIMEOUT_MS = 5000
KEYS = [f"block-{number:04d}" for number in range(200)]
VALUES = [key.encode() * 1000 for key in KEYS]
WRITTEN = [f"written-{number:02d}" for number in range(20)]


class Load:
    """Threads that read all keys and write some, without a pause; what they saw."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.reads: list[tuple[float, int]] = []  # began, hits
        self.errors: list[str] = []
        self.unstored = 0
        self.threads = [threading.Thread(target=work) for work in (self._read, self._read, self._write)]

    def _read(self) -> None:
        targets = [bytearray(len(value)) for value in VALUES]
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                lengths = self._client.get(KEYS, targets)
            except Exception as error:  # noqa: BLE001 -- what the test is about
                self.errors.append(f"get: {error!r}")
                return
            wrong = [key for key, length, target, value in zip(KEYS, lengths, targets, VALUES)
                     if length is not None and bytes(target[:length]) != value]  # fmt: skip
            with self._lock:
                self.errors += [f"wrong bytes under {key}" for key in wrong]
                self.reads.append((began_s, sum(length is not None for length in lengths)))

    def _write(self) -> None:
        while not self._stop.is_set():
            try:
                self.unstored += self._client.put(WRITTEN, [os.urandom(1000)] * len(WRITTEN)).count(False)
            except Exception as error:  # noqa: BLE001 -- what the test is about
                self.errors.append(f"put: {error!r}")
                return

    @contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self.threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self.threads:
                thread.join(60)

    def hits_of_reads(self, count: int) -> set[int]:
        """The hits of the next ``count`` reads that begin from now on."""
        since_s = time.monotonic()

        def fresh() -> list[int]:
            return [hits for began_s, hits in self.reads if began_s >= since_s]

        end_s = since_s + 60
        while len(fresh()) < count:
            assert time.monotonic() < end_s, f"the load stands still: {self.errors}"
            time.sleep(0.01)
        return set(fresh())


def _memkv(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **cluster.env}
    return subprocess.run(["memkv", *words], capture_output=True, text=True, timeout=60, check=False, env=env)


def _drain(cluster: Cluster, node: int, *more: str) -> None:
    ran = _memkv(cluster, "admin", "drain", "--server", cluster.nodes[node]["admin"], "--wait", "30", *more)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _of_node(client: Client, node: int) -> int:
    """How many of KEYS are placed on a node first."""
    seed = namespace_seed(client.namespace)
    return Router(client.servers).place([key_hash(key.encode(), seed) for key in KEYS]).count(node)


def _causes(client: Client) -> set[str]:
    """Of the keys that were no hit."""
    return {cause for cause, count in client.stats().misses.items() if count}


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_drained_node_lets_its_clients_move_on(cluster: Cluster, replicas: int) -> None:
    with cluster.client(timeout_ms=TIMEOUT_MS, replicas=replicas) as client:
        assert client.put(KEYS, VALUES) == [True] * len(KEYS)
        left = len(KEYS) if replicas == 2 else _of_node(client, 1)
        with Load(client).running() as load:
            assert load.hits_of_reads(5) == {len(KEYS)}
            _drain(cluster, 0)
            assert cluster.status(0)["ready"] is False
            assert load.hits_of_reads(10) == {left}
            _drain(cluster, 0, "--undo")
            cluster.wait_until(lambda: load.hits_of_reads(3) == {len(KEYS)})  # by itself, on the same client
        assert load.errors == []
        assert min(hits for _, hits in load.reads) >= left  # what the other node holds was never missed
        if replicas == 2:
            assert load.unstored == 0
        assert not {"timeout", "error", "corrupt"} & _causes(client)  # no call spent its deadline, either


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_node_that_is_told_to_stop_lets_its_clients_move_on(cluster: Cluster, replicas: int) -> None:
    with cluster.client(timeout_ms=TIMEOUT_MS, replicas=replicas) as client:
        assert client.put(KEYS, VALUES) == [True] * len(KEYS)
        left = len(KEYS) if replicas == 2 else _of_node(client, 1)
        with Load(client).running() as load:
            assert load.hits_of_reads(5) == {len(KEYS)}
            os.kill(cluster.nodes[0]["pid"], signal.SIGTERM)
            cluster.wait_until(lambda: load.hits_of_reads(3) == {left})
            cluster.wait_until(lambda: "stopped" in cluster.log(0))
            cluster.up()
            cluster.wait_until(lambda: load.hits_of_reads(3) == {len(KEYS)})  # what it stored is still there
        assert load.errors == []
        assert min(hits for _, hits in load.reads) >= left
        if replicas == 2:
            assert load.unstored == 0
        assert not {"timeout", "error", "corrupt"} & _causes(client)  # no call spent its deadline, either


def test_nobody_drains_a_cluster_by_mistake(cluster: Cluster) -> None:
    ran = _memkv(cluster, "admin", "drain")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "no node is named" in ran.stderr
