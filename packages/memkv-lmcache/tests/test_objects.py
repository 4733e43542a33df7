# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest
from lmcache_fakes import WHOLE, Desc, MemoryObj, filled, hashes

from memkv_core import Client, ClientConfig
from memkv_core.testing.socket_server import SocketServer
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.objects import ObjectStore

STATED = {0: Desc(WHOLE, ["torch.bfloat16"])}


@pytest.fixture
def client(server: SocketServer) -> Iterator[Client]:
    with Client(ClientConfig.load()) as made:
        yield made


def soon() -> Deadline:
    return Deadline(5000)


def test_a_store_sends_what_is_not_there_yet(client: Client) -> None:
    store = ObjectStore(client)
    size = filled(1).get_size()
    assert store.store(hashes(1, 2), [filled(1), filled(2)], soon()) == (0, 2 * size)
    assert store.store(hashes(2, 3), [filled(2), filled(3)], soon()) == (0, size)
    assert store.store(hashes(1, 2, 3), [filled(1), filled(2), filled(3)], soon()) == (0, 0)
    assert client.stats().sent_bytes == 3 * size


def test_a_fresh_one_finds_by_the_stated_layout_and_loads(client: Client) -> None:
    ObjectStore(client).store(hashes(1, 3), [filled(1), filled(3)], soon())
    fresh = ObjectStore(client)
    assert fresh.find(hashes(1, 2, 3), STATED, soon()) == [0, 2]
    targets = [MemoryObj() for _ in range(3)]
    assert fresh.load(hashes(1, 2, 3), targets, soon()) == [0, 2]
    assert [targets[at].buffer for at in (0, 2)] == [filled(1).buffer, filled(3).buffer]


def test_nothing_is_known_of_layouts_that_were_not_seen(client: Client) -> None:
    first, other = ObjectStore(client), ObjectStore(client)
    first.store(hashes(1, 2), [filled(1), filled(2)], soon())
    other.delete(hashes(1))
    assert other.holds(hashes(1, 2)) == [False, False]
    assert first.holds(hashes(1, 2)) == [True, True]
    first.delete(hashes(1))
    assert first.holds(hashes(1, 2)) == [False, True]
    assert first.holds([]) == []


def test_what_cannot_be_stored_is_counted(client: Client, server: SocketServer) -> None:
    store = ObjectStore(client)
    server.stop()
    assert store.store(hashes(1, 2), [filled(1), filled(2)], soon())[0] == 2
    assert store.find(hashes(1, 2), STATED, soon()) == []
    assert store.load(hashes(1), [MemoryObj()], soon()) == []
