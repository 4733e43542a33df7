# SPDX-License-Identifier: Apache-2.0
"""A lane's engine over one and over three drives: the contract, drives that fail, and drives that come back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memkv_core.digests import digest
from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import EngineTests, block, get, put
from memkv_server.engine import DriveSet, Namespace, Status
from memkv_server.engine import bay as bay_module
from memkv_server.engine.drive import SEGMENTS_FILE, FileDrive
from memkv_server.engine.durability import Level
from memkv_server.engine.placement import slot_of
from memkv_server.engine.segment import hash_key

CAPACITY = 8 << 20
SEGMENT = 256 << 10


def opened(folders: list[Path], capacity: int = CAPACITY, segment: int | None = SEGMENT) -> DriveSet:
    drives = [{"path": str(folder), "capacity_bytes": capacity} for folder in folders]
    return DriveSet.over("file", drives, capacity * len(drives), segment)


def flip_on_drive(folders: list[Path], value: bytes) -> None:
    """Flips one bit in the middle of the stored copy of ``value``, beneath the engine."""
    for folder in folders:
        content = (folder / SEGMENTS_FILE).read_bytes()
        if (found := content.rfind(value)) >= 0:
            at = found + len(value) // 2
            fd = os.open(folder / SEGMENTS_FILE, os.O_RDWR)
            os.pwrite(fd, bytes([content[at] ^ 0x10]), at)
            os.close(fd)


class OnDrives(EngineTests):
    count = 1

    def make_engine(self, path: Path) -> DriveSet:
        return opened([path / f"drive{number}" for number in range(self.count)], 24 << 20, None)

    def reopen(self, engine: DriveSet) -> DriveSet:
        folders = self.folders(engine)
        engine.close()
        return opened(folders, 24 << 20, None)

    def damage(self, engine: DriveSet, namespace: Namespace, key: bytes) -> None:
        batch = engine.read(namespace, [key], [1 << 30])
        value = bytes(batch.views[0] or b"")
        engine.release(batch)
        flip_on_drive(self.folders(engine), value)

    def folders(self, engine: DriveSet) -> list[Path]:
        return [Path(drive["path"]) for drive in engine.usage()["drives"]]


class TestOneDrive(OnDrives):
    count = 1


class TestThreeDrives(OnDrives):
    count = 3


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in ("a", "b", "c")]


@pytest.fixture
def engine(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[DriveSet]:
    monkeypatch.setattr(bay_module, "RETRY_S_MIN", 0.02)
    monkeypatch.setattr(bay_module, "RETRY_S_MAX", 0.05)
    engine = opened(folders)
    yield engine
    engine.close()


@pytest.fixture
def namespace(engine: DriveSet) -> Namespace:
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    return namespace


def states(engine: DriveSet) -> list[str]:
    return [drive["state"] for drive in engine.usage()["drives"]]


def tick_until(engine: DriveSet, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        engine.tick()
        time.sleep(0.01)


def values_of(count: int, size: int = 20_000) -> dict[bytes, bytes]:
    return {b"k%d" % number: block(number, size) for number in range(count)}


def test_keys_are_spread_over_the_drives(engine: DriveSet, namespace: Namespace) -> None:
    values = values_of(300)
    assert put(engine, namespace, values) == bytes([Status.HIT]) * 300
    used = [drive["used_bytes"] for drive in engine.usage()["drives"]]
    assert min(used) > 0.15 * sum(used)
    assert engine.usage()["records"] == engine.usage()["namespaces"][0]["records"] == 300
    assert engine.usage()["capacity_bytes"] <= 3 * CAPACITY
    assert engine.lookup(namespace, [*values, b"no", b"k1"]) == 300
    assert engine.lookup(namespace, [b"k0", b"k1", b"no", b"k2"]) == 2


def test_a_drive_that_goes_and_comes_back(
    engine: DriveSet, namespace: Namespace, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of(300)
    put(engine, namespace, values)
    folders[1].rename(folders[1].with_name("away"))  # as a drive that is pulled out
    os.truncate(folders[1].with_name("away") / SEGMENTS_FILE, 0)
    found = get(engine, namespace, list(values))
    lost = {key for key, value in zip(values, found, strict=True) if value is None}
    assert 50 < len(lost) < 150
    tick_until(engine, lambda: states(engine)[1] == "offline")
    assert states(engine) == ["online", "offline", "online"]

    # It is away: its keys are misses and refused, the others are served.
    assert [key for key, value in zip(values, get(engine, namespace, list(values)), strict=True) if not value] == [
        key for key in values if key in lost
    ]
    statuses = put(engine, namespace, {key: block(1000, 100) for key in values})
    assert {key for key, status in zip(values, statuses, strict=True) if status == Status.READ_ONLY} == lost
    assert set(engine.delete(namespace, list(lost))) == {Status.READ_ONLY}
    assert set(engine.exists(namespace, list(lost))) == {Status.MISS}
    tick_until(engine, lambda: "does not hold the store" in (engine.usage()["drives"][1]["failure"] or ""))
    assert not folders[1].exists(), "no store is made where the drive used to be mounted"

    folders[1].with_name("away").rename(folders[1])
    tick_until(engine, lambda: states(engine)[1] == "online")
    again = {key: block(7, 500) for key in lost}
    assert set(put(engine, namespace, again)) == {Status.HIT}
    assert get(engine, namespace, list(lost)) == list(again.values())


def test_what_was_on_it_is_there_again(engine: DriveSet, namespace: Namespace, folders: list[Path]) -> None:
    values = values_of(300)
    put(engine, namespace, values)
    engine._bays[2].take_down("pulled out")
    assert states(engine)[2] == "offline"
    assert get(engine, namespace, list(values)).count(None) > 50
    tick_until(engine, lambda: states(engine)[2] == "online")
    assert get(engine, namespace, list(values)) == list(values.values())


def test_reads_and_puts_that_were_under_way_end(engine: DriveSet, namespace: Namespace) -> None:
    values = values_of(100, 5000)
    put(engine, namespace, values)
    batch = engine.read(namespace, list(values), [5000] * 100)
    fresh = {b"new%d" % number: block(number, 5000) for number in range(100)}
    digests = [digest([memoryview(value)], 0) for value in fresh.values()]
    reserved = [engine.reserve(namespace, list(fresh), [5000] * 100, digests, 0, None) for _ in range(2)]
    engine._bays[0].take_down("pulled out")
    tick_until(engine, lambda: states(engine)[0] == "online")
    assert [bytes(view or b"") for view in batch.views] == list(values.values())
    engine.release(batch)
    for extent, value in zip(reserved[0].extents, fresh.values(), strict=True):
        assert extent is not None
        extent[:] = value
    statuses = engine.commit(reserved[0])
    assert set(statuses) == {Status.HIT, Status.READ_ONLY}
    engine.abort(reserved[1])
    found = get(engine, namespace, list(fresh))
    assert [value is not None for value in found] == [status == Status.HIT for status in statuses]


def test_a_drive_that_is_full_or_read_only_is_opened_again_once_it_takes_a_write(
    engine: DriveSet, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of(60, 5000)
    put(engine, namespace, values)
    real = os.fdatasync

    def failing(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", failing)
    put(engine, namespace, {b"one more": b"1"})
    tick_until(engine, lambda: "read-only" in states(engine))
    assert get(engine, namespace, list(values)) == list(values.values()), "it is read as before"
    monkeypatch.setattr(os, "fdatasync", real)
    tick_until(engine, lambda: set(states(engine)) == {"online"})
    assert get(engine, namespace, list(values)) == list(values.values())
    assert set(put(engine, namespace, values_of(60, 4000))) == {Status.HIT}


def test_a_drive_missing_at_the_start_joins_later(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bay_module, "RETRY_S_MIN", 0.02)
    folders[1].mkdir()
    (folders[1] / "stranger").write_text("x")
    engine = opened(folders)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    assert states(engine) == ["online", "offline", "online"]
    assert "stranger" in engine.usage()["drives"][1]["failure"]
    (folders[1] / "stranger").unlink()
    tick_until(engine, lambda: states(engine)[1] == "online")
    values = values_of(100)
    assert set(put(engine, namespace, values)) == {Status.HIT}
    assert engine.open_namespace("n", b"other") is None
    engine.close()
    engine = opened(folders)
    assert engine.open_namespace("n", b"other") is None
    engine.close()


def test_a_drive_that_knows_a_namespace_by_another_identity_does_not_serve_it(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bay_module, "RETRY_S_MIN", 0.02)
    alone = opened(folders[1:2])
    other = alone.open_namespace("n", b"other")
    assert other is not None
    values = values_of(100)
    put(alone, other, values)
    blocked = opened(folders)  # the second is in use
    assert states(blocked)[1] == "offline"
    namespace = blocked.open_namespace("n", b"{}")
    assert namespace is not None
    alone.close()
    tick_until(blocked, lambda: states(blocked)[1] == "online")
    assert get(blocked, namespace, list(values)) == [None] * 100
    statuses = put(blocked, namespace, values)
    assert set(statuses) == {Status.HIT, Status.READ_ONLY}
    assert bytes(blocked.exists(namespace, list(values))) == bytes(int(s == Status.HIT) for s in statuses)
    blocked.close()


def test_no_drive_at_all(folders: list[Path]) -> None:
    for folder in folders:
        folder.mkdir()
        (folder / "stranger").write_text("x")
    with pytest.raises(StorageError, match=r"a holds 'stranger'"):
        opened(folders)


def test_a_write_that_fails_at_this_moment_is_refused_and_the_others_go_on(
    engine: DriveSet, namespace: Namespace, folders: list[Path]
) -> None:
    used = 1 + max(drive["used_bytes"] for drive in engine.usage()["drives"]) // SEGMENT
    os.truncate(folders[0] / SEGMENTS_FILE, used * SEGMENT)
    statuses = bytearray()
    for key, value in values_of(200).items():
        statuses += put(engine, namespace, {key: value})
    assert set(statuses) == {Status.HIT, Status.READ_ONLY}
    assert statuses.count(Status.HIT) > 100


def test_an_answer_waits_for_the_drives_that_its_batch_touched_and_for_no_other(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Durability strict over three drives, of which the first is slow, and then fails."""
    gate = threading.Event()
    gate.set()
    failures: list[str] = []
    real = FileDrive.sync

    def sync(drive: FileDrive) -> None:
        if drive.path == str(folders[0]):
            assert gate.wait(30)
            if failures:
                raise StorageError(failures[0])
        real(drive)

    monkeypatch.setattr(FileDrive, "sync", sync)
    drives = [{"path": str(folder), "capacity_bytes": CAPACITY} for folder in folders]
    engine = DriveSet.over("file", drives, CAPACITY * 3, SEGMENT, level=Level.STRICT)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    keys = [b"k%d" % number for number in range(60)]
    homes = {key: engine._homes[slot_of(hash_key(key, namespace.hash))] for key in keys}
    slow = next(key for key in keys if homes[key] == 0)
    quick = next(key for key in keys if homes[key] == 1)
    gate.clear()
    begin(engine, namespace, [slow])
    waiting = engine.barrier()
    assert waiting is not None
    begin(engine, namespace, [quick])
    passing = engine.barrier()
    assert passing is not None
    begin(engine, namespace, keys)
    both = engine.barrier()
    assert both is not None
    tick_until(engine, lambda: passing.settled)
    assert (passing.failure, waiting.settled, both.settled) == (None, False, False)
    failures.append("it is gone")
    gate.set()
    tick_until(engine, lambda: both.settled)
    assert (waiting.failure, both.failure) == ("it is gone", "it is gone")
    engine.close()


def begin(engine: DriveSet, namespace: Namespace, keys: list[bytes]) -> None:
    """A put up to its commit."""
    values = [block(number, 100) for number in range(len(keys))]
    sums = [digest([memoryview(value)], 0) for value in values]
    reservation = engine.reserve(namespace, keys, [100] * len(keys), sums, 0, None)
    for extent, value in zip(reservation.extents, values, strict=True):
        if extent is not None:
            extent[:] = value
    engine.commit(reservation)
