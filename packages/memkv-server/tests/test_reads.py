# SPDX-License-Identifier: Apache-2.0
"""Reads that wait for the drive, and an engine that does not: begun, finished, abandoned, overtaken by the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import DriveSet, Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine import direct as direct_module
from memkv_server.engine import reads as reads_module
from memkv_server.engine.base import ReadBatch
from memkv_server.engine.direct import DirectDrive

MIB = 1 << 20
SIZE = 50_000
KEYS = [b"k%d" % number for number in range(40)]
VALUES = {key: block(number, SIZE) for number, key in enumerate(KEYS)}


class Gate:
    """Holds the reads of a drive back until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.broken = False
        real = os.preadv

        def gated(fd: int, buffers: list[memoryview], offset: int) -> int:
            assert self.opened.wait(30)
            if self.broken:
                raise OSError(5, "Input/output error")
            return real(fd, buffers, offset)

        monkeypatch.setattr(os, "preadv", gated)


@pytest.fixture
def notified() -> threading.Event:
    return threading.Event()


@pytest.fixture
def engine(tmp_path: Path, notified: threading.Event) -> Iterator[SegmentEngine]:
    engine = open_engine("direct", tmp_path, 32 * MIB, MIB, notify=notified.set)
    yield engine
    engine.close()


@pytest.fixture
def namespace(engine: SegmentEngine) -> Namespace:
    namespace = engine.open_namespace("n", b"")
    assert namespace is not None
    put(engine, namespace, VALUES)
    engine.sync()
    chill(engine)
    return namespace


def chill(engine: SegmentEngine) -> None:
    """Empties the pool of the drive."""
    drive = engine._drive
    assert isinstance(drive, DirectDrive)
    drive.missing([])
    for _ in range(3 * len(drive._pool._frames)):
        drive._pool._sweep()


def held(engine: SegmentEngine) -> int:
    drive = engine._drive
    assert isinstance(drive, DirectDrive)
    drive.missing([])
    return drive._pool.held_bytes


def values_of(batch: ReadBatch) -> list[bytes | None]:
    return [None if view is None else bytes(view) for view in batch.views]


def test_what_is_in_memory_is_there_at_once(engine: SegmentEngine, namespace: Namespace) -> None:
    expected = get(engine, namespace, KEYS)
    reading = engine.begin_read(namespace, KEYS, [SIZE] * 40)
    assert reading.settled
    batch = reading.finish()
    assert values_of(batch) == expected == list(VALUES.values())
    engine.release(batch)
    engine.begin_read(namespace, KEYS, [SIZE] * 40).abandon()
    assert held(engine) == 0


