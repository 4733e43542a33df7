# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lmcache_fakes import WHOLE, Desc, MemoryObj, ObjectKey, filled, hashes, until, wait

from memkv_core import Client
from memkv_core.errors import ConfigError, LicenseError
from memkv_core.testing.socket_server import SocketServer
from memkv_lmcache import limits
from memkv_lmcache.l2_adapter import MemKVL2Adapter, MemKVL2AdapterConfig

Make = Callable[..., MemKVL2Adapter]
LAYOUT = {0: Desc(WHOLE, ["torch.bfloat16"])}


def store(adapter: MemKVL2Adapter, keys: Sequence[Any], objects: Sequence[Any]) -> Any:
    task = adapter.submit_store_task(keys, objects)
    done: dict[int, Any] = {}

    def ask() -> bool:
        done.update(adapter.pop_completed_store_tasks())
        return task in done

    wait(adapter.get_store_event_fd(), ask)
    return done[task]


def lookup(adapter: MemKVL2Adapter, keys: Sequence[Any], layouts: Any = LAYOUT) -> list[bool]:
    task = adapter.submit_lookup_and_lock_task(keys, layouts)
    bitmap = wait(adapter.get_lookup_and_lock_event_fd(), lambda: adapter.query_lookup_and_lock_result(task))
    assert adapter.query_lookup_and_lock_result(task) is None
    return [bitmap.test(index) for index in range(len(keys))]


def load(adapter: MemKVL2Adapter, keys: Sequence[Any], objects: Sequence[Any]) -> list[bool]:
    task = adapter.submit_load_task(keys, objects)
    bitmap = wait(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task))
    assert adapter.query_load_result(task) is None
    return [bitmap.test(index) for index in range(len(keys))]


def settled(query: Callable[[int], Any], tasks: Sequence[int]) -> list[Any]:
    """The result of each task, once all have one."""
    results: dict[int, Any] = {}

    def ask() -> bool:
        for task in tasks:
            result = query(task)
            if result is not None:
                results[task] = result
        return len(results) == len(tasks)

    until(ask)
    return [results[task] for task in tasks]


def test_objects_come_back_byte_for_byte_in_a_fresh_process(make_l2: Make) -> None:
    keys, sources = hashes(1, 2, 3), [filled(seed) for seed in (1, 2, 3)]
    result = store(make_l2(prefix="fleet-a"), keys, sources)
    assert result.is_successful()
    assert result.bytes_transferred() == sum(each.get_size() for each in sources)
    fresh = make_l2(prefix="fleet-a")
    assert lookup(fresh, hashes(1, 9, 3)) == [True, False, True]
    targets = [MemoryObj() for _ in keys]
    assert load(fresh, keys, targets) == [True] * 3
    assert [each.buffer for each in targets] == [each.buffer for each in sources]


@pytest.mark.parametrize("hole", [0, 2, 4])
def test_a_hole_is_a_hole_wherever_it_is(make_l2: Make, hole: int) -> None:
    adapter = make_l2()
    keys = hashes(1, 2, 3, 4, 5)
    present = [key for at, key in enumerate(keys) if at != hole]
    store(adapter, present, [filled(at) for at in range(4)])
    expected = [at != hole for at in range(5)]
    assert lookup(adapter, keys) == expected
    assert load(adapter, keys, [MemoryObj() for _ in keys]) == expected


