# SPDX-License-Identifier: Apache-2.0
"""MP mode: LMCache's own StorageManager and controllers, our adapter, a real node."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from lmcache_rig.storage import Storage, keys
from memkv_rig.cluster import Cluster, wait_until

Make = Callable[..., Storage]
DEADLINE_MS = 1500
SETTLED_S = 20.0  # far above the deadline, far below LMCache's lock lifetimes


def stored(storage: Storage, wanted: list[Any], seed: int = 1) -> dict[Any, bytes]:
    written = storage.write(wanted, seed)
    assert wait_until(lambda: storage.is_stored(wanted))
    time.sleep(0.2)  # the store controller unlocks L1 after it has been told
    storage.drop()
    return written


def test_objects_come_back_into_a_fresh_manager(make_storage: Make) -> None:
    wanted = keys(16, salt="tenant-a")
    written = stored(make_storage(prefix="fleet-a"), wanted)
    replica = make_storage(prefix="fleet-a")
    assert replica.prefetch(keys(16, salt="tenant-b")) == 0
    assert replica.prefetch(wanted) == 16
    assert replica.read(wanted) == [written[key] for key in wanted]
    assert make_storage(prefix="fleet-b").prefetch(wanted) == 0


def test_a_hole_ends_the_prefix_wherever_it_is(make_storage: Make) -> None:
    storage = make_storage()
    wanted = keys(16)
    written = stored(storage, wanted)
    for hole in reversed(range(16)):
        storage.adapter.delete(wanted[hole : hole + 1])
        assert storage.prefetch(wanted) == hole
        if hole:
            assert storage.read(wanted[:hole]) == [written[key] for key in wanted[:hole]]
        storage.drop()


def test_a_hole_before_present_objects_is_the_end_too(make_storage: Make) -> None:
    storage = make_storage()
    wanted = keys(16)
    stored(storage, wanted)
    storage.adapter.delete(wanted[:1])
    assert storage.prefetch(wanted) == 0
    assert storage.prefetch(wanted[1:]) == 15


def test_altered_bytes_are_a_miss(make_storage: Make, cluster: Cluster) -> None:
    storage = make_storage()
    wanted = keys(8)
    stored(storage, wanted)
    assert cluster.flip_stored_bytes() > 0
    assert storage.prefetch(wanted) == 0


@pytest.mark.parametrize("fault", ["stopped", "killed", "frozen"])
def test_sixteen_loads_at_once_settle_in_time(make_storage: Make, cluster: Cluster, fault: str) -> None:
    storage = make_storage(timeout_ms=DEADLINE_MS)
    wanted = keys(16)
    written = stored(storage, wanted)
    if fault == "frozen":
        with cluster.frozen():
            settled = storage.settle([storage.submit([key]) for key in wanted], SETTLED_S)
            unwritable = keys(1, first=100)
            storage.write(unwritable)
            assert wait_until(lambda: not storage.adapter.report_status()["is_healthy"])
    else:
        cluster.kill() if fault == "killed" else cluster.down()
        settled = storage.settle([storage.submit([key]) for key in wanted], SETTLED_S)
        assert storage.adapter.report_status()["is_healthy"] is False
        cluster.up()
    assert settled == [0] * 16
    assert wait_until(lambda: storage.adapter.report_status()["is_healthy"])
    assert storage.prefetch(wanted) == 16, "prefetch of later requests no longer works"
    assert storage.read(wanted) == [written[key] for key in wanted]


def test_a_store_that_fails_gives_its_memory_back(make_storage: Make, cluster: Cluster) -> None:
    storage = make_storage(timeout_ms=DEADLINE_MS)
    stored(storage, keys(1))
    with cluster.frozen():
        storage.write(keys(4, first=50))
        assert wait_until(lambda: storage.manager.get_l1_usage()[0] > 0)

        def freed() -> bool:
            storage.drop()
            return int(storage.manager.get_l1_usage()[0]) == 0

        assert wait_until(freed, SETTLED_S)
    assert wait_until(lambda: storage.adapter.report_status()["is_healthy"])
    assert storage.prefetch(keys(4, first=50)) == 0


def test_a_node_that_refuses_is_a_miss(make_storage: Make) -> None:
    wanted = keys(16)
    storage = make_storage()
    stored(storage, wanted)
    stranger = make_storage(auth_key="77" * 32, timeout_ms=DEADLINE_MS)
    for _ in range(2):
        assert stranger.settle([stranger.submit([key]) for key in wanted], SETTLED_S) == [0] * 16
    assert stranger.adapter.report_status()["is_healthy"] is False
    assert storage.prefetch(wanted) == 16, "the others are not disturbed"


@pytest.mark.parametrize(
    ("params", "words"),
    [({"prefx": "a"}, "did you mean 'prefix'"), ({"servers": "lm://127.0.0.1:65432"}, "lm://127.0.0.1:65432")],
)
def test_a_wrong_parameter_stops_the_start(make_storage: Make, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"adapter_params|server") as caught:
        make_storage(**params)
    assert words in str(caught.value)
