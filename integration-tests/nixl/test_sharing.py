# SPDX-License-Identifier: Apache-2.0
"""How batches travel: a query is one frame a node, a large transfer takes several connections, and all agents of a
process share them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import psutil
from memkv_rig.cluster import Cluster
from nixl_rig.transfers import BACKEND, Rig, random_blocks, rows, whole

KEYS = Callable[[int], list[str]]
MIB = 1024 * 1024
CONNECTIONS = 4  # of a client to each lane, unless it is set otherwise


def connection_counts(cluster: Cluster) -> list[int]:
    """How many connections this process has to each node."""
    ports = [int(node["address"].rsplit(":", 1)[1]) for node in cluster.nodes]
    made = [one.raddr.port for one in psutil.Process().net_connections("tcp") if one.status == "ESTABLISHED"]
    return [made.count(port) for port in ports]


def test_a_query_is_one_frame_a_node(cluster: Cluster, rig: Rig, keys: KEYS) -> None:
    names = keys(128)
    rig.write(names[:5], random_blocks(5, 100))
    before = cluster.requests("exists")
    assert rig.exists(names) == [True] * 5 + [False] * 123
    assert [after - was for after, was in zip(cluster.requests("exists"), before)] == [1, 1]


def test_a_small_batch_is_one_frame_a_node(cluster: Cluster, rig: Rig, keys: KEYS) -> None:
    names, source = keys(64), random_blocks(64, 4096)
    before = cluster.requests("put"), cluster.requests("get")
    rig.write(names, source)
    rig.read(names, np.zeros_like(source))
    for after, was in zip((cluster.requests("put"), cluster.requests("get")), before):
        assert [one - other for one, other in zip(after, was)] == [1, 1]


def test_a_large_batch_takes_several_connections(cluster: Cluster, rig: Rig, keys: KEYS) -> None:
    names, source = keys(64), random_blocks(64, MIB)
    rig.write(names, source)
    rig.read(names, np.zeros_like(source))
    for count in connection_counts(cluster):
        assert 2 <= count <= CONNECTIONS


def test_agents_of_a_process_share_their_connections(cluster: Cluster, namespace: str, keys: KEYS) -> None:
    with contextlib.ExitStack() as stack:
        rigs = [stack.enter_context(Rig(namespace)) for _ in range(6)]
        for rig in rigs:
            names, source = keys(32), random_blocks(32, MIB)
            rig.write(names, source)
            target = np.zeros_like(source)
            rigs[0].read(names, target)
            assert np.array_equal(source, target)
        assert all(1 <= count <= CONNECTIONS for count in connection_counts(cluster))
    assert connection_counts(cluster) == [0, 0], "they go with the last agent"


def test_prepared_lists(rig: Rig, keys: KEYS) -> None:
    """As LMCache does it: lists that are prepared once, and transfers of some of their places."""
    names, source = keys(8), random_blocks(8, 1000)
    registered, ids = rig.register(names, 1000)
    target = np.zeros_like(source)
    buffers = [rig.register_buffer(source), rig.register_buffer(target)]
    objects = rig.agent.prep_xfer_dlist(rig.name, whole(ids, 1000), "OBJ", backends=[BACKEND])
    lists = [objects]
    for operation, memory, places in (("WRITE", source, range(8)), ("READ", target, (5, 2, 7))):
        described = [(address, size, 0) for address, size in rows(memory)]
        lists.append(rig.agent.prep_xfer_dlist("", described, "DRAM", backends=[BACKEND]))
        handle = rig.agent.make_prepped_xfer(
            operation, lists[-1], list(places), objects, list(places), backends=[BACKEND]
        )
        assert rig.finish(handle, rig.agent.transfer(handle)) == "DONE"
        rig.agent.release_xfer_handle(handle)
    expected = np.zeros_like(source)
    expected[[5, 2, 7]] = source[[5, 2, 7]]
    assert np.array_equal(target, expected)
    for one in lists:
        rig.agent.release_dlist_handle(one)
    rig.deregister(registered, *buffers)
