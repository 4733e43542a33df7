# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from lmcache_fakes import Allocator, CacheEngineKey, MemoryObj, chunks, filled, until

from memkv_core.errors import ConfigError
from memkv_core.testing.socket_server import SocketServer
from memkv_lmcache.backend import MemKVStorageBackend

Make = Callable[..., MemKVStorageBackend]
PARTIAL = ((2, 4, 44, 128),)
LAYER = ((64, 2, 128),)


def put(backend: MemKVStorageBackend, keys: Sequence[Any], objects: Sequence[MemoryObj]) -> list[bool]:
    """As StorageManager.batched_put: the engine's own reference goes right after the call."""
    futures = backend.batched_submit_put_task(keys, objects)
    for each in objects:
        each.ref_count_down()
    assert futures is not None
    stored = [future.result(30) for future in futures]
    until(lambda: not any(each.refs for each in objects))
    return stored


def contents(objects: Sequence[Any]) -> list[bytes | None]:
    """What came back, given back to the allocator."""
    taken = [None if each is None else bytes(each.byte_array) for each in objects]
    for each in objects:
        if each is not None:
            assert each.refs == 1
            each.ref_count_down()
    return taken


def content(seed: int, *layout: Any) -> bytes:
    return bytes(filled(seed, *layout).byte_array)


def test_chunks_come_back_byte_for_byte_in_a_fresh_process(make_backend: Make) -> None:
    objects = [filled(1), filled(2), filled(3, PARTIAL)]
    assert put(make_backend(), chunks(1, 2, 3), objects) == [True] * 3
    fresh = make_backend()
    assert fresh.batched_contains(chunks(1, 2, 3, 4)) == 3
    assert fresh.batched_contains(chunks(1, 9, 3)) == 1
    got = fresh.batched_get_blocking(chunks(1, 2, 9, 3))
    assert [None if each is None else tuple(each.meta.shapes[0]) for each in got] == [
        (2, 4, 64, 128),
        (2, 4, 64, 128),
        None,
        (2, 4, 44, 128),
    ]
    assert [each.meta.fmt.name for each in got if each] == ["KV_2LTD"] * 3
    assert contents(got) == [content(1), content(2), None, content(3, PARTIAL)]
    assert contents([fresh.get_blocking(chunks(2)[0])]) == [content(2)]
    assert fresh.get_blocking(chunks(7)[0]) is None


def test_async_loading_gives_the_run_before_the_first_miss(make_backend: Make) -> None:
    put(make_backend(), chunks(1, 2, 4), [filled(1), filled(2), filled(4)])
    fresh = make_backend()
    assert asyncio.run(fresh.batched_async_contains("r", chunks(1, 2, 3, 4))) == 2
    assert contents(asyncio.run(fresh.batched_get_non_blocking("r", chunks(1, 2, 3, 4)))) == [content(1), content(2)]
    assert asyncio.run(fresh.batched_get_non_blocking("r", chunks(3, 1))) == []
    assert fresh.local_cpu_backend.used_bytes == 0


def test_a_cancelled_load_gives_everything_back(make_backend: Make, server: SocketServer) -> None:
    backend = make_backend(extra={"timeout_ms": 3000})
    put(backend, chunks(1), [filled(1)])

    async def cancelled() -> None:
        server.freeze()
        loading = asyncio.create_task(backend.batched_get_non_blocking("r", chunks(1)))
        await asyncio.sleep(0.1)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        server.thaw()

    asyncio.run(cancelled())
    until(lambda: backend.local_cpu_backend.used_bytes == 0)


def test_the_loop_is_never_held(make_backend: Make, server: SocketServer) -> None:
    backend = make_backend(extra={"timeout_ms": 1000})
    put(backend, chunks(1), [filled(1)])

    async def beside() -> int:
        turns = 0
        server.freeze()
        asking = asyncio.create_task(backend.batched_async_contains("r", chunks(1)))
        while not asking.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert asking.result() == 0
        return turns

    assert asyncio.run(beside()) > 10


def layer_keys(number: int) -> list[Any]:
    return CacheEngineKey(number).split_layers(4)