def test_parts_of_a_task_are_one_task(make_l2: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many threads as there are objects, and a hole in each part but one."""
    monkeypatch.setattr(limits, "PART_BYTES_MIN", 1)
    adapter = make_l2(io_threads=4)
    keys, sources = hashes(*range(1, 10)), [filled(seed) for seed in range(1, 10)]
    stored = store(adapter, keys, sources)
    assert stored.is_successful()
    assert stored.bytes_transferred() == sum(each.get_size() for each in sources)
    holes = {0, 3, 8}
    adapter.delete([keys[at] for at in holes])
    targets = [MemoryObj() for _ in keys]
    assert load(adapter, keys, targets) == [at not in holes for at in range(9)]
    assert all(targets[at].buffer == sources[at].buffer for at in range(9) if at not in holes)


def test_a_part_that_fails_fails_the_store(make_l2: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PART_BYTES_MIN", 1)
    adapter = make_l2(io_threads=4)
    bad = SimpleNamespace(meta=None, get_size=lambda: 1)
    result = store(adapter, hashes(1, 2, 3, 4), [filled(1), filled(2), filled(3), bad])
    assert not result.is_successful()
    assert lookup(adapter, hashes(1, 2, 3, 4)) == [True, True, True, False]


def test_what_is_there_is_not_sent_again(make_l2: Make) -> None:
    adapter = make_l2()
    store(adapter, hashes(1, 2), [filled(1), filled(2)])
    again = store(make_l2(), hashes(1, 2, 3), [filled(1), filled(2), filled(3)])
    assert again.is_successful()
    assert again.bytes_transferred() == filled(3).get_size()


@pytest.mark.parametrize(
    "other",
    [
        {"cache_salt": "tenant-b"},
        {"kv_rank": 2 << 24 | 1 << 16},
        {"object_group_id": 1},
        {"model_name": "org/other"},
        {"chunk_hash": b"\2" * 32},
    ],
)
def test_keys_that_differ_in_anything_never_meet(make_l2: Make, other: dict[str, Any]) -> None:
    mine = ObjectKey(b"\1" * 32, cache_salt="tenant-a")
    theirs = ObjectKey(**{"chunk_hash": b"\1" * 32, "cache_salt": "tenant-a", **other})
    store(make_l2(), [mine], [filled(1)])
    adapter = make_l2()
    layouts = {0: LAYOUT[0], 1: LAYOUT[0]}
    assert lookup(adapter, [mine, theirs], layouts) == [True, False]
    assert load(adapter, [theirs], [MemoryObj()]) == [False]


def test_prefixes_never_meet(make_l2: Make) -> None:
    store(make_l2(prefix="fleet-a"), hashes(1), [filled(1)])
    assert lookup(make_l2(prefix="fleet-b"), hashes(1)) == [False]


@pytest.mark.parametrize(
    ("shapes", "dtypes"),
    [
        (((2, 4, 64, 128),), ("torch.float16",)),  # as many bytes, another meaning
        (((2, 8, 32, 128),), ("torch.bfloat16",)),
        (((2, 4, 128, 128),), ("torch.bfloat16",)),  # another chunk size
    ],
)
def test_layouts_never_meet(make_l2: Make, shapes: Any, dtypes: Any) -> None:
    store(make_l2(), hashes(1), [filled(1)])
    adapter = make_l2()
    assert lookup(adapter, hashes(1), {0: Desc(shapes, dtypes)}) == [False]
    assert load(adapter, hashes(1), [MemoryObj(shapes, dtypes)]) == [False]
    assert store(adapter, hashes(1), [filled(2, shapes, dtypes)]).is_successful()
    assert lookup(adapter, hashes(1), LAYOUT) == [True]  # both are kept


def test_lookups_find_what_a_serializer_of_lmcache_made_of_objects(make_l2: Make) -> None:
    shapes, dtypes = ((5000,),), ("torch.uint8",)
    store(make_l2(), hashes(1), [filled(1, shapes, dtypes)])
    adapter = make_l2()
    assert lookup(adapter, hashes(1, 2)) == [True, False]  # the lookup states the layout before serialization
    assert load(adapter, hashes(1), [MemoryObj(shapes, dtypes)]) == [True]
    assert lookup(adapter, hashes(1, 2)) == [True, False]


@pytest.mark.parametrize("layouts", [{}, None, {0: Desc([], [])}])
def test_lookups_without_a_layout_use_those_seen(make_l2: Make, layouts: Any) -> None:
    adapter = make_l2()
    store(adapter, hashes(1), [filled(1)])
    assert lookup(adapter, hashes(1, 2), layouts) == [True, False]


def test_a_value_of_another_length_is_a_hole(make_l2: Make) -> None:
    adapter = make_l2()
    store(adapter, hashes(1, 2), [filled(1, ((100,),), ("torch.uint8",)), filled(2, ((60,),), ("torch.uint8",))])
    targets = [MemoryObj(((80,),), ("torch.uint8",)) for _ in range(2)]
    assert load(adapter, hashes(1, 2), targets) == [False, False]


def test_every_task_settles_in_time_when_the_node_is_silent(make_l2: Make, server: SocketServer) -> None:
    adapter = make_l2(timeout_ms=700, io_threads=2)
    store(adapter, hashes(1), [filled(1)])
    server.freeze()
    started_s = time.monotonic()
    loads = [adapter.submit_load_task(hashes(1), [MemoryObj()]) for _ in range(16)]
    lookups = [adapter.submit_lookup_and_lock_task(hashes(1), LAYOUT) for _ in range(16)]
    stores = [adapter.submit_store_task(hashes(2), [filled(2)]) for _ in range(16)]
    assert time.monotonic() - started_s < 5
    bitmaps = [*settled(adapter.query_load_result, loads), *settled(adapter.query_lookup_and_lock_result, lookups)]
    done: dict[int, Any] = {}

    def all_stores() -> bool:
        done.update(adapter.pop_completed_store_tasks())
        return len(done) == len(stores)

    until(all_stores)
    assert time.monotonic() - started_s < 10
    assert not any(bitmap.test(0) for bitmap in bitmaps)
    assert sorted(done) == sorted(stores)
    assert not any(result.is_successful() for result in done.values())
    assert adapter.report_status()["is_healthy"] is False
    server.thaw()
    until(lambda: adapter.report_status()["is_healthy"])
    assert load(adapter, hashes(1), [MemoryObj()]) == [True]


def test_a_node_that_is_away_is_a_miss_and_comes_back(make_l2: Make, server: SocketServer) -> None:
    adapter = make_l2(timeout_ms=2000)
    server.stop()
    assert not store(adapter, hashes(1), [filled(1)]).is_successful()
    assert lookup(adapter, hashes(1)) == [False]
    assert load(adapter, hashes(1), [MemoryObj()]) == [False]
    assert adapter.list_l2_keys().entries == ()


def test_an_error_of_the_host_settles_as_a_miss(make_l2: Make) -> None:
    adapter = make_l2()
    broken = SimpleNamespace(meta=None)
    assert not store(adapter, hashes(1), [broken]).is_successful()
    assert load(adapter, hashes(1), [broken]) == [False]
    assert load(adapter, hashes(1, 2), [MemoryObj()]) == [False, False]  # lists of different lengths
    assert adapter.report_status()["is_healthy"] is True


def test_close_leaves_no_thread_in_an_object(make_l2: Make, server: SocketServer) -> None:
    before = set(threading.enumerate())
    adapter = make_l2(timeout_ms=30_000, io_threads=2)
    store(adapter, hashes(1), [filled(1)])
    server.freeze()
    objects = [MemoryObj() for _ in range(6)]
    tasks = [adapter.submit_load_task(hashes(1), [each]) for each in objects]
    time.sleep(0.1)
    started_s = time.monotonic()
    adapter.close()
    assert time.monotonic() - started_s < 5
    for each in objects:
        each.ref_count_down()  # from here on touching one is an error
    settled = [adapter.query_load_result(task) for task in tasks]
    assert [bitmap.test(0) for bitmap in settled if bitmap is not None] == [False] * 6 or None in settled
    assert not {t for t in set(threading.enumerate()) - before if t.name.startswith("memkv-") and t.is_alive()
                and t.name not in ("memkv-probe", "memkv-first-look")}  # fmt: skip
    assert adapter.report_status()["is_healthy"] is False
    adapter.submit_load_task(hashes(1), [MemoryObj()])  # late, harmless
    adapter.close()


def test_the_three_descriptors_differ(make_l2: Make) -> None:
    adapter = make_l2()
    fds = {adapter.get_store_event_fd(), adapter.get_lookup_and_lock_event_fd(), adapter.get_load_event_fd()}
    assert len(fds) == 3


def test_listing_shows_what_is_still_there(make_l2: Make) -> None:
    adapter = make_l2()
    keys = hashes(1, 2, 3, 4, 5)
    store(adapter, keys, [filled(at) for at in range(5)])
    adapter.delete(keys[1:2])
    other = make_l2()
    other.delete(keys[3:4])  # has seen no layout: finds nothing under plain bytes
    store(other, hashes(9), [filled(9)])
    other.delete(keys[3:4])  # somebody else's deletion
    listed: list[str] = []
    cursor = None
    while True:
        page = adapter.list_l2_keys(page_size=2, cursor=cursor)
        listed.extend(entry.key for entry in page.entries)
        cursor = page.next_page_token
        if cursor is None:
            break
    assert listed == [keys[0].chunk_hash.hex(), keys[2].chunk_hash.hex(), keys[4].chunk_hash.hex()]
    assert adapter.list_l2_keys(model_name="org/other").entries == ()
    assert adapter.get_usage().total_bytes_used == 4 * filled(1).get_size()
    for bad in ({"page_size": 0}, {"cursor": "x"}, {"cursor": "-1"}):
        with pytest.raises(ValueError):
            adapter.list_l2_keys(**bad)


def test_listeners_hear_each_key_once_and_cannot_spoil_a_task(make_l2: Make) -> None:
    heard: list[tuple[str, int]] = []
    listener = SimpleNamespace(
        on_l2_keys_stored=lambda keys, sizes: heard.append(("stored", len(keys))),
        on_l2_keys_accessed=lambda keys: heard.append(("accessed", len(keys))),
        on_l2_keys_deleted=lambda keys: 1 / 0,
    )
    adapter = make_l2()
    adapter.register_listener(listener)
    store(adapter, hashes(1, 2), [filled(1), filled(2)])
    store(adapter, hashes(1, 2), [filled(1), filled(2)])
    lookup(adapter, hashes(1, 3))
    adapter.submit_touch(hashes(1))
    adapter.submit_unlock(hashes(1))
    adapter.delete(hashes(1))
    assert heard == [("stored", 2), ("accessed", 1), ("accessed", 1)]


def test_the_arena_is_registered_once(make_l2: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    views: list[memoryview] = []
    original = Client.register

    def register(self: Client, view: memoryview) -> Any:
        views.append(view)
        return original(self, view)

    monkeypatch.setattr(Client, "register", register)
    arena = np.zeros(8192, dtype=np.uint8)
    address = int(arena.ctypes.data)
    make_l2(SimpleNamespace(ptr=address, size=8192, align_bytes=4096, stable_registration_size=4096))
    make_l2(SimpleNamespace(ptr=address, size=8192, align_bytes=4096, stable_registration_size=None))
    assert [view.nbytes for view in views] == [4096, 8192]
    arena[0] = 7
    assert views[0][0] == 7


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"prefx": "a"}, "did you mean 'prefix'"),
        ({"servers": "lm://127.0.0.1:65432"}, "lm://127.0.0.1:65432"),
        ({"io_threads": 0}, "io_threads = 0"),
        ({"prefix": 7}, "prefix = 7"),
        ({"auth_key": "short"}, "auth_key"),
        ({"timeout_ms": "soon"}, "timeout_ms"),
    ],
)
def test_a_wrong_setting_stops_the_start_and_is_named(make_l2: Make, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_l2(**params)
    assert words in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_without_a_license_nothing_starts(make_l2: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("MEMKV_LICENSE")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(LicenseError):
        make_l2()


def test_parameters_may_come_as_a_plain_dict_and_the_config_explains_itself(server: SocketServer) -> None:
    adapter = MemKVL2Adapter({"prefix": "fleet-a", "timeout_ms": 300_000})
    assert adapter.report_status()["servers"] == {server.address: "up"}
    adapter.close()
    assert "prefix" in MemKVL2AdapterConfig.help()
