# SPDX-License-Identifier: Apache-2.0
"""The operator's tools on stores of mode direct: in a folder, and on a whole device (a loop device)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.drives.check import StoreCheck, check_store
from memkv_server.drives.findings import Damage
from memkv_server.drives.image import open_image
from memkv_server.drives.repair import repair_store
from memkv_server.drives.scrub import Scrub
from memkv_server.drives.survey import survey_drive
from memkv_server.engine import DriveSet, SegmentEngine, open_engine
from memkv_server.engine.drive import SEGMENTS_FILE

MIB = 1 << 20
CAPACITY = 72 * MIB
SIZE = 50_000
COUNT = 400


@pytest.fixture(params=["folder", "device"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "folder":
        yield tmp_path / "store"
        return
    with (tmp_path / "image").open("wb") as file:
        file.truncate(CAPACITY)
    command = ["losetup", "--find", "--show", "--direct-io=on", str(tmp_path / "image")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no loop device can be made here: {error}")
    yield Path(done.stdout.strip())
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=False, timeout=30)


@pytest.fixture
def values(place: Path) -> dict[bytes, bytes]:
    engine = opened(place)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    values = {b"k%d" % number: block(number, SIZE) for number in range(COUNT)}
    for key, value in values.items():
        put(engine, namespace, {key: value})
    engine.close()
    return values


def opened(place: Path) -> SegmentEngine:
    return open_engine("direct", place, CAPACITY, MIB)


def check(place: Path) -> StoreCheck:
    with open_image(place) as image:
        return check_store(image, data=True)


def file_of(place: Path) -> Path:
    return place / SEGMENTS_FILE if place.is_dir() else place


def flip(place: Path, content: bytes, into: int) -> int:
    """Flips a bit of what begins with ``content`` on the medium; returns where."""
    at = file_of(place).read_bytes().find(content)
    assert at >= 0
    fd = os.open(file_of(place), os.O_RDWR)
    byte = os.pread(fd, 1, at + into)
    os.pwrite(fd, bytes([byte[0] ^ 8]), at + into)
    os.fsync(fd)
    os.close(fd)
    return at + into


def test_check_and_repair(place: Path, values: dict[bytes, bytes]) -> None:
    result = check(place)
    assert (result.is_clean, result.live_records) == (True, COUNT)
    at = flip(place, values[b"k60"], 30_000)
    flip(place, b"MEMKVSEG", 17)  # the first segment's sequence
    if not place.is_dir():
        flip_superblock(place)
    found = check(place)
    expected = {Damage.PAYLOAD: 1, Damage.SEGMENT_HEADER: 1, **({} if place.is_dir() else {Damage.SUPERBLOCK: 1})}
    assert found.findings.counts == expected
    finding = next(finding for finding in found.findings.kept if finding.damage is Damage.PAYLOAD)
    assert finding.file == str(file_of(place))
    assert at - 40_000 < finding.offset < at
    with open_image(place, writable=True) as image:
        list(repair_store(image, check_store(image, data=True)))
    assert check(place).is_clean
    engine = opened(place)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    served = dict(zip(values, get(engine, namespace, list(values)), strict=True))
    assert served == {key: None if key == b"k60" else value for key, value in values.items()}
    engine.close()


def flip_superblock(place: Path) -> None:
    fd = os.open(place, os.O_RDWR)
    os.pwrite(fd, b"\x07", 20)
    os.fsync(fd)
    os.close(fd)


def test_survey_and_lock(place: Path, values: dict[bytes, bytes]) -> None:
    row = survey_drive(place)
    assert (row["mode"], row["state"], row["format_version"]) == ("direct", "idle", 2)
    assert row["capacity_bytes"] <= CAPACITY
    engine = opened(place)
    with pytest.raises(StorageError, match=r"is open in a running node|is mounted, or a running node has it open"):
        check(place)
    assert survey_drive(place)["uuid"] == row["uuid"]
    engine.close()


def test_scrub(place: Path, values: dict[bytes, bytes]) -> None:
    flip(place, values[b"k60"], 1000)
    engine = DriveSet.over("direct", [{"path": str(place), "capacity_bytes": CAPACITY}], CAPACITY, MIB)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    number = 1000
    job = engine.start_job(str(place), lambda drive, notify: Scrub(drive, 64 * MIB, notify))
    deadline = time.monotonic() + 60
    while job.state == "running":
        assert time.monotonic() < deadline
        put(engine, namespace, {b"k%d" % number: block(number, SIZE)})
        number += 1
        engine.tick()
    status = job.status()
    assert (status["state"], status["damaged_records"], status["unreadable_records"]) == ("done", 1, 0), status
    assert status["damaged_footers"] == 0
    assert get(engine, namespace, [b"k60", b"k%d" % (number - 1)]) == [None, block(number - 1, SIZE)]
    engine.close()
