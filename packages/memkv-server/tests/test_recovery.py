# SPDX-License-Identifier: Apache-2.0
"""Starts after every kind of end: what was acknowledged is there and byte-equal, and nothing else is."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from itertools import accumulate
from pathlib import Path
from typing import IO

import pytest

from memkv_core.digests import digest
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine.drive import SEGMENTS_FILE
from memkv_server.engine.reservation import PutReservation
from memkv_server.engine.segment import (
    ENTRY_BYTES,
    RECORD_MAGIC,
    SEGMENT_DATA_AT,
    SEGMENT_HEADER,
    SEGMENT_STATE_AT,
    TRAILER_BYTES,
    SegmentState,
    encode_segment_header,
)

CAPACITY = 2 << 20
SEGMENT = 64 << 10


def opened(path: Path, capacity: int = CAPACITY) -> tuple[SegmentEngine, Namespace]:
    engine = open_engine("file", path, capacity, SEGMENT if capacity < (64 << 20) else None)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    return engine, namespace


def crashed(path: Path) -> Path:
    """What is on the drive now, as a process that dies now leaves it."""
    target = path.with_name(path.name + "+")
    shutil.copytree(path, target)
    return target


class SegmentFile:
    """The segments of a store that nobody has open, to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / SEGMENTS_FILE
        self.data = bytearray(self.path.read_bytes())

    def slots(self, state: SegmentState) -> list[int]:
        """Slots with this state, in the order in which they were opened."""
        count = len(self.data) // SEGMENT
        found = [slot for slot in range(count) if self.data[slot * SEGMENT + SEGMENT_STATE_AT] == state]
        return sorted(found, key=lambda slot: SEGMENT_HEADER.unpack_from(self.data, slot * SEGMENT)[2])

    def records(self, slot: int) -> list[int]:
        """Where records of a segment begin, in the file."""
        start, end = slot * SEGMENT + SEGMENT_DATA_AT, (slot + 1) * SEGMENT
        magic = RECORD_MAGIC.to_bytes(4, "little")
        return [at for at in range(start, end, 64) if self.data[at : at + 4] == magic]

    def save(self) -> None:
        self.path.write_bytes(self.data)


# -- the open segment -------------------------------------------------------------------------------------------------
def test_a_restart_goes_on_in_the_same_segment(tmp_path: Path) -> None:
    path = tmp_path / "store"
    values: dict[bytes, bytes] = {}
    for number in range(40):
        engine, namespace = opened(path)
        assert get(engine, namespace, list(values)) == list(values.values())
        values[b"k%d" % number] = block(number, 1000)
        put(engine, namespace, {b"k%d" % number: block(number, 1000)})
        engine.close()
    engine, namespace = opened(path)
    usage = engine.usage()
    assert usage["segments"]["sealed"] == 0, "a store that is restarted often does not wear itself out"
    assert usage["records"] == 40
    assert usage["namespaces"][0]["bytes"] == usage["live_bytes"] == 40 * 1152
    engine.close()


def test_what_is_under_way_at_the_end_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine, namespace = opened(path)
    put(engine, namespace, {b"a": block(1, 3000)})
    new = block(2, 3000)
    under_way = engine.reserve(namespace, [b"a", b"b"], [3000] * 2, [digest([memoryview(new)], 0)] * 2, 0, None)
    for extent in under_way.extents:
        assert extent is not None
        extent[:] = new
    put(engine, namespace, {b"c": block(3, 3000)})
    again, same = opened(crashed(path))
    assert get(again, same, [b"a", b"b", b"c"]) == [block(1, 3000), None, block(3, 3000)]
    put(again, same, {b"d": block(4, 3000)})
    again.close()
    engine.abort(under_way)
    engine.close()


def reserved(engine: SegmentEngine, namespace: Namespace, key: bytes, value: bytes) -> PutReservation:
    """A put whose bytes have come, and which is not committed."""
    put = engine.reserve(namespace, [key], [len(value)], [digest([memoryview(value)], 0)], 0, None)
    (extent,) = put.extents
    assert extent is not None
    extent[:] = value
    return put