def put_layers(backend: MemKVStorageBackend, number: int, leave_out: int | None = None) -> None:
    keys = [key for key in layer_keys(number) if key.layer_id != leave_out]
    assert put(backend, keys, [filled(10 * number + key.layer_id, LAYER) for key in keys]) == [True] * len(keys)


def test_layerwise_retrieve_gets_every_layer_it_was_promised(make_backend: Make) -> None:
    settings = {"use_layerwise": True}
    writer = make_backend(settings=settings)
    for number in (1, 2):
        put_layers(writer, number)
    put_layers(writer, 3, leave_out=2)
    fresh = make_backend(settings=settings)
    assert fresh.batched_contains(layer_keys(1)) == 4
    assert fresh.batched_contains(layer_keys(3)) == 2
    assert [fresh.contains(layer_keys(number)[0]) for number in (1, 2, 3)] == [True, True, False]
    fresh.batched_remove(layer_keys(1))  # gone between the promise and the reading
    for layer in range(4):
        got = asyncio.run(fresh.batched_get_non_blocking("fake_lookup_id", [layer_keys(n)[layer] for n in (1, 2)]))
        assert [tuple(each.meta.shapes[0]) for each in got] == [(64, 2, 128)] * 2
        assert contents(got) == [content(10 + layer, LAYER), content(20 + layer, LAYER)]
    assert fresh.local_cpu_backend.used_bytes == 0


def test_a_chunk_promised_twice_is_kept_for_both(make_backend: Make) -> None:
    backend = make_backend(settings={"use_layerwise": True})
    put_layers(backend, 1)
    first = layer_keys(1)[0]
    assert backend.contains(first)
    assert backend.contains(first)
    for _ in range(2):
        got = asyncio.run(backend.batched_get_non_blocking("fake_lookup_id", [first]))
        assert [bytes(each.byte_array) for each in got] == [content(10, LAYER)]
        got[0].ref_count_down()


def test_a_layer_is_no_promise_where_memory_is_short(make_backend: Make) -> None:
    backend = make_backend(settings={"use_layerwise": True}, allocator=Allocator(3 * filled(1, LAYER).get_size()))
    put_layers(backend, 1)
    assert not backend.contains(layer_keys(1)[0])
    assert backend.local_cpu_backend.used_bytes == 0


def test_memory_that_is_short_is_a_miss(make_backend: Make) -> None:
    put(make_backend(), chunks(1, 2, 3), [filled(1), filled(2), filled(3)])
    backend = make_backend(allocator=Allocator(2 * filled(1).get_size()))
    assert contents(backend.batched_get_blocking(chunks(1, 2, 3))) == [content(1), content(2), None]


def test_what_is_there_or_on_its_way_is_not_sent_again(make_backend: Make, server: SocketServer) -> None:
    backend = make_backend()
    put(backend, chunks(1), [filled(1)])
    sent = backend._store.client.stats().sent_bytes
    again = [filled(1), filled(2), filled(2)]
    assert put(make_backend(), chunks(1), [filled(1)]) == [True]
    assert put(backend, chunks(1, 2, 2), again) == [True] * 3
    assert backend._store.client.stats().sent_bytes - sent == filled(2).get_size()


def test_puts_hold_nobody_and_are_bounded(make_backend: Make, server: SocketServer) -> None:
    size = filled(1).get_size()
    backend = make_backend(extra={"put_queue_mb": 1, "timeout_ms": 2000})
    put(backend, chunks(99), [filled(99)])
    server.freeze()
    fits = (1 << 20) // size
    objects = [filled(number) for number in range(2 * fits)]
    completed: list[Any] = []
    started_s = time.monotonic()
    for number, each in enumerate(objects):
        backend.batched_submit_put_task(chunks(number), [each], on_complete_callback=completed.append)
        each.ref_count_down()
    assert time.monotonic() - started_s < 1.5  # not one deadline, for twice what the queue holds
    assert [each.refs for each in objects] == [1] * fits + [0] * fits
    assert backend.exists_in_put_tasks(chunks(0)[0])
    assert not backend.exists_in_put_tasks(chunks(fits)[0])
    until(lambda: not any(each.refs for each in objects))
    until(lambda: len(completed) == 2 * fits)  # once for each key, whatever became of it
    assert sorted(key.chunk_hash for key in completed) == list(range(2 * fits))


