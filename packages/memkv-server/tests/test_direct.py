# SPDX-License-Identifier: Apache-2.0
"""Mode direct: a pool far smaller than the store, drives that fail, processes that die, whole devices."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import EngineTests, block, differing, get, put
from memkv_server.capacity import Share
from memkv_server.engine import Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine import direct as direct_module
from memkv_server.engine.direct import DirectDrive
from memkv_server.engine.drive import SEGMENTS_FILE

MIB = 1 << 20
CAPACITY = 32 * MIB
SEGMENT = MIB
POOL = 8 * MIB
SIZE = 50_000


@pytest.fixture(autouse=True)
def small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_module, "POOL_BYTES_MIN", MIB)


def opened(
    path: Path | str, capacity: int | Share = CAPACITY, pool: int = POOL, segment: int = SEGMENT
) -> tuple[SegmentEngine, Namespace]:
    engine = open_engine("direct", path, capacity, segment, memory_bytes=pool)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    return engine, namespace


def settle(engine: SegmentEngine) -> str | None:
    """Waits as an acknowledgement does; why it fails."""
    ticket = engine.ticket()
    deadline = time.monotonic() + 60
    while ticket is not None and not ticket.settled:
        engine.tick()
        assert time.monotonic() < deadline
    return ticket.failure if ticket is not None else None


def pool_used(engine: SegmentEngine) -> int:
    drive = engine.usage()["drives"][0]
    assert drive["memory_used_bytes"] <= drive["memory_max_bytes"]
    return int(drive["memory_used_bytes"])


def resident_bytes() -> int:
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def test_a_store_many_times_the_pool_gives_back_every_scattered_byte(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    values = {b"k%d" % number: block(number, SIZE) for number in range(450)}
    for key, value in values.items():
        assert put(engine, namespace, {key: value}) == bytes([Status.HIT])
        engine.tick()
    order = list(values)
    random.Random(1).shuffle(order)
    for _ in range(2):
        for start in range(0, 450, 64):  # 64 x 56 KiB in 64 different frames: nearly half of the pool
            keys = order[start : start + 64]
            assert differing(get(engine, namespace, keys), [values[key] for key in keys]) == []
            pool_used(engine)
        engine.close()
        engine, namespace = opened(tmp_path)
    usage = engine.usage()
    assert (usage["records"], usage["corrupt_records"], usage["crowded_out_records"]) == (450, 0, 0)
    engine.close()


def test_the_memory_of_the_process_stays_within_the_bound(tmp_path: Path) -> None:
    """Ten times the pool, written and read at random in small pieces: RSS grows by the pool and little else."""
    before = resident_bytes()
    engine, namespace = opened(tmp_path, 160 * MIB, 16 * MIB, 4 * MIB)
    most = 0
    keys = [b"k%d" % number for number in range(6000)]
    for start in range(0, 6000, 50):
        values = {key: block(start, 20_000) for key in keys[start : start + 50]}
        assert put(engine, namespace, values) == bytes([Status.HIT]) * 50
        most = max(most, resident_bytes() - before)
    draw = random.Random(2)
    for _ in range(200):
        found = get(engine, namespace, draw.sample(keys, 50))
        assert None not in found
        pool_used(engine)
        most = max(most, resident_bytes() - before)
    engine.close()
    assert most < 16 * MIB + 10 * MIB, "the pool, the index of 6,000 records, the test's own 1 MiB"


def test_ten_times_the_capacity_through_a_small_pool(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    written = number = 0
    while written < 10 * CAPACITY:
        values = {b"%d-%d" % (number, place): block(number + place, 20_000 * (place + 1)) for place in range(6)}
        assert put(engine, namespace, values) == bytes([Status.HIT]) * 6
        if number % 3 == 0:
            engine.tick()
            assert get(engine, namespace, [b"%d-0" % number])[0] is not None
        written += sum(map(len, values.values()))
        number += 1
        pool_used(engine)
    usage = engine.usage()
    assert usage["live_bytes"] > 0.8 * usage["capacity_bytes"]
    assert usage["evicted_segments"] > 250
    assert usage["corrupt_records"] == usage["unreadable_records"] == 0
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert sum(sizes) <= CAPACITY + 32
    engine.close()


def test_more_than_the_pool_holds_at_once_is_a_miss_for_the_rest(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    values = {b"k%d" % number: block(number, SIZE) for number in range(300)}
    for key, value in values.items():
        put(engine, namespace, {key: value})
    found = get(engine, namespace, list(values))
    hits = sum(value is not None for value in found)
    assert 60 < hits < 140
    assert engine.usage()["crowded_out_records"] == 300 - hits
    assert engine.usage()["records"] == 300
    assert differing(get(engine, namespace, list(values)[-60:]), list(values.values())[-60:]) == []
    engine.close()


def test_a_batch_larger_than_the_pool_is_stored_as_far_as_there_is_room(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    values = {b"k%d" % number: block(number, SIZE) for number in range(300)}
    statuses = put(engine, namespace, values)
    stored = statuses.count(Status.HIT)
    assert 50 < stored < 140
    assert set(statuses) == {Status.HIT, Status.NO_SPACE}
    for _ in range(3):
        assert put(engine, namespace, {b"next": block(1, SIZE)})[0] in (Status.HIT, Status.PRESENT)
    engine.close()


def test_what_readers_hold_stays_and_what_they_release_goes(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    values = {b"k%d" % number: block(number, SIZE) for number in range(400)}
    for key, value in values.items():
        put(engine, namespace, {key: value})
    held = engine.read(namespace, [b"k1", b"k3"], [SIZE] * 2)
    again = engine.read(namespace, [b"k3"], [SIZE])
    for start in range(0, 400, 50):
        get(engine, namespace, list(values)[start : start + 50])
    engine.release(again)
    for start in range(0, 400, 50):
        get(engine, namespace, list(values)[start : start + 50])
    assert [bytes(view or b"") for view in held.views] == [values[b"k1"], values[b"k3"]]
    engine.release(held)
    engine.release(held)
    drive = engine._drive
    assert isinstance(drive, DirectDrive)
    drive.missing([])
    assert drive._pool.held_bytes == 0
    engine.close()


def test_aborted_and_spoiled_puts_give_their_memory_back(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    good, bad = block(1, SIZE), block(2, SIZE)
    for number in range(300):
        key = b"k%d" % number
        if number % 2:
            assert put(engine, namespace, {key: good}, received={key: bad}) == bytes([Status.BAD_DIGEST])
        else:
            kept = engine.reserve(namespace, [b"other"], [SIZE], [bytes(16)], 0, None)
            engine.abort(engine.reserve(namespace, [key], [SIZE], [bytes(16)], 0, None))
            engine.abort(kept)
    assert put(engine, namespace, {b"k": good}) == bytes([Status.HIT])
    engine.sync()
    assert engine.usage()["drives"][0]["memory_unwritten_bytes"] < 2 * MIB
    engine.close()


def test_a_store_whose_records_no_longer_fit_into_the_pool_blames_no_drive(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path, pool=64 * MIB, segment=4 * MIB)
    values = {b"long": block(1, 3 * MIB), b"short": block(2, SIZE)}
    put(engine, namespace, values)
    engine.close()
    with pytest.raises(StorageError, match=r"the RAM pool of 2097152 bytes is in use; raise memory.max_size"):
        opened(tmp_path, pool=2 * MIB, segment=4 * MIB)  # to scan what is not sealed
    engine, namespace = opened(tmp_path, pool=64 * MIB, segment=4 * MIB)
    for number in range(300):
        put(engine, namespace, {b"k%d" % number: block(number, SIZE)})
        assert settle(engine) is None
    engine.close()
    engine, namespace = opened(tmp_path, pool=2 * MIB, segment=4 * MIB)
    assert get(engine, namespace, [b"long", b"short"]) == [None, values[b"short"]]
    with pytest.raises(StorageError, match=r"the RAM pool of 2097152 bytes is in use; raise memory.max_size"):
        engine.delete(namespace, [b"long"])
    usage = engine.usage()
    assert (usage["unreadable_records"], usage["corrupt_records"], usage["crowded_out_records"]) == (0, 0, 1)
    assert usage["drives"][0]["state"] == "online"
    engine.close()


def test_a_value_too_long_for_the_pool(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path, segment=4 * MIB)
    values = {b"k": block(1, 2 * MIB), b"l": block(2, MIB - 8192)}
    assert put(engine, namespace, values) == bytes([Status.TOO_LONG, Status.HIT])
    engine.close()


def test_what_was_acknowledged_is_in_the_file_when_the_process_dies(tmp_path: Path) -> None:
    store = tmp_path / "store"
    engine, namespace = opened(store)
    values = {b"k%d" % number: block(number, number * 700) for number in range(100)}
    for key, value in values.items():
        put(engine, namespace, {key: value})
    engine.delete(namespace, [b"k7"])
    assert settle(engine) is None
    shutil.copytree(store, tmp_path / "crashed")  # the pages of this process are not in it
    again, same = opened(tmp_path / "crashed")
    expected: list[bytes | None] = list(values.values())
    expected[7] = None
    for start in range(0, 100, 20):
        assert get(again, same, list(values)[start : start + 20]) == expected[start : start + 20]
    again.close()
    engine.close()


def test_a_start_reads_footers_and_not_payloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, namespace = opened(tmp_path, 200 * MIB, 64 * MIB, 4 * MIB)
    for start in range(0, 10_000, 500):
        put(engine, namespace, {b"k%d" % number: block(number, 9000) for number in range(start, start + 500)})
    engine.close()
    read = 0
    real = os.preadv

    def counting(fd: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal read
        read += len(buffers[0])
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", counting)
    engine, namespace = opened(tmp_path, 200 * MIB, 64 * MIB, 4 * MIB)
    usage = engine.usage()
    assert usage["records"] == 10_000
    assert usage["used_bytes"] > 150 * MIB
    # A header of each segment, footers of 48 bytes a record, and the open segment, which is scanned.
    assert read < 50 * 4096 + 2 * 10_000 * 48 + 50 * 8192 + 4 * MIB
    assert get(engine, namespace, [b"k9999", b"k0"]) == [block(9999, 9000), block(0, 9000)]
    engine.close()


def test_a_drive_that_refuses_a_write_says_so_before_the_put_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, namespace = opened(tmp_path)
    put(engine, namespace, {b"before": block(1, SIZE)})
    engine.sync()

    def full(fd: int, buffers: object, offset: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pwritev", full)
    put(engine, namespace, {b"k": block(2, SIZE)})
    failure = settle(engine)
    monkeypatch.undo()
    assert re.search(r"memkv.segments: offset \d+: Input/output error; check the drive", failure or "")
    drive = engine.usage()["drives"][0]
    assert drive["state"] == "read-only"
    assert "Input/output error" in drive["failure"]
    assert engine.reserve(namespace, [b"l"], [1], [bytes(16)], 0, None).statuses == bytes([Status.READ_ONLY])
    assert get(engine, namespace, [b"before"]) == [block(1, SIZE)]
    engine.close()


def test_reads_that_fail_are_misses_and_take_the_drive_offline(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    values = {b"k%d" % number: block(number, SIZE) for number in range(400)}
    for key, value in values.items():
        put(engine, namespace, {key: value})
    engine.sync()
    os.truncate(tmp_path / SEGMENTS_FILE, 0)
    found = get(engine, namespace, list(values)[:60])
    assert found == [None] * 60
    usage = engine.usage()
    assert usage["unreadable_records"] == 60
    assert usage["drives"][0]["state"] == "offline"
    engine.close()


def test_a_short_read_is_read_on_and_one_bad_record_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, namespace = opened(tmp_path)
    values = {b"k%d" % number: block(number, SIZE) for number in range(400)}
    for key, value in values.items():
        put(engine, namespace, {key: value})
    engine.sync()
    drive = engine._drive
    assert isinstance(drive, DirectDrive)
    drive.missing([])
    for _ in range(3 * len(drive._pool._frames)):
        drive._pool._sweep()
    bad_at = (tmp_path / SEGMENTS_FILE).read_bytes().index(values[b"k3"])
    real = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        size = min(len(buffers[0]), 8192)
        if offset <= bad_at < offset + len(buffers[0]):
            raise OSError(5, "Input/output error")
        return real(fd, [buffers[0][:size]], offset)

    monkeypatch.setattr(os, "preadv", failing)
    keys = list(values)[:30]
    expected = [None if key == b"k3" else values[key] for key in keys]
    assert differing(get(engine, namespace, keys), expected) == []
    assert engine.usage()["unreadable_records"] == 1
    assert engine.usage()["drives"][0]["state"] == "online"
    engine.close()


def test_a_store_of_mode_direct_opens_in_mode_file_but_not_the_other_way(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path / "direct")
    put(engine, namespace, {b"k": block(1, SIZE)})
    engine.close()
    engine = open_engine("file", tmp_path / "direct", CAPACITY)
    assert get(engine, namespace, [b"k"]) == [block(1, SIZE)]
    engine.close()
    open_engine("file", tmp_path / "file", CAPACITY).close()
    with pytest.raises(StorageError, match="aligned to 64 bytes, and this mode needs 4096; use mode file, or an empty"):
        open_engine("direct", tmp_path / "file", CAPACITY)


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a RAM pool of 1000 bytes is too small; raise memory.max_size to"):
        open_engine("direct", tmp_path, CAPACITY, memory_bytes=1000)
    with pytest.raises(StorageError, match="mode direct needs a folder or a block device"):
        open_engine("direct", None, CAPACITY)
    with pytest.raises(StorageError, match="no drive to take a share of; give the capacity in bytes"):
        open_engine("memory", None, Share(50.0))


def test_a_node_that_is_killed_while_it_writes_loses_nothing_acknowledged(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from memkv_core.testing.engine_tests import block, put\n"
        "from memkv_server.engine import open_engine\n"
        f"engine = open_engine('direct', sys.argv[1], {CAPACITY}, {SEGMENT})\n"
        "namespace = engine.open_namespace('n', b'{}')\n"
        "for number in range(100000):\n"
        f"    assert put(engine, namespace, {{b'k%d' % number: block(number, {SIZE})}}) == b'\\x01'\n"
        "    ticket = engine.ticket()\n"
        "    while not ticket.settled:\n"
        "        engine.tick()\n"
        "    assert ticket.failure is None\n"
        "    print(number, flush=True)\n"
    )
    acknowledged = -1
    for life in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child:
            for line in child.stdout:
                acknowledged = int(line)
                if acknowledged >= 100 * (life + 1):
                    child.kill()
        engine, namespace = opened(tmp_path)
        for start in range(0, acknowledged + 1, 20):
            numbers = range(start, min(start + 20, acknowledged + 1))
            found = get(engine, namespace, [b"k%d" % number for number in numbers])
            assert differing(found, [block(number, SIZE) for number in numbers]) == []
        assert engine.usage()["corrupt_records"] == 0
        engine.close()


# -- devices -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(72 * MIB)
    try:
        done = subprocess.run(
            ["losetup", "--find", "--show", "--direct-io=on", str(image)],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no loop device can be made here: {error}")
    yield done.stdout.strip()
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=False, timeout=30)


class TestWholeDevice(EngineTests):
    @pytest.fixture(autouse=True)
    def _device(self, device: str) -> None:
        self.device = device

    def make_engine(self, path: Path) -> SegmentEngine:
        with open(self.device, "r+b") as file:
            file.write(bytes(MIB))  # some tests make several, one after the other
            file.seek(-MIB, os.SEEK_END)
            file.write(bytes(MIB))
        return open_engine("direct", self.device, Share(100.0), memory_bytes=128 * MIB)

    def reopen(self, engine: SegmentEngine) -> SegmentEngine:
        engine.close()
        return open_engine("direct", self.device, Share(100.0), memory_bytes=128 * MIB)

    def damage(self, engine: SegmentEngine, namespace: Namespace, key: bytes) -> None:
        pytest.skip("what is in the pool is not read again; TestDirectMode empties it")


def test_a_whole_device_is_filled_several_times_and_never_left(device: str) -> None:
    engine, namespace = opened(device, Share(100.0))
    assert engine.usage()["drives"][0]["capacity_bytes"] <= 72 * MIB
    number = 0
    while number * 200_000 < 250 * MIB:
        assert put(engine, namespace, {b"k%d" % number: block(number, 200_000)}) == bytes([Status.HIT])
        number += 1
    assert engine.usage()["live_bytes"] > 60 * MIB
    assert get(engine, namespace, [b"k%d" % (number - 1)]) == [block(number - 1, 200_000)]
    with pytest.raises(StorageError, match="is in use: "):
        opened(device, Share(100.0))
    engine.close()


def test_a_device_that_loses_its_end_under_the_node_is_io_errors(device: str, tmp_path: Path) -> None:
    """The kernel's own EIO: a loop device past the end of its file."""
    engine, namespace = opened(device, Share(100.0))
    values = {b"k%d" % number: block(number, SIZE) for number in range(300)}
    for key, value in values.items():
        assert put(engine, namespace, {key: value}) == bytes([Status.HIT])
    engine.sync()
    os.truncate(tmp_path / "image", 8 * MIB)
    lost = 0
    for start in range(0, 300, 20):
        keys = list(values)[start : start + 20]
        for key, found in zip(keys, get(engine, namespace, keys), strict=True):
            assert found in (None, values[key])
            lost += found is None
    assert 60 < lost < 250
    assert engine.usage()["drives"][0]["state"] == "offline"
    assert engine.usage()["unreadable_records"] == lost
    engine.close()


def test_closing_twice(tmp_path: Path) -> None:
    drive = DirectDrive.open(tmp_path, CAPACITY, SEGMENT, memory_bytes=POOL)
    view = drive.window(0).view[:10]
    drive.close()
    drive.close()
    assert bytes(view) == bytes(10)
