# SPDX-License-Identifier: Apache-2.0
"""The rdma transport on real verbs: blocks between two processes, what goes wrong, and the fence."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rig import LONG_S, MIB, Node, link, transport_of, wait_for_rdma

from memkv_core import Client
from memkv_core.places import RegionRequest
from memkv_core.regions import Range
from memkv_core.transports.rdma import RdmaPath

BLOCKS = 64


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """In mode memory: the node's store is registered with both devices."""
    node = Node(tmp_path_factory.mktemp("node"), devices="rxe0,rxe1")
    yield node
    node.kill()


@pytest.fixture(scope="module")
def file_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """In mode file: blocks go by the node's bounce slots."""
    node = Node(tmp_path_factory.mktemp("node"), mode="file")
    yield node
    node.kill()


class Pool:
    """Registered memory of the client: pages of 1 MiB."""

    def __init__(self, client: Client, pages: int) -> None:
        self.memory = np.zeros(pages * MIB, np.uint8)
        self.region = client.register(self.memory)

    def page(self, number: int) -> memoryview:
        return self.memory.data[number * MIB : (number + 1) * MIB]


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.client() as client:
        yield client


def blocks(pool: Pool, count: int, seed: int) -> tuple[list[bytes], list[memoryview]]:
    """Random blocks in the first pages."""
    pool.memory[: count * MIB] = np.random.default_rng(seed).integers(0, 256, count * MIB, np.uint8)
    return [b"%d block %d" % (seed, number) for number in range(count)], [pool.page(at) for at in range(count)]


@pytest.fixture(scope="module")
def whole_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """``memkv start``, with the device from the environment."""
    node = Node(tmp_path_factory.mktemp("node"), whole=True)
    yield node
    node.kill()


@pytest.mark.parametrize("kind", ["node", "file_node", "whole_node"])
def test_64_blocks_between_two_processes(request: pytest.FixtureRequest, kind: str) -> None:
    node: Node = request.getfixturevalue(kind)
    with node.client() as client:
        move_64_blocks(client, node)


def move_64_blocks(client: Client, node: Node) -> None:
    pool = Pool(client, 2 * BLOCKS)
    keys, sources = blocks(pool, BLOCKS, 1)
    started_s = time.monotonic()
    assert client.put(keys, sources) == [True] * BLOCKS
    put_s = time.monotonic()
    targets = [pool.page(BLOCKS + at) for at in range(BLOCKS)]
    assert client.get(keys, targets) == [MIB] * BLOCKS
    got_s = time.monotonic()
    digests = [[hashlib.sha256(page).digest() for page in pages] for pages in (sources, targets)]
    assert digests[0] == digests[1]
    stats = client.stats()
    assert stats.moved_registered_bytes == 2 * BLOCKS * MIB
    assert (stats.moved_staged_bytes, stats.moved_fallbacks) == (0, {}), "no copy on the registered path"
    print(f"{node.mode}: put {put_s - started_s:.2f} s, get {got_s - put_s:.2f} s")


def test_unregistered_memory_goes_by_staging(client: Client) -> None:
    values = [np.random.default_rng(at).integers(0, 256, 700_001, np.uint8).tobytes() for at in range(8)]
    keys = [b"staged %d" % at for at in range(8)]
    assert client.put(keys, values) == [True] * 8
    targets = [bytearray(700_001) for _ in range(8)]
    assert client.get(keys, targets) == [700_001] * 8
    assert targets == values
    stats = client.stats()
    assert (stats.moved_registered_bytes, stats.moved_staged_bytes) == (0, 2 * 8 * 700_001)
    assert stats.moved_fallbacks == {}


def prepared(client: Client, seed: int) -> tuple[Pool, bytes]:
    """A pool of four pages, and the key of a stored block that is in the first."""
    pool = Pool(client, 4)
    keys, sources = blocks(pool, 1, seed)
    assert client.put(keys, sources) == [True]
    return pool, keys[0]


def is_hit(client: Client, pool: Pool, key: bytes) -> bool:
    """Whether the block is got into the second page, with its bytes."""
    pool.page(1)[:] = bytes(MIB)
    return client.get([key], [pool.page(1)]) == [MIB] and pool.page(1) == pool.page(0)


def moved(client: Client) -> int:
    return client.stats().moved_registered_bytes


def comes_back(client: Client, pool: Pool, key: bytes) -> bool:
    """Whether blocks go by RDMA again after a while."""
    wait_for_rdma(client)
    before = moved(client)
    return is_hit(client, pool, key) and moved(client) == before + MIB


