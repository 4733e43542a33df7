# SPDX-License-Identifier: Apache-2.0
"""Quotas and TTLs of namespaces: kept at every moment, over restarts, with the clock set back, on several drives."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.digests import digest
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import DriveSet, Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine.account import Rule, Rules
from memkv_server.engine.age import AgeClock
from memkv_server.engine.index import place_address
from memkv_server.engine.segment import hash_key, record_layout

SEGMENT = 256 << 10
CAPACITY = 16 * SEGMENT + (1 << 17)
SIZE = 2000
RECORD = record_layout(3, 0, SIZE, 64)[1]
QUOTA = 10 * RECORD + 63
RULES = Rules((Rule("small", QUOTA, None), Rule("brief", None, 320), Rule("both", QUOTA, 320)))


class System:
    """The system's clocks, under control."""

    def __init__(self) -> None:
        self.wall_s = 1_800_000_000.0
        self.monotonic_s = 0.0

    def pass_(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system = System()
    clocks = (None, lambda: system.wall_s, lambda: system.monotonic_s)
    monkeypatch.setattr(AgeClock.__init__, "__defaults__", clocks)
    return system


@pytest.fixture
def engine(tmp_path: Path, system: System) -> Iterator[SegmentEngine]:
    engine = opened(tmp_path)
    yield engine
    engine.close()


def opened(path: Path, rules: Rules = RULES, capacity: int = CAPACITY) -> SegmentEngine:
    return open_engine("file", path, capacity, SEGMENT, rules=rules)


def open_(engine: SegmentEngine | DriveSet, name: str) -> Namespace:
    namespace = engine.open_namespace(name, b"{}")
    assert namespace is not None
    return namespace


def tick(engine: SegmentEngine) -> None:
    """A tick in which the house is kept, whatever the time."""
    engine._housekeeping_at_s = 0.0
    while engine.tick():
        pass


def key(number: int) -> bytes:
    return b"%03d" % number


def fill(engine: SegmentEngine | DriveSet, namespace: Namespace, numbers: range) -> bytes:
    return put(engine, namespace, {key(number): block(number, SIZE) for number in numbers})


def found(engine: SegmentEngine | DriveSet, namespace: Namespace, count: int = 100) -> list[int]:
    """The numbers of the keys that are there, which all ways to ask agree on."""
    keys = [key(number) for number in range(count)]
    values = get(engine, namespace, keys)
    there = [number for number, value in enumerate(values) if value is not None]
    assert all(values[number] == block(number, SIZE) for number in there)
    assert [number for number, status in enumerate(engine.exists(namespace, keys)) if status == Status.HIT] == there
    assert engine.lookup(namespace, [key(number) for number in there]) == len(there)
    return there


def row(engine: SegmentEngine | DriveSet, name: str) -> dict[str, Any]:
    return next(row for row in engine.usage()["namespaces"] if row["name"] == name)


# -- quotas -----------------------------------------------------------------------------------------------------------
def test_at_its_quota_a_namespace_gives_up_its_own_oldest(engine: SegmentEngine) -> None:
    small, free = open_(engine, "small"), open_(engine, "free")
    fill(engine, free, range(50))
    for number in range(25):
        assert fill(engine, small, range(number, number + 1)) == bytes([Status.HIT])
        assert row(engine, "small")["bytes"] <= QUOTA
        assert found(engine, small) == list(range(max(0, number - 9), number + 1))
    assert found(engine, free) == list(range(50))
    said = row(engine, "small")
    assert (said["records"], said["bytes"], said["quota_bytes"]) == (10, 10 * RECORD, QUOTA)
    assert (said["over_quota_records"], said["ttl_seconds"], row(engine, "free")["quota_bytes"]) == (15, None, None)


def test_what_is_put_again_is_young_again(engine: SegmentEngine) -> None:
    small = open_(engine, "small")
    fill(engine, small, range(10))
    put(engine, small, {key(0): b"other bytes"})
    put(engine, small, {key(0): block(0, SIZE)})
    fill(engine, small, range(10, 15))
    assert found(engine, small) == [0, *range(6, 15)]


def test_a_batch_above_the_quota_leaves_its_last_and_a_value_above_it_is_refused(engine: SegmentEngine) -> None:
    small = open_(engine, "small")
    assert set(fill(engine, small, range(40))) == {Status.HIT}
    assert found(engine, small) == list(range(30, 40))
    assert put(engine, small, {b"big": block(1, QUOTA)}) == bytes([Status.TOO_LONG])
    assert found(engine, small) == list(range(30, 40)), "and nothing had to go for it"
    assert row(engine, "small")["records"] == 10


def test_deletes_and_drops_make_room(engine: SegmentEngine) -> None:
    small = open_(engine, "small")
    fill(engine, small, range(10))
    engine.delete(small, [key(number) for number in range(5, 10)])
    fill(engine, small, range(20, 25))
    assert found(engine, small) == [*range(5), *range(20, 25)]
    engine.drop_namespace("small")
    small = open_(engine, "small")
    fill(engine, small, range(12))
    assert found(engine, small) == list(range(2, 12))


def test_the_newest_up_to_the_quota_are_there_after_a_restart(tmp_path: Path, system: System) -> None:
    engine = opened(tmp_path)
    fill(engine, open_(engine, "small"), range(25))
    engine.close()
    engine = opened(tmp_path)
    small = open_(engine, "small")
    assert found(engine, small) == list(range(15, 25))
    fill(engine, small, range(30, 33))
    assert found(engine, small) == [*range(18, 25), *range(30, 33)]
    engine.close()
    engine = opened(tmp_path, Rules((Rule("*", 3 * RECORD, None),)))
    assert found(engine, open_(engine, "small")) == list(range(30, 33)), "a quota that was lowered"
    engine.close()


def test_what_is_deleted_does_not_come_back_from_beyond_the_quota(tmp_path: Path, system: System) -> None:
    engine = opened(tmp_path)
    small = open_(engine, "small")
    fill(engine, small, range(15))
    assert set(engine.delete(small, [key(number) for number in range(15)])) == {Status.MISS, Status.HIT}
    engine.close()
    engine = opened(tmp_path, Rules())
    assert found(engine, open_(engine, "small")) == []
    engine.close()


def test_a_put_that_was_overtaken_is_moved_past_what_the_quota_hides(tmp_path: Path, system: System) -> None:
    """Else it would be evicted before what it replaced, which a start would find again."""
    engine = opened(tmp_path)
    small, free = open_(engine, "small"), open_(engine, "free")
    newest = block(7, SIZE)
    reserved = engine.reserve(small, [key(0)], [SIZE], [digest([memoryview(newest)], 0)], 0, None)
    old_segment = engine._pool.current
    assert old_segment is not None
    put(engine, free, {b"f%d" % number: block(number, 20_000) for number in range(40)})
    fill(engine, small, range(15))  # key 0 is put, and goes again for the quota
    assert found(engine, small) == list(range(5, 15))
    assert reserved.extents[0] is not None
    reserved.extents[0][:] = newest
    assert engine.commit(reserved) == bytes([Status.HIT])
    assert get(engine, small, [key(0)]) == [newest]
    place = engine._index.get(hash_key(key(0), small.hash))
    assert place is not None
    assert engine._pool.segments[place_address(place) // SEGMENT].sequence > old_segment.sequence
    engine.close()


def test_the_drives_of_a_lane_share_a_quota(tmp_path: Path) -> None:
    drives = [{"path": str(tmp_path / name), "capacity_bytes": CAPACITY * size} for name, size in (("a", 1), ("b", 2))]
    engine = DriveSet.over("file", drives, 0, SEGMENT, rules=Rules((Rule("n", 60 * RECORD, None),)))
    namespace = open_(engine, "n")
    for number in range(300):
        fill(engine, namespace, range(number, number + 1))
        assert row(engine, "n")["bytes"] <= 60 * RECORD
    assert 55 <= row(engine, "n")["records"] <= 60
    assert row(engine, "n")["quota_bytes"] <= 60 * RECORD
    assert found(engine, namespace, 300)[-20:] == list(range(280, 300))
    assert min(found(engine, namespace, 300)) > 190  # how evenly keys fall on the two depends on where they lie
    engine.close()


# -- TTLs -------------------------------------------------------------------------------------------------------------
def test_older_than_its_ttl_is_a_miss_to_the_second(engine: SegmentEngine, system: System) -> None:
    brief, free = open_(engine, "brief"), open_(engine, "free")
    fill(engine, free, range(10))
    for number in range(5):
        fill(engine, brief, range(number, number + 1))
        system.pass_(100)
    assert found(engine, brief) == [2, 3, 4]
    system.pass_(19)
    assert found(engine, brief) == [2, 3, 4]
    system.pass_(1)
    assert found(engine, brief) == [3, 4]
    assert set(engine.verify(brief, [key(2), key(3)])) == {Status.MISS, Status.HIT}
    assert fill(engine, brief, range(2, 3)) == bytes([Status.HIT]), "not PRESENT: it is stored anew"
    assert found(engine, free) == list(range(10))
    assert (row(engine, "brief")["expired_records"], row(engine, "brief")["ttl_seconds"]) == (3, 320)


def test_what_nobody_asks_for_expires_as_well_bit_by_bit(engine: SegmentEngine, system: System) -> None:
    brief = open_(engine, "brief")
    fill(engine, brief, range(700))
    system.pass_(319)
    tick(engine)
    assert row(engine, "brief")["records"] == 700
    system.pass_(1)
    engine._housekeeping_at_s = 0.0
    assert engine.tick(), "there is more to do"
    assert 0 < row(engine, "brief")["records"] < 700
    assert get(engine, brief, [key(699)]) == [None], "meanwhile it is a miss all the same"
    tick(engine)
    assert (row(engine, "brief")["records"], row(engine, "brief")["expired_records"]) == (0, 700)
    assert len(engine._index) == 0


def test_a_put_under_way_at_the_time(engine: SegmentEngine, system: System) -> None:
    brief = open_(engine, "brief")
    fill(engine, brief, range(3))
    batch = engine.read(brief, [key(0)], [SIZE])
    system.pass_(400)
    assert bytes(batch.views[0] or b"") == block(0, SIZE)
    engine.release(batch)
    assert engine.delete(brief, [key(0)]) == bytes([Status.MISS])
    assert found(engine, brief) == []


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("back_s", [0, 500, 10_000_000])
def test_ages_survive_restarts_and_a_clock_that_is_set_back(
    tmp_path: Path, system: System, crashed: bool, back_s: int
) -> None:
    engine = opened(tmp_path)
    brief = open_(engine, "brief")
    for number in range(5):
        tick(engine)
        fill(engine, brief, range(number, number + 1))
        system.pass_(100)
    assert found(engine, brief) == [2, 3, 4]
    tick(engine)
    if crashed:
        registry = engine._namespaces.marks
        assert len(registry) >= 5
    engine.close()
    system.wall_s -= back_s
    system.monotonic_s = 7.0
    engine = opened(tmp_path)
    brief = open_(engine, "brief")
    assert found(engine, brief) == [2, 3, 4], "at most ten seconds are lost to rounding"
    system.pass_(15)
    assert set(found(engine, brief)) in ({3, 4}, {2, 3, 4})
    system.pass_(5)
    assert found(engine, brief) == [3, 4], "it goes on at its own pace"
    system.pass_(300)
    assert found(engine, brief) == []
    engine.close()


def test_expired_records_are_not_copied_forward(tmp_path: Path, system: System) -> None:
    engine = opened(tmp_path, capacity=6 * SEGMENT + (1 << 17))
    brief, free = open_(engine, "brief"), open_(engine, "free")
    fill(engine, brief, range(100))
    for _ in range(3):
        assert len(found(engine, brief)) == 100
    system.pass_(320)
    number = 0
    while engine.usage()["evicted_segments"] < 2:
        put(engine, free, {b"f%d" % number: block(number, 20_000)})
        number += 1
    assert engine.usage()["reinserted_records"] == 0
    assert found(engine, brief) == []
    engine.close()


def test_copied_forward_it_is_as_old_as_it_was(tmp_path: Path, system: System) -> None:
    engine = opened(tmp_path, capacity=6 * SEGMENT + (1 << 17))
    brief, free = open_(engine, "brief"), open_(engine, "free")
    tick(engine)
    fill(engine, brief, range(20))
    found(engine, brief)
    system.pass_(200)
    number = 0
    while engine.usage()["reinserted_records"] < 20:
        put(engine, free, {b"f%d" % number: block(number, 20_000)})
        tick(engine)
        found(engine, brief)
        number += 1
    assert found(engine, brief) == list(range(20))
    engine.close()
    engine = opened(tmp_path, capacity=6 * SEGMENT + (1 << 17))
    brief = open_(engine, "brief")
    assert found(engine, brief) == list(range(20))
    system.pass_(120)
    assert found(engine, brief) == []
    engine.close()


def test_a_ttl_that_is_set_later_knows_the_ages(tmp_path: Path, system: System) -> None:
    engine = opened(tmp_path, Rules())
    n = open_(engine, "brief")
    for number in range(10):
        fill(engine, n, range(number, number + 1))
        system.pass_(700)
        tick(engine)
    engine.close()
    engine = opened(tmp_path, Rules((Rule("*", None, 3600),)))
    assert found(engine, open_(engine, "brief")) in ([5, 6, 7, 8, 9], [6, 7, 8, 9])
    engine.close()


def test_both_bounds(engine: SegmentEngine, system: System) -> None:
    both = open_(engine, "both")
    fill(engine, both, range(8))
    system.pass_(310)
    fill(engine, both, range(8, 12))
    assert found(engine, both) == list(range(2, 12))
    system.pass_(10)
    assert found(engine, both) == list(range(8, 12))
    assert engine.usage()["records"] == row(engine, "both")["records"] == 4


def test_what_bounds_cost_in_memory(tmp_path: Path) -> None:
    """A record of a namespace with a quota or a TTL takes so much more: told in the docs."""
    import tracemalloc

    def bytes_of(rules: Rules) -> float:
        gc.collect()
        tracemalloc.start()
        engine = open_engine("memory", capacity_bytes=24 << 20, segment_bytes=4 << 20, rules=rules)
        namespace = open_(engine, "n")
        for start in range(0, 20_000, 1000):
            put(engine, namespace, {b"%06d" % number: b"" for number in range(start, start + 1000)})
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        engine.close()
        return taken / 20_000

    assert bytes_of(Rules((Rule("*", 1 << 40, 3600),))) - bytes_of(Rules()) < 200
