# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from lmcache_fakes import Allocator, MemoryObj, Metadata, chunks, config, filled, until

from memkv_core.testing.socket_server import SocketServer
from memkv_lmcache.connector import MemKVConnector, MemKVConnectorAdapter

Make = Callable[..., MemKVConnector]


@pytest.fixture
def make(server: SocketServer) -> Iterator[Make]:
    made: list[MemKVConnector] = []
    allocators: list[Allocator] = []

    def make_connector(*, name: str = "memkv", extra: Any = None, **metadata: Any) -> MemKVConnector:
        settings = {f"remote_storage_plugin.{name}.{key}": value for key, value in (extra or {}).items()}
        allocators.append(Allocator())
        context = SimpleNamespace(
            config=config(extra_config=settings), metadata=Metadata(**metadata), local_cpu_backend=allocators[-1],
            plugin_name=name,
        )  # fmt: skip
        made.append(MemKVConnectorAdapter().create_connector(context))
        return made[-1]

    yield make_connector
    for connector in made:
        asyncio.run(connector.close())
    assert [each.used_bytes for each in allocators] == [0] * len(allocators)


def taken(objects: list[Any]) -> list[bytes | None]:
    contents = [None if each is None else bytes(each.byte_array) for each in objects]
    for each in objects:
        if each is not None:
            each.ref_count_down()
    return contents


def test_chunks_come_back_in_a_fresh_process(make: Make) -> None:
    partial = ((2, 4, 44, 128),)
    objects = [filled(1), filled(2, partial)]

    async def write() -> None:
        connector = make()
        await connector.batched_put(chunks(1, 2), objects)
        await connector.put(chunks(4)[0], filled(4))

    async def read() -> None:
        connector = make()
        assert connector.batched_contains(chunks(1, 2, 3)) == 2
        assert await connector.batched_async_contains("r", chunks(1, 3)) == 1
        assert [await connector.exists(key) for key in chunks(1, 3)] == [True, False]
        assert [connector.exists_sync(key) for key in chunks(1, 3)] == [True, False]
        expected = [bytes(each.byte_array) for each in objects]
        assert taken(await connector.batched_get(chunks(1, 3, 2))) == [expected[0], None, expected[1]]
        assert taken([await connector.get(chunks(2)[0])]) == [expected[1]]
        assert taken(await connector.batched_get_non_blocking("r", chunks(1, 2, 3, 4))) == expected
        assert await connector.get(chunks(3)[0]) is None
        assert await connector.list() == []
        assert connector.remove_sync(chunks(1)[0])
        assert not connector.remove_sync(chunks(1)[0])

    asyncio.run(write())
    asyncio.run(read())
    assert [each.refs for each in objects] == [1, 1]


def test_what_a_serializer_of_lmcache_made_comes_back_as_it_was(make: Make) -> None:
    each = MemoryObj(((1234,),), ("torch.uint8",), "BINARY", content=bytes(range(256)) * 4 + bytes(210))

    async def both() -> None:
        await make().put(chunks(1)[0], each)
        got = await make().get(chunks(1)[0])
        assert (got.meta.fmt.name, got.get_size()) == ("BINARY", 1234)
        assert taken([got]) == [bytes(each.byte_array)]

    asyncio.run(both())


def test_a_cancelled_put_keeps_its_object_until_no_thread_reads_it(make: Make, server: SocketServer) -> None:
    each = filled(1)

    async def cancelled() -> None:
        connector = make(extra={"timeout_ms": 2000})
        await connector.put(chunks(9)[0], filled(9))
        server.freeze()
        putting = asyncio.create_task(connector.put(chunks(1)[0], each))
        await asyncio.sleep(0.1)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        each.ref_count_down()  # as LMCache's wrapper does, whatever happened
        assert each.refs == 1

    asyncio.run(cancelled())
    server.thaw()
    until(lambda: each.refs == 0)


def test_ping_says_whether_the_cluster_answers(make: Make, server: SocketServer) -> None:
    connector = make(extra={"timeout_ms": 1000})
    assert connector.support_ping()
    assert asyncio.run(connector.ping()) == 0
    server.stop()
    until(lambda: asyncio.run(connector.ping()) == 1)
    server.start()
    until(lambda: asyncio.run(connector.ping()) == 0)
    assert connector.support_batched_get()
    assert connector.support_batched_put()
    assert connector.support_batched_contains()
    assert connector.support_batched_async_contains()
    assert connector.support_batched_get_non_blocking()


def test_only_rank_0_of_an_mla_model_stores(make: Make) -> None:
    shape = ((1, 4, 64, 576),)
    mla = {"use_mla": True, "world_size": 2, "kv_shape": (4, 1, 64, 1, 576)}
    each = MemoryObj(shape, fmt="KV_MLA_FMT")

    async def both() -> None:
        await make(worker_id=1, **mla).put(chunks(1, world_size=2, worker_id=1)[0], each)
        assert not await make(**mla).exists(chunks(1, world_size=2)[0])
        await make(**mla).put(chunks(1, world_size=2)[0], each)
        assert await make(worker_id=1, **mla).exists(chunks(1, world_size=2, worker_id=1)[0])

    asyncio.run(both())


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("memkv://", True),
        ("plugin://memkv", True),
        ("plugin://memkv.second", True),
        ("plugin://other", False),
        ("plugin://memkvish", False),
        ("redis://h:1", False),
    ],
)
def test_the_adapter_takes_its_own_urls(url: str, ours: bool) -> None:
    assert MemKVConnectorAdapter().can_parse(url) is ours