def test_a_wrong_rkey(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, key = prepared(client, 2)
    with monkeypatch.context() as patched:
        real = RdmaPath.region_request

        def wrong(path: RdmaPath, known: Range) -> RegionRequest | None:
            request = real(path, known)
            return None if request is None else request._replace(rkey=request.rkey ^ 0x5500)

        patched.setattr(RdmaPath, "region_request", wrong)
        more = Pool(client, 1)
        assert client.get([key], [more.page(0)]) == [MIB]
        assert more.page(0) == pool.page(0)
        assert client.stats().moved_fallbacks == {"move failed": 1}
    assert comes_back(client, pool, key)


def test_a_region_that_is_deregistered_under_way(client: Client) -> None:
    pool, key = prepared(client, 3)
    for region in list(transport_of(client).rails[0]._regions.values()):
        region.close()
    assert is_hit(client, pool, key)
    assert client.stats().moved_fallbacks == {"move failed": 1}


def test_a_region_that_was_given_back(client: Client) -> None:
    pool, key = prepared(client, 4)
    pool.region.close()
    assert is_hit(client, pool, key)
    stats = client.stats()
    assert (stats.moved_staged_bytes, stats.moved_fallbacks) == (MIB, {})


def test_a_link_that_goes_down_and_up(client: Client) -> None:
    pool, key = prepared(client, 5)
    link(0, "down")
    try:
        assert is_hit(client, pool, key)
        assert client.stats().moved_fallbacks["move failed"] == 1
        assert is_hit(client, pool, key)
    finally:
        link(0, "up")
    assert comes_back(client, pool, key)


def test_a_node_that_wakes_too_late(client: Client, node: Node) -> None:
    """The fence: it was stopped, the client gave up, the page is another's. Not one byte of that may change."""
    pool, key = prepared(client, 7)
    assert is_hit(client, pool, key)
    page = pool.page(1)
    node.signal(signal.SIGSTOP)
    try:
        assert client.get([key], [page], timeout_ms=1000) == [None]
        page[:] = b"\x55" * MIB
    finally:
        node.signal(signal.SIGCONT)
    wait_for_rdma(client)
    assert page == b"\x55" * MIB
    assert comes_back(client, pool, key)


def test_a_node_that_is_stopped_in_the_middle(client: Client, node: Node) -> None:
    """The same while blocks are under way, again and again: whatever was on its way does not come."""
    pool = Pool(client, 32)
    keys, sources = blocks(pool, 16, 8)
    assert client.put(keys, sources) == [True] * 16
    targets = [pool.page(16 + at) for at in range(16)]
    for turn in range(4):
        got: list[Any] = [MIB] * 16
        if turn:
            got = client.get(keys, targets, timeout_ms=40 * turn)
        for at, length in enumerate(got):
            if length is None:
                targets[at][:] = b"\x55" * MIB
        time.sleep(0.3)
        for at, length in enumerate(got):
            assert targets[at] == (b"\x55" * MIB if length is None else targets[at])
    wait_for_rdma(client)
    assert client.get(keys, targets) == [MIB] * 16
    assert [hashlib.sha256(page).digest() for page in targets] == [hashlib.sha256(page).digest() for page in sources]


def test_a_node_that_restarts(file_node: Node) -> None:
    with file_node.client() as client:
        pool, key = prepared(client, 9)
        file_node.kill()
        assert client.get([key], [pool.page(1)], timeout_ms=5000) == [None]
        file_node.start()
        deadline = time.monotonic() + LONG_S
        while client.get([key], [pool.page(1)], timeout_ms=5000) != [MIB]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert comes_back(client, pool, key)


def test_a_client_that_is_killed_leaves_the_node_well(client: Client, node: Node) -> None:
    """It is the child of a fork, which opens the device for itself and lets this process's alone."""
    pool, key = prepared(client, 11)
    if not (child := os.fork()):
        try:
            theirs = node.client()
            pool = Pool(theirs, 8)
            theirs.put([b"child %d" % at for at in range(8)], [pool.page(at) for at in range(8)])
            if theirs.stats().moved_registered_bytes == 8 * MIB:
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert is_hit(client, pool, key)
    assert client.stats().moved_fallbacks == {}


# -- several devices --------------------------------------------------------------------------------------------------
def test_two_devices(node: Node, tmp_path: Path) -> None:
    """Each server has a device of its own, both are used at once; where one is down the other stands in."""
    other = Node(tmp_path, devices="rxe0,rxe1", key_of=node)
    try:
        with node.client(servers=[node.address, other.address], rdma_devices="rxe0,rxe1") as client:
            pool = Pool(client, 32)
            keys, sources = blocks(pool, 16, 12)
            assert client.put(keys, sources) == [True] * 16
            assert used(client) == {"rxe0", "rxe1"}
            link(0, "down")
            try:
                targets = [pool.page(16 + at) for at in range(16)]
                assert client.get(keys, targets) == [MIB] * 16
                wait_for_rdma(client)
                assert used(client) == {"rxe1"}
                before = moved(client)
                assert client.get(keys, targets) == [MIB] * 16
                assert moved(client) == before + 16 * MIB
            finally:
                link(0, "up")
            assert targets == sources
    finally:
        other.kill()


def used(client: Client) -> set[str]:
    """The devices of the paths of idle connections."""
    flows = [flow for flows in transport_of(client)._pool._idle.values() for flow in flows]
    return {flow.path.rail.name for flow in flows if isinstance(flow.path, RdmaPath)}