def test_a_put_that_was_overtaken_still_outlives_what_it_replaced(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine, namespace = opened(path)
    slow = reserved(engine, namespace, b"k", block(1, 3000))
    put(engine, namespace, {b"fill": block(2, 55_000)})
    put(engine, namespace, {b"k": block(3, 3000)})  # in the next segment, and committed first
    assert engine.commit(slow) == bytes([Status.HIT])
    number = 0
    while engine.usage()["evicted_segments"] == 0:
        put(engine, namespace, {b"more%d" % number: block(number, 55_000)})
        number += 1
    again, same = opened(crashed(path))
    assert get(again, same, [b"k"]) == [block(1, 3000)], "the segment that it was reserved in is gone"
    again.close()
    engine.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_torn_tail_costs_only_the_tail(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "store"
    engine, namespace = opened(path)
    values = {b"k%d" % number: block(number, rng.randrange(4000)) for number in range(15)}
    for key, value in values.items():
        put(engine, namespace, {key: value})
    engine.close()
    file = SegmentFile(path)
    (slot,) = file.slots(SegmentState.OPEN)
    records = file.records(slot)
    assert len(records) == 15
    cut = rng.randrange(records[0], records[-1] + 1)
    file.data[cut : (slot + 1) * SEGMENT] = bytes((slot + 1) * SEGMENT - cut)
    file.save()
    whole = sum(at + 128 + len(value) <= cut for at, value in zip(records, values.values(), strict=True))
    engine, namespace = opened(path)
    found = get(engine, namespace, list(values))
    expected = list(values.values())
    assert found[:whole] == expected[:whole]
    assert set(found[whole + 1 :]) <= {None}
    assert found[whole : whole + 1] in ([None], expected[whole : whole + 1], []), "zeros may be its true end"
    put(engine, namespace, values)
    engine.close()
    engine, namespace = opened(path)
    assert get(engine, namespace, list(values)) == expected
    engine.close()


def test_a_lost_header_costs_one_record_and_the_segment_is_not_written_to_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine, namespace = opened(path)
    values = {b"k%d" % number: block(number, 2000) for number in range(10)}
    put(engine, namespace, values)
    engine.close()
    file = SegmentFile(path)
    (slot,) = file.slots(SegmentState.OPEN)
    at = file.records(slot)[4]
    file.data[at : at + 64] = bytes(64)
    file.save()
    engine, namespace = opened(path)
    expected: list[bytes | None] = list(values.values())
    expected[4] = None
    assert get(engine, namespace, list(values)) == expected
    assert engine.usage()["segments"]["sealed"] == 1
    put(engine, namespace, values)
    again, same = opened(crashed(path))
    assert get(again, same, list(values)) == list(values.values())
    again.close()
    engine.close()


def test_a_damaged_payload_in_the_open_segment_is_a_miss_and_hides_what_it_replaced(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine, namespace = opened(path)
    put(engine, namespace, {b"k": block(1, 2000), b"other": block(2, 2000)})
    put(engine, namespace, {b"k": block(3, 2000)})
    engine.close()
    file = SegmentFile(path)
    (slot,) = file.slots(SegmentState.OPEN)
    file.data[file.records(slot)[2] + 1000] ^= 1
    file.save()
    engine, namespace = opened(path)
    assert get(engine, namespace, [b"k", b"other"]) == [None, block(2, 2000)]
    assert engine.usage()["corrupt_records"] == 1
    assert put(engine, namespace, {b"k": block(3, 2000)}) == bytes([Status.HIT])
    engine.close()
    engine, namespace = opened(path)
    assert get(engine, namespace, [b"k"]) == [block(3, 2000)]
    engine.close()


# -- sealed segments --------------------------------------------------------------------------------------------------
def filled(path: Path, count: int = 200, size: int = 5000) -> dict[bytes, bytes]:
    """A closed store of many sealed segments, nothing evicted."""
    engine, namespace = opened(path)
    values = {b"k%d" % number: block(number, size) for number in range(count)}
    for key, value in values.items():
        assert put(engine, namespace, {key: value}) == bytes([Status.HIT])
    assert engine.usage()["evicted_segments"] == 0
    assert engine.usage()["segments"]["sealed"] >= 10
    engine.close()
    return values


def test_sealed_segments_are_indexed_from_their_footers(tmp_path: Path) -> None:
    values = filled(tmp_path)
    engine, namespace = opened(tmp_path)
    assert get(engine, namespace, list(values)) == list(values.values())
    usage = engine.usage()
    assert (usage["records"], usage["corrupt_records"], usage["segments"]["quarantined"]) == (200, 0, 0)
    assert usage["live_bytes"] == 200 * (128 + 5056)
    engine.close()


def test_a_damaged_footer_costs_a_scan_and_no_record(tmp_path: Path) -> None:
    values = filled(tmp_path)
    file = SegmentFile(tmp_path)
    for slot in file.slots(SegmentState.SEALED)[:5]:
        file.data[(slot + 1) * SEGMENT - TRAILER_BYTES - ENTRY_BYTES] ^= 1
    for slot in file.slots(SegmentState.SEALED)[5:7]:
        file.data[(slot + 1) * SEGMENT - TRAILER_BYTES + 9] ^= 1
    file.save()
    for _ in range(2):  # the second time from the footers that the first one wrote
        engine, namespace = opened(tmp_path)
        assert get(engine, namespace, list(values)) == list(values.values())
        assert engine.usage()["segments"]["quarantined"] == 0
        engine.close()


def test_a_corrupt_segment_is_set_aside_and_the_rest_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = filled(tmp_path)
    file = SegmentFile(tmp_path)
    sealed = file.slots(SegmentState.SEALED)
    rng = random.Random(1)
    file.data[sealed[3] * SEGMENT : (sealed[3] + 1) * SEGMENT] = b"\xff" + rng.randbytes(SEGMENT - 1)
    file.data[sealed[5] * SEGMENT + 64 : (sealed[5] + 1) * SEGMENT] = rng.randbytes(SEGMENT - 64)
    file.save()
    engine, namespace = opened(tmp_path)
    found = get(engine, namespace, list(values))
    lost = [key for key, value in zip(values, found, strict=True) if value is None]
    assert len(lost) == 2 * 11
    assert all(value in (None, values[key]) for key, value in zip(values, found, strict=True))
    assert engine.usage()["segments"]["quarantined"] == 2
    for slot in (sealed[3], sealed[5]):
        where = f"{tmp_path / SEGMENTS_FILE}: offset {slot * SEGMENT}: segment {slot} is set aside"
        assert where in caplog.text
        assert f"memkv drive check --repair {tmp_path}" in caplog.text
    for number in range(1000):
        put(engine, namespace, {b"new%d" % number: block(number, 5000)})
    assert engine.usage()["segments"]["quarantined"] == 2
    engine.close()
    damaged = SegmentFile(tmp_path)
    for slot in (sealed[3], sealed[5]):
        part = slice(slot * SEGMENT, (slot + 1) * SEGMENT)
        assert damaged.data[part] == file.data[part], "it is kept as it was found"


def test_a_flipped_byte_in_a_sealed_segment_is_found_by_verify(tmp_path: Path) -> None:
    values = filled(tmp_path)
    file = SegmentFile(tmp_path)
    slot = file.slots(SegmentState.SEALED)[2]
    file.data[file.records(slot)[0] + 2000] ^= 1  # a payload
    file.data[file.records(slot)[1] + 60] ^= 1  # a header
    file.save()
    engine, namespace = opened(tmp_path)
    verified = engine.verify(namespace, list(values))
    bad = [key for key, status in zip(values, verified, strict=True) if status != Status.HIT]
    assert len(bad) == 2
    assert verified.count(Status.BAD_DIGEST) == 2
    assert engine.usage()["corrupt_records"] == 2
    assert engine.exists(namespace, bad) == bytes([Status.MISS] * 2)
    assert put(engine, namespace, values).count(Status.HIT) == 2, "they heal when they are put again"
    assert get(engine, namespace, list(values)) == list(values.values())
    engine.close()


def test_a_read_never_believes_a_damaged_header(tmp_path: Path) -> None:
    values = filled(tmp_path)
    file = SegmentFile(tmp_path)
    rng = random.Random(3)
    damaged = [at for slot in file.slots(SegmentState.SEALED) for at in file.records(slot)[::2]]
    for at in damaged:
        file.data[at + rng.choice([0, 4, *range(24, 65), *range(72, 75)])] ^= 1 << rng.randrange(8)
    file.save()
    engine, namespace = opened(tmp_path)
    found = get(engine, namespace, list(values))
    assert found.count(None) == len(damaged)
    assert all(value in (None, values[key]) for key, value in zip(values, found, strict=True))
    assert get(engine, namespace, [next(iter(values))] * 3) == [found[0]] * 3, "twice in a batch"
    engine.close()


def test_a_footer_damaged_while_running_does_not_stop_eviction(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    for number in range(300):
        put(engine, namespace, {b"k%d" % number: block(number, 5000)})
    file = tmp_path / SEGMENTS_FILE
    fd = os.open(file, os.O_RDWR)
    oldest = SegmentFile(tmp_path).slots(SegmentState.SEALED)[0]
    os.pwrite(fd, b"\xff" * 8, (oldest + 1) * SEGMENT - TRAILER_BYTES + 16)
    os.close(fd)
    for number in range(300, 600):
        assert put(engine, namespace, {b"k%d" % number: block(number, 5000)}) == bytes([Status.HIT])
    assert get(engine, namespace, [b"k0", b"k1", b"k599"]) == [None, None, block(599, 5000)]
    usage = engine.usage()
    assert (
        usage["records"]
        == usage["namespaces"][0]["records"]
        == sum(engine.exists(namespace, [b"k%d" % n for n in range(600)]))
    )
    engine.close()


# -- what is newest ---------------------------------------------------------------------------------------------------
def test_of_many_versions_the_newest_comes_back_and_deletes_stay(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "store"
    engine, namespace = opened(path)
    model: dict[bytes, bytes] = {}
    for number in range(2500):
        key = b"k%d" % int(400 * rng.random() ** 2)
        if rng.random() < 0.2:
            engine.delete(namespace, [key])
            model.pop(key, None)
        else:
            value = block(number, rng.randrange(12_000))
            assert put(engine, namespace, {key: value}) == bytes([Status.HIT])
            model[key] = value
        for read in rng.choices(list(model), k=2) if model else ():
            assert get(engine, namespace, [read])[0] in (None, model[read])
        if number % 250 == 0:
            while engine.tick():
                pass  # what a half emptied segment held would be back
            again, same = opened(crashed(path))
            for candidate in (b"k%d" % name for name in range(400)):
                assert get(again, same, [candidate])[0] in (None, model.get(candidate))
                assert get(again, same, [candidate]) == get(engine, namespace, [candidate])
            again.close()
            shutil.rmtree(path.with_name("store+"))
    usage = engine.usage()
    assert usage["evicted_segments"] > 20
    assert usage["reinserted_records"] > 20
    engine.close()


def test_a_segment_given_up_before_a_power_loss_that_undid_it_stays_given_up(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path)
    put(engine, namespace, {b"deleted": block(0, 100)})
    early = bytes(SegmentFile(tmp_path).data[:SEGMENT])
    for number in range(30):
        put(engine, namespace, {b"a%d" % number: block(number, 5000)})
    engine.delete(namespace, [b"deleted"])
    for number in range(600):
        put(engine, namespace, {b"b%d" % number: block(number, 5000)})
    engine.close()
    file = SegmentFile(tmp_path)
    slot = file.slots(SegmentState.SEALED)[0]
    spare = file.slots(SegmentState.FREE)[0]
    assert SEGMENT_HEADER.unpack_from(file.data, slot * SEGMENT)[2] > 5
    file.data[spare * SEGMENT : (spare + 1) * SEGMENT] = early
    file.save()
    engine, namespace = opened(tmp_path)
    assert get(engine, namespace, [b"deleted"]) == [None]
    assert engine.usage()["segments"]["quarantined"] == 0
    engine.close()
    assert SegmentFile(tmp_path).data[spare * SEGMENT + SEGMENT_STATE_AT] == SegmentState.FREE


def test_two_segments_with_one_number_are_not_mixed(tmp_path: Path) -> None:
    values = filled(tmp_path, count=150)
    file = SegmentFile(tmp_path)
    slot = file.slots(SegmentState.SEALED)[4]
    spare = file.slots(SegmentState.NEVER_USED)[0]
    file.data[spare * SEGMENT : (spare + 1) * SEGMENT] = file.data[slot * SEGMENT : (slot + 1) * SEGMENT]
    file.save()
    engine, namespace = opened(tmp_path)
    assert get(engine, namespace, list(values)) == list(values.values())
    assert engine.usage()["segments"]["quarantined"] == 1
    engine.close()


def test_a_segment_of_another_store_is_set_aside(tmp_path: Path) -> None:
    values = filled(tmp_path, count=150)
    file = SegmentFile(tmp_path)
    spare = file.slots(SegmentState.NEVER_USED)[0]
    header = bytearray(encode_segment_header(2, 1, 1, bytes(16)))
    header[SEGMENT_STATE_AT] = SegmentState.SEALED
    file.data[spare * SEGMENT : spare * SEGMENT + len(header)] = header
    file.save()
    engine, namespace = opened(tmp_path)
    assert get(engine, namespace, list(values)) == list(values.values())
    assert engine.usage()["segments"]["quarantined"] == 1
    engine.close()


def test_a_store_that_shrinks_keeps_what_still_fits_and_one_that_grows_all(tmp_path: Path) -> None:
    values = filled(tmp_path)
    for capacity, all_there in ((2 * CAPACITY, True), (CAPACITY // 2, False), (CAPACITY, False)):
        engine, namespace = opened(tmp_path, capacity)
        found = get(engine, namespace, list(values))
        assert all(value in (None, values[key]) for key, value in zip(values, found, strict=True))
        assert (None not in found) == all_there
        assert 0 < found.count(None) < 200 or all_there
        assert engine.usage()["segments"]["quarantined"] == 0
        engine.close()


# -- processes that die -----------------------------------------------------------------------------------------------
CHILD = """
import sys
from pathlib import Path
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import open_engine
path, first, capacity = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
engine = open_engine("file", path, capacity, 1 << 20)
namespace = engine.open_namespace("n", b"{}")
number = first
while True:
    values = {b"k%d" % (number + at): block(number + at, 40 * (number + at) % 30_000) for at in range(8)}
    statuses = put(engine, namespace, values)
    engine.tick()
    if number % 40 == 0:
        get(engine, namespace, [b"k%d" % other for other in range(max(0, number - 200), number)])
    sys.stdout.write("".join(f"{number + at} {status}\\n" for at, status in enumerate(statuses)))
    sys.stdout.flush()
    number += 8
"""


def acknowledged_until_killed(path: Path, first: int, capacity: int, kill_after_s: float) -> list[int]:
    """Runs a process that puts without end, kills it, and returns the numbers whose put it had acknowledged."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(first), str(capacity)], stdout=subprocess.PIPE, text=True
    )
    lines: list[str] = []

    def collect(stream: IO[str]) -> None:
        lines.extend(stream)

    with child:
        assert child.stdout is not None
        first_line = child.stdout.readline()
        reader = threading.Thread(target=collect, args=(child.stdout,))
        reader.start()
        reader.join(kill_after_s)
        child.send_signal(signal.SIGKILL)
        reader.join(30)
    assert child.returncode == -signal.SIGKILL
    whole = [line.split() for line in [first_line, *lines] if line.endswith("\n")]
    assert {status for _, status in whole} == {str(int(Status.HIT))}
    return [int(number) for number, _ in whole]


@pytest.mark.parametrize(("capacity", "kept"), [(256 << 20, 200 << 20), (12 << 20, 5 << 20)], ids=["large", "evicting"])
def test_kill_9_during_puts_loses_nothing_that_was_acknowledged(tmp_path: Path, capacity: int, kept: int) -> None:
    """The newest ``kept`` bytes are there, which may be all; what was evicted is a miss, never something else."""
    rng = random.Random(capacity)
    acknowledged: list[int] = []
    for _ in range(4):
        first = acknowledged[-1] + 1 + 8 if acknowledged else 0
        acknowledged += acknowledged_until_killed(tmp_path, first, capacity, rng.uniform(0.05, 0.5))
        engine = open_engine("file", tmp_path, capacity)
        namespace = engine.open_namespace("n", b"{}")
        assert namespace is not None
        found = get(engine, namespace, [b"k%d" % number for number in acknowledged])
        expected = [block(number, 40 * number % 30_000) for number in acknowledged]
        assert all(value in (None, wanted) for value, wanted in zip(found, expected, strict=True))
        newer_bytes = list(accumulate(map(len, reversed(expected))))[::-1]  # of this value and all after it
        lost = [n for n, value, newer in zip(acknowledged, found, newer_bytes) if value is None and newer < kept]
        assert lost == []
        assert engine.usage()["corrupt_records"] == 0
        assert engine.usage()["segments"]["quarantined"] == 0
        assert engine.verify(namespace, [b"k%d" % acknowledged[-1]]) == bytes([Status.HIT])
        engine.close()
    assert len(acknowledged) > 100


def test_a_delete_beside_a_segment_set_aside_leaves_a_tombstone(tmp_path: Path) -> None:
    values = filled(tmp_path)
    segments = SegmentFile(tmp_path)
    slot = segments.slots(SegmentState.SEALED)[4]
    key = next(key for key, value in values.items() if segments.data.find(value) // SEGMENT == slot)
    header = bytes(segments.data[slot * SEGMENT : slot * SEGMENT + 64])
    segments.data[slot * SEGMENT + 16] ^= 1
    segments.save()
    engine, namespace = opened(tmp_path)
    assert engine.delete(namespace, [key]) == bytes([Status.MISS])
    engine.close()
    segments = SegmentFile(tmp_path)
    segments.data[slot * SEGMENT : slot * SEGMENT + 64] = header  # as a repair does
    segments.save()
    engine, namespace = opened(tmp_path)
    assert get(engine, namespace, [key]) == [None]
    engine.close()
