# SPDX-License-Identifier: Apache-2.0
"""A node that is frozen, killed or stopped while a transfer is under way: an error inside the deadline, quiet buffers,
and everything as before once it is back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from memkv_rig.cluster import Cluster
from nixl_rig.transfers import Bytes, Rig, build, random_blocks, rows, whole

from memkv_core.router import Router, key_hash, namespace_seed
from memkv_nixl._compat import load_api
from memkv_nixl.agents import TransferError

KEYS = Callable[[int], list[str]]
MIB = 1024 * 1024
POISON = 0xAA
TIMEOUT_MS = 2000
SLACK_S = 3.0  # what a busy machine may add; a hang is ten times as long
BACK_S = 30.0


@pytest.fixture
def rig(cluster: Cluster, namespace: str) -> Iterator[Rig]:
    with Rig(namespace, timeout_ms=str(TIMEOUT_MS)) as made:
        yield made


def until_it_works(rig: Rig, names: list[str], source: Bytes) -> None:
    """Reads until it succeeds: a breaker closes when a probe has been answered."""
    target = np.zeros_like(source)
    until_s = time.monotonic() + BACK_S
    while True:
        try:
            rig.read(names, target)
            break
        except TransferError:
            assert time.monotonic() < until_s, "it does not come back"
            time.sleep(0.1)
    assert np.array_equal(source, target)


def start_read(rig: Rig, names: list[str], size: int) -> tuple[Bytes, object, str]:
    target = np.zeros((len(names), size), np.uint8)
    _, ids = rig.register(names, size)
    rig.register_buffer(target)
    handle = rig.prepare("READ", rows(target), whole(ids, size))
    return target, handle, rig.agent.transfer(handle)


def test_frozen_while_it_reads(cluster: Cluster, rig: Rig, keys: KEYS) -> None:
    names, source = keys(32), random_blocks(32, 2 * MIB)
    rig.write(names, source)
    with cluster.frozen(0):
        started_s = time.monotonic()
        target, handle, state = start_read(rig, names, 2 * MIB)
        with pytest.raises(load_api(build()).nixlBind.nixlBackendError):
            rig.finish(handle, state)
        assert time.monotonic() - started_s < TIMEOUT_MS / 1000 + SLACK_S
        target[:] = POISON
        rig.agent.release_xfer_handle(handle)
        started_s = time.monotonic()
        with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):
            rig.read(names, np.zeros_like(source))
        assert time.monotonic() - started_s < TIMEOUT_MS / 1000, "the breaker answers for a dead node, not the deadline"
    until_it_works(rig, names, source)
    assert (target == POISON).all(), "late bytes landed"


def test_frozen_while_it_writes(cluster: Cluster, rig: Rig, keys: KEYS) -> None:
    names, source = keys(32), random_blocks(32, 2 * MIB)
    with cluster.frozen(1):
        started_s = time.monotonic()
        with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):
            rig.write(names, source)
        assert time.monotonic() - started_s < TIMEOUT_MS / 1000 + SLACK_S
    until_s = time.monotonic() + BACK_S
    while True:
        try:
            rig.write(names, source)
            break
        except TransferError:
            assert time.monotonic() < until_s
            time.sleep(0.1)
    until_it_works(rig, names, source)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_while_it_reads(cluster: Cluster, rig: Rig, keys: KEYS, number: signal.Signals) -> None:
    names, source = keys(32), random_blocks(32, 2 * MIB)
    rig.write(names, source)
    started_s = time.monotonic()
    target, handle, state = start_read(rig, names, 2 * MIB)
    cluster.end(0, number)
    try:
        assert rig.finish(handle, state) == "DONE"  # it may have been faster than the signal
        assert np.array_equal(source, target)
    except load_api(build()).nixlBind.nixlBackendError:
        pass  # the other end of this race
    assert time.monotonic() - started_s < TIMEOUT_MS / 1000 + 60
    rig.agent.release_xfer_handle(handle)
    target[:] = POISON
    started_s = time.monotonic()
    with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):
        rig.read(names, np.zeros_like(source))
    assert time.monotonic() - started_s < TIMEOUT_MS / 1000 + SLACK_S
    cluster.up()
    until_it_works(rig, names, source)
    assert (target == POISON).all()


def test_a_restart_between_two_transfers_is_not_noticed(cluster: Cluster, rig: Rig, keys: KEYS) -> None:
    names, source = keys(8), random_blocks(8, 1000)
    rig.write(names, source)
    cluster.end(0, signal.SIGTERM)
    cluster.up()
    target = np.zeros_like(source)
    rig.read(names, target)
    assert np.array_equal(source, target)


def test_the_other_node_answers_while_one_is_down(cluster: Cluster, rig: Rig, namespace: str, keys: KEYS) -> None:
    router = Router([node["address"] for node in cluster.nodes])
    names, source = keys(64), random_blocks(64, 1000)
    rig.write(names, source)
    cluster.end(0, signal.SIGKILL)
    readable = 0
    for name, block in zip(names, source):
        target = np.zeros((1, 1000), np.uint8)
        hashed = key_hash(name.encode(), namespace_seed(namespace))
        if router.servers_of(hashed) == (0,):
            with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):  # an outage is no miss
                rig.read([name], target)
        else:
            rig.read([name], target)
            assert np.array_equal(target[0], block)
            readable += 1
    assert 10 <= readable <= 54
    cluster.up()
    until_it_works(rig, names, source)


def test_a_query_in_an_outage(cluster: Cluster, namespace: str, keys: KEYS) -> None:
    names = keys(16)
    with Rig(namespace) as strict, Rig(namespace, on_error="miss") as lenient:
        strict.write(names, random_blocks(16, 100))
        cluster.end(1, signal.SIGKILL)
        with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):
            strict.exists(names)
        assert lenient.exists(names) == [False] * 16
        with pytest.raises(TransferError, match="NIXL_ERR_NOT_FOUND"):
            lenient.read(names, np.zeros((16, 100), np.uint8))
        cluster.up()


def test_a_cluster_that_is_down_at_the_start(cluster: Cluster, namespace: str, keys: KEYS) -> None:
    for node in range(2):
        cluster.end(node, signal.SIGTERM)
    names, source = keys(4), random_blocks(4, 1000)
    with Rig(namespace, timeout_ms="1000") as rig:  # it is made all the same: a cluster may come up later
        with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):
            rig.write(names, source)
        cluster.up()
        until_s = time.monotonic() + BACK_S
        while True:
            try:
                rig.write(names, source)
                break
            except TransferError:
                assert time.monotonic() < until_s
                time.sleep(0.1)
        until_it_works(rig, names, source)


def test_replicas_carry_over(cluster: Cluster, namespace: str, keys: KEYS) -> None:
    names, source = keys(16), random_blocks(16, 100_000)
    with Rig(namespace, replicas="2") as rig:
        rig.write(names, source)
        cluster.end(0, signal.SIGKILL)
        target = np.zeros_like(source)
        rig.read(names, target)
        assert np.array_equal(source, target)
        assert rig.exists(names) == [True] * 16
        rig.write(keys(4), source[:4])
        cluster.up()