def test_a_callback_that_fails_spoils_nothing(make_backend: Make) -> None:
    backend = make_backend()
    objects = [filled(1), filled(2)]
    futures = backend.batched_submit_put_task(chunks(1, 2), objects, on_complete_callback=lambda key: 1 / 0)
    assert futures is not None
    assert [future.result(30) for future in futures] == [True, True]
    until(lambda: [each.refs for each in objects] == [1, 1])


def test_close_stores_what_is_queued_and_gives_everything_back(make_backend: Make, server: SocketServer) -> None:
    backend = make_backend()
    objects = [filled(number) for number in range(8)]
    for number, each in enumerate(objects):
        backend.batched_submit_put_task(chunks(number), [each])
        each.ref_count_down()
    backend.close()
    assert not any(each.refs for each in objects)
    assert make_backend().batched_contains(chunks(*range(8))) == 8
    late = filled(9)
    backend.batched_submit_put_task(chunks(9), [late])
    assert late.refs == 1
    assert backend.batched_contains(chunks(1)) == 0


def test_close_does_not_wait_for_a_silent_node(make_backend: Make, server: SocketServer) -> None:
    backend = make_backend(extra={"timeout_ms": 30_000})
    put(backend, chunks(1), [filled(1)])
    server.freeze()
    each = filled(2)
    backend.batched_submit_put_task(chunks(2), [each])
    each.ref_count_down()
    started_s = time.monotonic()
    backend.close()
    assert time.monotonic() - started_s < 10  # LMCache joins for so long
    assert each.refs == 0


def test_a_store_that_is_down_is_a_miss_in_time_and_then_at_once(make_backend: Make, server: SocketServer) -> None:
    backend = make_backend(extra={"timeout_ms": 800})
    put(backend, chunks(1), [filled(1)])
    server.freeze()
    started_s = time.monotonic()
    assert backend.batched_contains(chunks(1)) == 0
    assert backend.batched_get_blocking(chunks(1, 2)) == [None, None]
    assert backend.get_blocking(chunks(1)[0]) is None
    assert not backend.contains(chunks(1)[0])
    assert not backend.remove(chunks(1)[0])
    assert asyncio.run(backend.batched_async_contains("r", chunks(1))) == 0
    assert asyncio.run(backend.batched_get_non_blocking("r", chunks(1))) == []
    assert time.monotonic() - started_s < 3  # one deadline for all of them, not seven


def test_an_error_of_the_host_is_a_miss(make_backend: Make) -> None:
    backend = make_backend()
    broken: Any = [object()]
    assert backend.batched_contains(broken) == 0
    assert backend.batched_get_blocking(broken) == [None]
    assert backend.get_blocking(broken[0]) is None
    assert backend.batched_submit_put_task(broken, [filled(1)]) is None
    assert backend.batched_submit_put_task(chunks(1, 2), [filled(1)]) is None
    assert asyncio.run(backend.batched_async_contains("r", broken)) == 0
    assert asyncio.run(backend.batched_get_non_blocking("r", broken)) == []
    assert not backend.contains(broken[0])
    assert not backend.exists_in_put_tasks(broken[0])


def test_removal_counts_what_was_there(make_backend: Make) -> None:
    backend = make_backend()
    put(backend, chunks(1, 2, 3), [filled(1), filled(2), filled(3)])
    assert backend.batched_remove(chunks(1, 2, 9)) == 2
    assert backend.remove(chunks(3)[0])
    assert not backend.remove(chunks(3)[0])
    assert put(backend, chunks(1), [filled(1)]) == [True]


