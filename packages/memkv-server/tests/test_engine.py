# SPDX-License-Identifier: Apache-2.0
"""The engine keeps its contract in both modes, and what is its own: pins, bounds, second chances, drives that fail."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.digests import digest
from memkv_core.errors import InvalidArgumentError, StorageError
from memkv_core.testing.engine_tests import EngineTests, block, get, put
from memkv_server.engine import Namespace, SegmentEngine, Status, heads, open_engine
from memkv_server.engine.direct import DirectDrive
from memkv_server.engine.drive import SEGMENTS_FILE
from memkv_server.engine.durability import Level
from memkv_server.engine.limits import REINSERT_SHARE_MAX

CAPACITY = 8 << 20
SEGMENT = 256 << 10
ALIGNMENT = {"memory": 64, "file": 64, "direct": 4096}


class TestMemoryMode(EngineTests):
    durable = False

    def make_engine(self, path: Path) -> SegmentEngine:
        return open_engine("memory", None, 32 << 20)

    def damage(self, engine: SegmentEngine, namespace: Namespace, key: bytes) -> None:
        batch = engine.read(namespace, [key], [1 << 30])
        view = batch.views[0]
        assert view is not None
        view[len(view) // 2] ^= 0x10
        engine.release(batch)


class TestByArrays(TestMemoryMode):
    """What is done by arrays for many keys, done so for a few: the random histories go through it."""

    @pytest.fixture(autouse=True)
    def _few_are_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heads, "ALIKE_MIN", 1)


class TestFileMode(EngineTests):
    def make_engine(self, path: Path) -> SegmentEngine:
        return open_engine("file", path / "store", 32 << 20)

    def reopen(self, engine: SegmentEngine) -> SegmentEngine:
        path = engine.usage()["drives"][0]["path"]
        engine.close()
        return open_engine("file", path, 32 << 20)

    def damage(self, engine: SegmentEngine, namespace: Namespace, key: bytes) -> None:
        batch = engine.read(namespace, [key], [1 << 30])
        value = bytes(batch.views[0] or b"")
        engine.release(batch)
        flip_on_drive(Path(engine.usage()["drives"][0]["path"]), value)


def flip_on_drive(folder: Path, value: bytes) -> None:
    """Flips one bit in the middle of the stored copy of ``value``, in the file and beneath the engine."""
    file = folder / SEGMENTS_FILE
    at = file.read_bytes().rindex(value) + len(value) // 2
    fd = os.open(file, os.O_RDWR)
    try:
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0x10]), at)
    finally:
        os.close(fd)


class TestStrict(TestFileMode):
    """Durability strict, in mode file: every put of these tests waits for the medium."""

    def make_engine(self, path: Path) -> SegmentEngine:
        return open_engine("file", path / "store", 32 << 20, level=Level.STRICT)

    def reopen(self, engine: SegmentEngine) -> SegmentEngine:
        path = engine.usage()["drives"][0]["path"]
        engine.close()
        return open_engine("file", path, 32 << 20, level=Level.STRICT)


class TestDirectMode(TestFileMode):
    def make_engine(self, path: Path) -> SegmentEngine:
        return open_engine("direct", path / "store", 64 << 20)

    def reopen(self, engine: SegmentEngine) -> SegmentEngine:
        path = engine.usage()["drives"][0]["path"]
        engine.close()
        return open_engine("direct", path, 64 << 20)

    def damage(self, engine: SegmentEngine, namespace: Namespace, key: bytes) -> None:
        super().damage(engine, namespace, key)
        empty_pool(engine)


class TestByArraysDirectMode(TestDirectMode):
    """The same for records aligned to pages, read from the medium."""

    @pytest.fixture(autouse=True)
    def _few_are_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heads, "ALIKE_MIN", 1)


class TestStrictDirectMode(TestDirectMode):
    """The same in mode direct."""

    def make_engine(self, path: Path) -> SegmentEngine:
        return open_engine("direct", path / "store", 64 << 20, level=Level.STRICT)

    def reopen(self, engine: SegmentEngine) -> SegmentEngine:
        path = engine.usage()["drives"][0]["path"]
        engine.close()
        return open_engine("direct", path, 64 << 20, level=Level.STRICT)


def empty_pool(engine: SegmentEngine) -> None:
    """Has a drive in mode direct read everything from the medium again."""
    drive = engine._drive
    assert isinstance(drive, DirectDrive)
    drive.write_back()
    drive.missing([])
    for _ in range(3 * len(drive._pool._frames)):
        drive._pool._sweep()


@pytest.fixture(params=["memory", "file", "direct"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SegmentEngine]:
    engine = open_engine(request.param, tmp_path / "store", CAPACITY, SEGMENT)
    yield engine
    engine.close()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait


@pytest.fixture
def namespace(engine: SegmentEngine) -> Namespace:
    return named(engine, "n")


def named(engine: SegmentEngine, name: str) -> Namespace:
    namespace = engine.open_namespace(name, b"{}")
    assert namespace is not None
    return namespace


def reserve(engine: SegmentEngine, namespace: Namespace, values: dict[bytes, bytes]) -> Any:
    digests = [digest([memoryview(value)], 0) for value in values.values()]
    return engine.reserve(namespace, list(values), [len(value) for value in values.values()], digests, 0, None)


def receive(reservation: Any, values: dict[bytes, bytes]) -> None:
    for extent, value in zip(reservation.extents, values.values(), strict=True):
        if extent is not None:
            extent[:] = value


def test_the_bound_holds_and_no_put_is_refused_over_ten_times_the_capacity(
    engine: SegmentEngine, namespace: Namespace, tmp_path: Path
) -> None:
    written = number = 0
    while written < 10 * CAPACITY:
        values = {b"%d-%d" % (number, place): block(number + place, 1000 * (place + 1)) for place in range(16)}
        assert put(engine, namespace, values) == bytes([Status.HIT]) * 16
        written += sum(map(len, values.values()))
        number += 1
        if number % 3 == 0:
            engine.tick()  # and two times in three nobody finds the time
        usage = engine.usage()
        assert usage["used_bytes"] <= usage["capacity_bytes"] <= CAPACITY
        assert usage["live_bytes"] <= usage["used_bytes"]
    assert usage["evicted_segments"] > 9 * CAPACITY // SEGMENT
    assert usage["live_bytes"] > 0.8 * CAPACITY
    if (tmp_path / "store").exists():
        files = [file.stat() for file in (tmp_path / "store").iterdir()]
        assert sum(file.st_size for file in files) <= CAPACITY + 32  # the lock file holds a process id
        assert sum(file.st_blocks * 512 for file in files) <= CAPACITY + 4096


def test_what_is_read_often_outlives_what_is_not(engine: SegmentEngine, namespace: Namespace) -> None:
    hot = {b"hot%d" % number: block(number, 8_000) for number in range(15)}
    put(engine, namespace, hot)
    for number in range(4000):
        put(engine, namespace, {b"cold%d" % number: block(number, 10_000)})
        if number % 100 == 0:
            assert get(engine, namespace, list(hot)) == list(hot.values())
    usage = engine.usage()
    assert get(engine, namespace, [b"cold0"]) == [None]
    assert usage["reinserted_records"] >= 15
    assert usage["reinserted_bytes"] <= REINSERT_SHARE_MAX * usage["user_bytes"]


def test_write_amplification_is_bounded_when_everything_is_read(engine: SegmentEngine, namespace: Namespace) -> None:
    for number in range(3000):
        put(engine, namespace, {b"k%d" % number: block(number, 10_000)})
        get(engine, namespace, [b"k%d" % number])
        engine.tick()
    usage = engine.usage()
    assert 0 < usage["reinserted_bytes"] <= REINSERT_SHARE_MAX * usage["user_bytes"]


def test_a_pinned_segment_keeps_its_bytes_and_comes_back_when_released(
    engine: SegmentEngine, namespace: Namespace, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    first = {b"first%d" % number: block(number, 20_000) for number in range(3)}
    put(engine, namespace, first)
    batch = engine.read(namespace, list(first), [20_000] * 3)
    for number in range(3 * CAPACITY // 20_000):
        assert put(engine, namespace, {b"k%d" % number: block(number, 20_000)}) == bytes([Status.HIT])
    assert [bytes(view or b"") for view in batch.views] == list(first.values())
    assert get(engine, namespace, list(first)) == [None] * 3, "its records are given up all the same"
    total = engine.usage()["segments"]["total"]

    def reachable() -> int:
        segments = engine.usage()["segments"]
        return int(segments["free"] + segments["sealed"]) + 1

    wait_until(lambda: not engine.tick() and reachable() == total - 1)
    engine.release(batch)
    engine.release(batch)  # nothing is left to release
    assert reachable() == total


def test_no_space_only_when_everything_is_pinned(engine: SegmentEngine, namespace: Namespace) -> None:
    batches = []
    refused = None
    for number in range(2 * CAPACITY // 20_000):
        key = b"k%d" % number
        statuses = put(engine, namespace, {key: block(number, 20_000)})
        if statuses != bytes([Status.HIT]):
            refused = statuses
            break
        batches.append(engine.read(namespace, [key], [20_000]))
    assert refused == bytes([Status.NO_SPACE])
    assert engine.usage()["used_bytes"] > 0.85 * CAPACITY
    for number, batch in enumerate(batches):
        assert batch.statuses[0] == Status.HIT
        assert bytes(batch.views[0] or b"") == block(number, 20_000)
    assert get(engine, namespace, [b"k0"]) == [block(0, 20_000)], "nothing was given up in vain"
    assert engine.delete(namespace, [b"k0"]) == bytes([Status.HIT]), "a tombstone still fits"
    for batch in batches:
        engine.release(batch)
    assert put(engine, namespace, {b"again": block(1, 20_000)}) == bytes([Status.HIT])


def test_a_batch_larger_than_the_store_stores_what_fits(engine: SegmentEngine, namespace: Namespace) -> None:
    values = {b"k%d" % number: block(number, 100_000) for number in range(2 * CAPACITY // 100_000)}
    reservation = reserve(engine, namespace, values)
    receive(reservation, values)
    statuses = engine.commit(reservation)  # and no tick, which would go on and make room
    stored = statuses.count(Status.HIT)
    assert statuses == bytes([Status.HIT]) * stored + bytes([Status.NO_SPACE]) * (len(values) - stored)
    assert stored >= 50
    expected = [value if number < stored else None for number, value in enumerate(values.values())]
    assert get(engine, namespace, list(values)) == expected


def test_a_slow_writer_loses_its_segment_but_nobody_elses(engine: SegmentEngine, namespace: Namespace) -> None:
    slow = {b"slow": block(0, 50_000)}
    reservation = reserve(engine, namespace, slow)
    for number in range(3 * CAPACITY // 20_000):
        assert put(engine, namespace, {b"k%d" % number: block(number, 20_000)}) == bytes([Status.HIT])
    receive(reservation, slow)  # late, into memory that is still its own
    newest = b"k%d" % number
    assert get(engine, namespace, [newest]) == [block(number, 20_000)]
    assert engine.commit(reservation) == bytes([Status.NO_SPACE])
    assert get(engine, namespace, [b"slow", newest]) == [None, block(number, 20_000)]
    assert put(engine, namespace, slow) == bytes([Status.HIT])


def test_two_writers_of_one_key_the_later_commit_wins(engine: SegmentEngine, namespace: Namespace) -> None:
    one, two = {b"k": block(1, 300)}, {b"k": block(2, 400)}
    first, second = reserve(engine, namespace, one), reserve(engine, namespace, two)
    receive(first, one)
    receive(second, two)
    engine.commit(second)
    engine.commit(first)
    assert get(engine, namespace, [b"k"]) == [one[b"k"]]


def test_a_late_batch_that_fills_its_new_segment_is_there_after_a_restart(tmp_path: Path) -> None:
    for mode in ("file", "direct"):
        engine = open_engine(mode, tmp_path / mode, CAPACITY, SEGMENT)
        namespace = named(engine, "n")
        late = {b"a": block(1, 100_000), b"b": block(2, 100_000)}
        reservation = reserve(engine, namespace, late)
        put(engine, namespace, {b"next": block(3, 100_000)})
        put(engine, namespace, {b"a": block(4, 1000), b"b": block(5, 1000)})
        put(engine, namespace, {b"f": block(6, 100_000), b"g": block(7, 100_000)})
        current = engine._pool.current
        assert current is not None
        assert 104_192 < current.end - current.tail < 200_000, "one of the two fits"
        receive(reservation, late)
        assert engine.commit(reservation) == bytes([Status.HIT]) * 2
        assert engine._pool.current is not current
        for number in range(6):
            put(engine, namespace, {b"k%d" % number: block(number, 100_000)})
        assert all(segment.writers == 0 for segment in engine._pool.segments)
        engine.close()
        engine = open_engine(mode, tmp_path / mode, CAPACITY)
        assert get(engine, namespace, [b"a", b"b"]) == list(late.values())
        engine.close()


def test_an_aborted_batch_gives_its_space_back(engine: SegmentEngine, namespace: Namespace) -> None:
    put(engine, namespace, {b"a": block(1, 1000)})
    used = engine.usage()["used_bytes"]
    for _ in range(1000):
        engine.abort(reserve(engine, namespace, {b"b": block(2, 30_000), b"c": block(3, 30_000)}))
    assert engine.usage()["used_bytes"] - used < 2 * SEGMENT
    assert engine.usage()["evicted_segments"] == 0
    assert get(engine, namespace, [b"a", b"b"]) == [block(1, 1000), None]


def test_an_abort_among_other_writers_costs_only_its_space(engine: SegmentEngine, namespace: Namespace) -> None:
    one, two = {b"one": block(1, 300)}, {b"two": block(2, 400)}
    first, second = reserve(engine, namespace, one), reserve(engine, namespace, two)
    receive(second, two)
    engine.abort(first)
    assert engine.commit(second) == bytes([Status.HIT])
    put(engine, namespace, {b"three": block(3, 500)})
    assert get(engine, namespace, [b"one", b"two", b"three"]) == [None, block(2, 400), block(3, 500)]


def test_other_meta_replaces(engine: SegmentEngine, namespace: Namespace) -> None:
    values = {b"k": block(1, 1000)}
    assert put(engine, namespace, values, metas=[b"one"]) == bytes([Status.HIT])
    assert put(engine, namespace, values, metas=[b"one"]) == bytes([Status.PRESENT])
    assert put(engine, namespace, values, metas=[b"two"]) == bytes([Status.HIT])
    assert put(engine, namespace, values) == bytes([Status.PRESENT]), "no meta given: none changed"
    batch = engine.read(namespace, [b"k"], [1000])
    assert batch.metas == [b"two"]
    engine.release(batch)


def test_a_value_as_long_as_a_segment_allows_and_one_longer(engine: SegmentEngine, namespace: Namespace) -> None:
    alignment = ALIGNMENT[engine.usage()["drives"][0]["mode"]]
    longest = SEGMENT - 4096 - 64 - 48 - max(128, alignment)
    longest &= -alignment
    assert put(engine, namespace, {b"k": block(1, longest)}) == bytes([Status.HIT])
    assert get(engine, namespace, [b"k"]) == [block(1, longest)]
    assert put(engine, namespace, {b"l": block(1, longest + alignment + 1)}) == bytes([Status.TOO_LONG])


def test_an_unknown_digest_kind(engine: SegmentEngine, namespace: Namespace) -> None:
    with pytest.raises(InvalidArgumentError, match="7"):
        engine.reserve(namespace, [b"k"], [1], [bytes(16)], 7, None)


def test_usage_counts_by_namespace(engine: SegmentEngine, namespace: Namespace) -> None:
    other = named(engine, "other")
    put(engine, namespace, {b"a": block(1, 1000), b"b": block(2, 1000)})
    put(engine, other, {b"a": block(3, 500)})
    put(engine, namespace, {b"a": block(4, 5000)})
    engine.delete(namespace, [b"b"])
    usage = {entry["name"]: (entry["records"], entry["bytes"]) for entry in engine.usage()["namespaces"]}
    if engine.usage()["drives"][0]["mode"] == "direct":
        assert usage == {"n": (1, 8192 + 4096), "other": (1, 4096 + 4096)}
    else:
        assert usage == {"n": (1, 5120 - 64 + 128), "other": (1, 512 + 128)}
    assert engine.usage()["live_bytes"] == sum(size for _, size in usage.values())


def test_a_drive_that_cannot_sync_takes_no_more_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    engine = open_engine("file", tmp_path / "store", CAPACITY, SEGMENT)
    namespace = named(engine, "n")
    put(engine, namespace, {b"before": b"1"})

    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    under_way = reserve(engine, namespace, {b"under way": b"12"})
    put(engine, namespace, {b"during": b"2"})
    wait_until(lambda: engine.usage()["drives"][0]["state"] == "read-only")
    assert "Input/output error" in engine.usage()["drives"][0]["failure"]
    assert put(engine, namespace, {b"after": b"3"}) == bytes([Status.READ_ONLY])
    assert engine.commit(under_way) == bytes([Status.READ_ONLY])
    assert engine.delete(namespace, [b"before"]) == bytes([Status.READ_ONLY])
    assert get(engine, namespace, [b"before", b"after"]) == [b"1", None]
    engine.close()


def test_each_level_opens_what_the_other_wrote(tmp_path: Path) -> None:
    written: dict[bytes, bytes] = {}
    for number, level in enumerate([Level.RELAXED, Level.STRICT, Level.RELAXED, Level.STRICT]):
        engine = open_engine("file", tmp_path / "store", CAPACITY, SEGMENT, level=level)
        namespace = named(engine, "n")
        assert get(engine, namespace, list(written)) == list(written.values())
        assert engine.usage()["drives"][0]["durability"] == level.value
        values = {b"%d-%d" % (number, place): block(number + place, 20_000) for place in range(30)}
        assert put(engine, namespace, values) == bytes([Status.HIT]) * 30
        written.update(values)
        engine.close()


def test_memory_cannot_be_strict() -> None:
    with pytest.raises(StorageError, match="does not outlive a loss of power"):
        open_engine("memory", None, CAPACITY, level=Level.STRICT)


def test_an_unknown_mode_and_a_missing_folder() -> None:
    with pytest.raises(StorageError, match="floppy"):
        open_engine("floppy", None, CAPACITY)
    with pytest.raises(StorageError, match="folder"):
        open_engine("file", None, CAPACITY)


def test_calls_after_close_do_no_harm(engine: SegmentEngine, namespace: Namespace) -> None:
    put(engine, namespace, {b"k": block(1, 1000)})
    batch = engine.read(namespace, [b"k"], [1000])
    reservation = reserve(engine, namespace, {b"l": block(2, 1000)})
    engine.close()
    assert bytes(batch.views[0] or b"") == block(1, 1000), "a view that is being sent outlives the engine"
    engine.release(batch)
    engine.abort(reservation)
    engine.close()


def test_a_batch_that_makes_no_sense_leaves_nothing_behind(engine: SegmentEngine, namespace: Namespace) -> None:
    before = engine.usage()["used_bytes"]
    with pytest.raises(struct.error):
        engine.reserve(namespace, [b"a", b"b"], [10, 10], [bytes(16)] * 2, 0, [b"", b"m" * 70_000])
    assert engine.usage()["used_bytes"] == before
    for number in range(3 * CAPACITY // 20_000):
        assert put(engine, namespace, {b"k%d" % number: block(number, 20_000)}) == bytes([Status.HIT])