def test_others_are_served_while_the_drive_is_read(
    engine: SegmentEngine, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    reading = engine.begin_read(namespace, KEYS, [SIZE] * 40)
    again = engine.begin_read(namespace, KEYS[5:10], [SIZE] * 5)
    assert not reading.settled
    assert put(engine, namespace, {b"other": block(99, SIZE)}) == bytes([Status.HIT])
    assert engine.exists(namespace, [b"k1"]) == bytes([Status.HIT])
    assert get(engine, namespace, [b"other"]) == [block(99, SIZE)]
    for _ in range(100):
        engine.tick()
    assert not reading.settled
    gate.opened.set()
    for each, keys in ((reading, KEYS), (again, KEYS[5:10])):
        wait_until(lambda each=each: each.settled)  # type: ignore[misc]
        batch = each.finish()
        assert values_of(batch) == [VALUES[key] for key in keys]
        engine.release(batch)
    assert held(engine) == 0


def test_an_abandoned_read_gives_back_what_it_holds(
    engine: SegmentEngine, namespace: Namespace, notified: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    reading = engine.begin_read(namespace, KEYS, [SIZE] * 40)
    reading.abandon()
    engine.tick()
    assert held(engine) > 0, "the thread still writes there"
    gate.opened.set()
    assert notified.wait(30)
    wait_until(lambda: bool(engine.tick() or held(engine) == 0))
    assert all(segment.pins == 0 for segment in engine._pool.segments)


def test_what_cannot_be_read_is_a_miss(
    engine: SegmentEngine, namespace: Namespace, notified: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    gate.broken = True
    reading = engine.begin_read(namespace, KEYS[:2], [SIZE] * 2)
    gate.opened.set()
    assert notified.wait(30)
    wait_until(lambda: reading.settled)
    batch = reading.finish()
    assert values_of(batch) == [None, None]
    engine.release(batch)
    assert engine.usage()["unreadable_records"] == 2
    assert held(engine) == 0
    gate.broken = False
    assert get(engine, namespace, KEYS[:3]) == [None, None, VALUES[KEYS[2]]]


def test_a_drive_that_is_taken_down_settles_its_reads_as_misses(
    engine: SegmentEngine, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    reading = engine.begin_read(namespace, KEYS, [SIZE] * 40)
    engine.retire()
    assert reading.settled
    batch = reading.finish()
    assert values_of(batch) == [None] * 40
    engine.release(batch)
    gate.opened.set()  # and close() waits for the thread


@pytest.fixture
def crowded(
    tmp_path: Path, notified: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SegmentEngine, Namespace, ReadBatch]]:
    """An engine whose pool of 2 MiB is held by a batch of 25 values, with 40 on the drive."""
    monkeypatch.setattr(direct_module, "POOL_BYTES_MIN", MIB)
    engine = open_engine("direct", tmp_path / "crowded", 32 * MIB, MIB, notify=notified.set, memory_bytes=2 * MIB)
    namespace = engine.open_namespace("n", b"")
    assert namespace is not None
    for key, value in VALUES.items():
        assert put(engine, namespace, {key: value}) == bytes([Status.HIT])
        engine.sync()
    batch = engine.read(namespace, KEYS[:25], [SIZE] * 25)
    assert None not in batch.views
    yield engine, namespace, batch
    engine.close()


def test_a_read_waits_for_memory_that_others_hold(crowded: tuple[SegmentEngine, Namespace, ReadBatch]) -> None:
    engine, namespace, first = crowded
    readings = [
        engine.begin_read(namespace, KEYS[20:], [SIZE] * 20),
        engine.begin_read(namespace, KEYS[:20], [SIZE] * 20),
    ]
    given_up = engine.begin_read(namespace, KEYS[15:], [SIZE] * 25)
    engine.tick()
    assert [reading.settled for reading in readings] == [False, True], "the other's are in memory already"
    given_up.abandon()
    engine.release(first)
    engine.release(readings.pop().finish())
    wait_until(lambda: bool(engine.tick() or readings[0].settled))
    batch = readings[0].finish()
    assert values_of(batch) == [VALUES[key] for key in KEYS[20:]]
    engine.release(batch)
    assert engine.usage()["crowded_out_records"] == held(engine) == 0


def test_a_read_that_has_waited_long_takes_what_there_is(
    crowded: tuple[SegmentEngine, Namespace, ReadBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, namespace, first = crowded
    monkeypatch.setattr(reads_module, "CROWDED_WAIT_S", 0.0)
    reading = engine.begin_read(namespace, KEYS[20:], [SIZE] * 20)
    wait_until(lambda: bool(engine.tick() or reading.settled))
    batch = reading.finish()
    found = values_of(batch)
    assert found[:5] == [VALUES[key] for key in KEYS[20:25]]
    assert None in found[5:]
    assert engine.usage()["crowded_out_records"] == found.count(None)
    engine.release(batch)
    engine.release(first)
    assert get(engine, namespace, KEYS[20:]) == [VALUES[key] for key in KEYS[20:]]


def test_a_read_that_waits_is_a_miss_when_the_drive_goes(crowded: tuple[SegmentEngine, Namespace, ReadBatch]) -> None:
    engine, namespace, _ = crowded
    reading = engine.begin_read(namespace, KEYS[20:], [SIZE] * 20)
    before = reading.settled
    engine.retire()
    assert (before, reading.settled) == (False, True)
    assert values_of(reading.finish()) == [None] * 20


def test_several_drives_settle_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drives = [{"path": str(tmp_path / name), "capacity_bytes": 8 * MIB} for name in "abc"]
    engine = DriveSet.over("direct", drives, 0, MIB)
    namespace = engine.open_namespace("n", b"")
    assert namespace is not None
    assert put(engine, namespace, VALUES) == bytes([Status.HIT]) * 40
    engine.sync()
    for each in engine._engines():
        chill(each)
    gate = Gate(monkeypatch)
    reading = engine.begin_read(namespace, [*KEYS, b"none"], [SIZE] * 41)
    engine.begin_read(namespace, KEYS, [SIZE] * 40).abandon()
    assert not reading.settled
    gate.opened.set()
    wait_until(lambda: reading.settled)
    batch = reading.finish()
    assert values_of(batch) == [*VALUES.values(), None]
    engine.release(batch)
    wait_until(lambda: bool(engine.tick() or all(held(each) == 0 for each in engine._engines())))
    engine.close()


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")