def test_ranks_of_an_mla_model_read_what_rank_0_wrote(make_backend: Make) -> None:
    shape = ((1, 4, 64, 576),)
    mla = {"use_mla": True, "world_size": 8, "kv_shape": (4, 1, 64, 1, 576)}
    ranks = [make_backend(worker_id=rank, **mla) for rank in (0, 5)]
    each = MemoryObj(shape, fmt="KV_MLA_FMT", content=content(1, shape))
    assert ranks[1].batched_submit_put_task(chunks(1, world_size=8, worker_id=5), [each]) is None
    assert put(ranks[0], chunks(1, world_size=8, worker_id=0), [each]) == [True]
    got = ranks[1].batched_get_blocking(chunks(1, world_size=8, worker_id=5))
    assert got[0].meta.fmt.name == "KV_MLA_FMT"
    assert contents(got) == [content(1, shape)]
    other_size = make_backend(worker_id=1, use_mla=True, world_size=4, kv_shape=(4, 1, 64, 1, 576))
    assert other_size.batched_contains(chunks(1, world_size=4, worker_id=1)) == 1


def test_ranks_of_other_models_do_not_share(make_backend: Make) -> None:
    put(make_backend(world_size=2), chunks(1, world_size=2), [filled(1)])
    other = make_backend(world_size=2, worker_id=1)
    assert other.batched_contains(chunks(1, world_size=2, worker_id=1)) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"chunk_size": 128}},
        {"settings": {"use_layerwise": True}},
        {"settings": {"pre_caching_hash_algorithm": "builtin"}},
        {"model_name": "org/other"},
        {"world_size": 2},
        {"kv_dtype": "torch.float16"},
        {"kv_shape": (4, 2, 64, 4, 32)},
        {"extra": {"prefix": "fleet-b"}},
        {"extra": {"tag": "weights-2"}},
    ],
)
def test_runs_that_differ_in_anything_never_meet(make_backend: Make, other: dict[str, Any]) -> None:
    put(make_backend(), chunks(1), [filled(1)])
    assert make_backend(**other).batched_contains(chunks(1)) == 0


def test_tags_separate_tenants(make_backend: Make) -> None:
    backend = make_backend()
    put(backend, chunks(1, tags=(("user", "a"),)), [filled(1)])
    assert backend.batched_contains(chunks(1, tags=(("user", "a"),))) == 1
    assert backend.batched_contains(chunks(1, tags=(("user", "b"),))) == 0
    assert backend.batched_contains(chunks(1)) == 0


def test_the_scheduler_only_says_what_is_there(make_backend: Make) -> None:
    put(make_backend(), chunks(1, 2), [filled(1), filled(2)])
    scheduler = make_backend(allocator=None, role="scheduler")
    assert scheduler.batched_contains(chunks(1, 2, 3)) == 2
    assert scheduler.contains(chunks(1)[0])
    assert scheduler.batched_get_blocking(chunks(1)) == [None]
    assert scheduler.batched_submit_put_task(chunks(3), [filled(3)]) is None
    assert scheduler.get_allocator_backend() is None


def test_a_value_of_another_kind_is_a_miss(make_backend: Make) -> None:
    backend = make_backend()
    store = backend._store
    name = store.name(chunks(1)[0])
    store.client.put([name], [bytes(filled(1).get_size())], meta=[b"{}"])
    assert backend.batched_get_blocking(chunks(1)) == [None]
    wrong = b'{"dtypes":["bfloat16"],"fmt":"KV_2LTD","shapes":[[2,4,44,128]],"v":1}'
    store.client.put([name], [bytes(100)], meta=[wrong])
    assert backend.batched_get_blocking(chunks(1)) == [None]


def test_wrong_settings_are_named(make_backend: Make) -> None:
    with pytest.raises(ConfigError, match="did you mean 'put_queue_mb'"):
        make_backend(extra={"put_queue": 3})


def test_nothing_is_left_running(make_backend: Make) -> None:
    before = set(threading.enumerate())
    backend = make_backend()
    backend.batched_contains(chunks(1))
    assert backend.pin(chunks(1)[0])
    assert backend.unpin(chunks(1)[0])
    backend.touch_cache()
    backend.cancel_request("r")
    backend.close()
    backend.close()
    until(lambda: not {each for each in set(threading.enumerate()) - before if each.name.startswith("memkv-")})
    assert str(backend) == "MemKVStorageBackend"


def test_a_start_says_where_it_stands(make_backend: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="memkv_lmcache"):
        backend = make_backend()
    assert f"namespace={backend._store.client.namespace}" in caplog.text
