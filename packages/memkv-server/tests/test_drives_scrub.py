# SPDX-License-Identifier: Apache-2.0
"""A scrub of drives that are in use: what it finds, what it leaves alone, and that it keeps to its rate."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.drives.medium import HeldPart, MediumReader
from memkv_server.drives.scrub import Scrub
from memkv_server.engine import DriveSet, Namespace, Status
from memkv_server.engine.drive import SEGMENTS_FILE

SEGMENT = 64 << 10
SIZE = 5000
FAST = 1 << 40


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DriveSet]:
    drives = [{"path": str(tmp_path / name), "capacity_bytes": 2 << 20} for name in ("a", "b")]
    engine = DriveSet.over("file", drives, 4 << 20, SEGMENT)
    yield engine
    engine.close()


@pytest.fixture
def namespace(engine: DriveSet) -> Namespace:
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    return namespace


@pytest.fixture
def values(engine: DriveSet, namespace: Namespace) -> dict[bytes, bytes]:
    """300 records on two drives."""
    values = {b"k%d" % number: block(number, SIZE) for number in range(300)}
    put(engine, namespace, values)
    return values


def scrub(engine: DriveSet, path: Path, rate: int = FAST) -> None:
    engine.start_job(str(path), lambda drive, notify: Scrub(drive, rate, notify))


def job(engine: DriveSet, path: Path) -> dict[str, Any]:
    return dict(next(drive["job"] for drive in engine.usage()["drives"] if drive["path"] == str(path)))


def finish(engine: DriveSet, path: Path, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while job(engine, path)["state"] == "running":
        assert time.monotonic() < deadline
        engine.tick()
        meanwhile()
    return job(engine, path)


def flip(path: Path, value: bytes) -> bool:
    """Flips a bit in the stored copy of ``value``, if it is on this drive."""
    file = path / SEGMENTS_FILE
    at = file.read_bytes().rfind(value)
    if at < 0:
        return False
    fd = os.open(file, os.O_RDWR)
    os.pwrite(fd, bytes([value[100] ^ 4]), at + 100)
    os.close(fd)
    return True


def sealed_keys(path: Path, values: dict[bytes, bytes]) -> list[bytes]:
    """The keys of records in the sealed segments of this drive, those that were written last left out."""
    content = (path / SEGMENTS_FILE).read_bytes()
    places = {key: content.find(value) for key, value in values.items()}
    newest = max(at // SEGMENT for at in places.values())
    return [key for key, at in places.items() if 0 <= at < newest * SEGMENT]


def test_a_drive_that_is_well(engine: DriveSet, values: dict[bytes, bytes], tmp_path: Path) -> None:
    sealed = sealed_keys(tmp_path / "a", values)
    scrub(engine, tmp_path / "a")
    result = finish(engine, tmp_path / "a")
    assert (result["name"], result["state"], result["failure"]) == ("scrub", "done", None)
    assert result["records"] == len(sealed) > 100
    assert result["bytes"] == result["bytes_total"] > len(sealed) * SIZE
    assert result["bytes_read"] > len(sealed) * SIZE
    assert (result["damaged_records"], result["unreadable_records"], result["damaged_footers"]) == (0, 0, 0)
    assert "job" not in engine.usage()["drives"][1]
    assert engine.usage()["corrupt_records"] == 0


def test_damaged_records_are_dropped_and_counted(
    engine: DriveSet, namespace: Namespace, values: dict[bytes, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = sealed_keys(tmp_path / "a", values)[5:60:11]
    assert all(flip(tmp_path / "a", values[key]) for key in bad)
    scrub(engine, tmp_path / "a")
    assert finish(engine, tmp_path / "a")["damaged_records"] == len(bad) == 5
    assert engine.usage()["corrupt_records"] == 5
    found = dict(zip(values, get(engine, namespace, list(values)), strict=True))
    assert {key for key, value in found.items() if value is None} == set(bad)
    assert f"{tmp_path / 'a' / SEGMENTS_FILE}: offset " in caplog.text
    assert "is dropped (payload)" in caplog.text
    assert put(engine, namespace, {bad[0]: values[bad[0]]}) == bytes([Status.HIT]), "it heals with its next put"


def test_a_damaged_footer_is_counted_and_its_records_stay(
    engine: DriveSet, namespace: Namespace, values: dict[bytes, bytes], tmp_path: Path
) -> None:
    fd = os.open(tmp_path / "a" / SEGMENTS_FILE, os.O_RDWR)
    at = 3 * SEGMENT - 40
    os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 4]), at)
    os.close(fd)
    scrub(engine, tmp_path / "a")
    result = finish(engine, tmp_path / "a")
    assert (result["damaged_footers"], result["damaged_records"]) == (1, 0)
    assert get(engine, namespace, list(values)) == list(values.values())


def test_replaced_deleted_and_evicted_records_are_no_damage(
    engine: DriveSet, namespace: Namespace, values: dict[bytes, bytes], tmp_path: Path
) -> None:
    """The store turns over several times while it is scrubbed."""
    number = 1000

    def meanwhile() -> None:
        nonlocal number
        put(engine, namespace, {b"k%d" % (number % 400): block(number, SIZE)})
        engine.delete(namespace, [b"k%d" % (number % 37)])
        number += 1

    for _ in range(6):
        scrub(engine, tmp_path / "a", rate=4 << 20)
        result = finish(engine, tmp_path / "a", meanwhile)
        assert result["state"] == "done"
        assert (result["damaged_records"], result["unreadable_records"], result["damaged_footers"]) == (0, 0, 0)
    assert number > 1500
    assert engine.usage()["evicted_segments"] > 20
    assert engine.usage()["corrupt_records"] == 0


def test_what_cannot_be_read_is_counted_against_the_drive(
    engine: DriveSet, namespace: Namespace, values: dict[bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = sealed_keys(tmp_path / "a", values)[10]
    at = (tmp_path / "a" / SEGMENTS_FILE).read_bytes().find(values[bad])
    real = os.preadv

    def failing(fd: int, buffers: Any, offset: int) -> int:
        if threading.current_thread().name.startswith("memkv-medium") and offset <= at + 2000 < offset + len(
            buffers[0]
        ):
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    scrub(engine, tmp_path / "a")
    result = finish(engine, tmp_path / "a")
    assert (result["unreadable_records"], result["damaged_records"]) == (1, 0), "its neighbours are read by themselves"
    drive = engine.usage()["drives"][0]
    assert (drive["read_errors"], drive["state"]) == (1, "online")
    assert engine.usage()["unreadable_records"] == 1
    assert get(engine, namespace, [bad]) == [None]


def test_it_keeps_to_its_rate_and_can_be_stopped(engine: DriveSet, values: dict[bytes, bytes], tmp_path: Path) -> None:
    scrub(engine, tmp_path / "a", rate=64 << 10)  # the drive holds about 800 KiB
    started_s = time.monotonic()
    while time.monotonic() < started_s + 0.5:
        engine.tick()
        time.sleep(0.005)
    running = job(engine, tmp_path / "a")
    assert running["state"] == "running"
    assert running["bytes_read"] <= 64 << 10
    with pytest.raises(StorageError, match=r"a: a scrub is running; stop it, or wait for its end"):
        scrub(engine, tmp_path / "a")
    scrub(engine, tmp_path / "b")
    assert finish(engine, tmp_path / "b")["state"] == "done", "one drive does not wait for the other"
    engine.stop_job(str(tmp_path / "a"))
    assert job(engine, tmp_path / "a")["state"] == "stopped"
    with pytest.raises(StorageError, match="nothing is running"):
        engine.stop_job(str(tmp_path / "a"))
    scrub(engine, tmp_path / "a")
    assert finish(engine, tmp_path / "a")["state"] == "done"


def test_a_drive_that_goes_ends_the_scrub(engine: DriveSet, values: dict[bytes, bytes], tmp_path: Path) -> None:
    scrub(engine, tmp_path / "a", rate=64 << 10)
    engine._bays[0].take_down("pulled out")
    assert (job(engine, tmp_path / "a")["state"], job(engine, tmp_path / "a")["failure"]) == ("failed", "pulled out")
    with pytest.raises(StorageError, match=r"a is offline \(pulled out\); put the drive back first"):
        scrub(engine, tmp_path / "a")
    with pytest.raises(StorageError, match="/elsewhere is no drive of this lane"):
        scrub(engine, Path("/elsewhere"))


def test_memory_is_not_scrubbed() -> None:
    engine = DriveSet.over("memory", [], 32 << 20, None)
    engine._bays[0].path = ""
    with pytest.raises(StorageError, match="mode memory has no drive to scrub"):
        engine.start_job("", lambda drive, notify: Scrub(drive, FAST, notify))
    engine.close()


def test_the_lane_is_woken_and_does_not_spin(engine: DriveSet, values: dict[bytes, bytes], tmp_path: Path) -> None:
    """While the thread reads, a tick has nothing to do; when it has read, the bell has been rung."""
    scrub(engine, tmp_path / "a", rate=1 << 20)
    assert engine.wake_fd is not None
    rounds = 0
    while job(engine, tmp_path / "a")["state"] == "running":
        if not engine.tick():
            rounds += 1
            assert os.eventfd_read(engine.wake_fd) > 0 if _readable(engine.wake_fd) else True
    assert rounds < 300, "it waited on the bell"


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 30)[0])


def test_extents_come_back_as_they_are_on_the_drive(engine: DriveSet, tmp_path: Path) -> None:
    content = os.urandom(2 << 20)
    parts = engine._bays[0].engine
    assert parts is not None
    data_bytes = parts.parts.drive.geometry.data_bytes
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / SEGMENTS_FILE).write_bytes(content[:data_bytes])
    reader = MediumReader(tmp_path / "other", parts.parts.drive.geometry, FAST, lambda: None)
    extents = [(64, 100), (4095, 2), (70_000, 1_300_000), (data_bytes - 100, 100)]
    for extent in extents:
        assert reader.read([extent]).result(30) == [content[extent[0] : sum(extent)]]
    assert reader.read(extents).result(30) == [content[start : start + length] for start, length in extents]
    assert reader.read([(data_bytes - 100, 101)]).result(30) == [None]
    held = HeldPart(reader, 1000, b"abc")
    assert held.read(1001, 2) == b"bc"
    assert held.read_around(0, 5000) == (bytes(5000), 2)
    reader.close()
