# SPDX-License-Identifier: Apache-2.0
"""Stores damaged in every part, checked and mended: what was found where, and that no intact record is lost."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.drives.check import StoreCheck, check_store
from memkv_server.drives.findings import FINDINGS_KEPT, Damage, Finding, Findings
from memkv_server.drives.image import open_image
from memkv_server.drives.repair import repair_store
from memkv_server.engine import Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine.drive import FORMAT_FILE, REGISTRY_FILE, SEGMENTS_FILE
from memkv_server.engine.durability import Level
from memkv_server.engine.index import place_address
from memkv_server.engine.registry import Entry, Kind, half_bytes
from memkv_server.engine.segment import (
    ENTRY,
    RECORD_HEADER_BYTES,
    SEGMENT_DATA_AT,
    SEGMENT_HEADER,
    SEGMENT_STATE_AT,
    TRAILER_BYTES,
    SegmentState,
)

CAPACITY = 2 << 20
SEGMENT = 64 << 10
SIZE = 5000


def opened(path: Path) -> tuple[SegmentEngine, Namespace]:
    engine = open_engine("file", path, CAPACITY, SEGMENT)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    return engine, namespace


def filled(path: Path, count: int = 200, size: int = SIZE) -> dict[bytes, bytes]:
    engine, namespace = opened(path)
    values = {b"k%d" % number: block(number, size) for number in range(count)}
    for key, value in values.items():
        assert put(engine, namespace, {key: value}) == bytes([Status.HIT])
    engine.close()
    return values


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    path = tmp_path_factory.mktemp("whole") / "store"
    return path, filled(path)


@pytest.fixture
def path(store: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> Path:
    """A copy of a store with 200 records in 19 segments, the last one open."""
    return Path(shutil.copytree(store[0], tmp_path / "store"))


@pytest.fixture
def values(store: tuple[Path, dict[bytes, bytes]]) -> dict[bytes, bytes]:
    return store[1]


def check(path: Path, *, data: bool = True) -> StoreCheck:
    with open_image(path) as image:
        return check_store(image, data=data)


def repair(path: Path) -> list[str]:
    with open_image(path, writable=True) as image:
        return list(repair_store(image, check_store(image, data=True)))


def served(path: Path, keys: list[bytes]) -> list[bytes | None]:
    """What a node gives back, with the digest of every value checked."""
    engine, namespace = opened(path)
    try:
        assert engine.usage()["segments"]["quarantined"] == 0
        return get(engine, namespace, keys)
    finally:
        engine.close()


def mended(path: Path, values: dict[bytes, bytes], lost: set[bytes]) -> list[str]:
    """Repairs, and asserts that the store is clean then and that nothing but ``lost`` is missing."""
    steps = repair(path)
    again = check(path)
    assert again.is_clean, [str(finding) for finding in again.findings.kept]
    assert again.live_records == len(values) - len(lost)
    found = dict(zip(values, served(path, list(values)), strict=True))
    assert found == {key: None if key in lost else value for key, value in values.items()}
    return steps


class Bytes:
    """One file of a store, to be damaged."""

    def __init__(self, path: Path, name: str = SEGMENTS_FILE) -> None:
        self.file = path / name
        self.data = bytearray(self.file.read_bytes())

    def flip(self, at: int, bit: int = 3) -> int:
        self.data[at] ^= 1 << bit
        self.file.write_bytes(self.data)
        return at

    def overwrite(self, at: int, content: bytes) -> int:
        self.data[at : at + len(content)] = content
        self.file.write_bytes(self.data)
        return at

    def find(self, value: bytes) -> int:
        at = self.data.find(value)
        assert at > 0
        return at

    def slots(self, state: SegmentState) -> list[int]:
        """Slots with this state, oldest first."""
        found = [
            slot for slot in range(len(self.data) // SEGMENT) if self.data[slot * SEGMENT + SEGMENT_STATE_AT] == state
        ]
        return sorted(found, key=lambda slot: SEGMENT_HEADER.unpack_from(self.data, slot * SEGMENT)[2])


def only(findings: Findings, damage: Damage) -> Finding:
    assert findings.counts == {damage: 1}, [str(finding) for finding in findings.kept]
    return findings.kept[0]


# -- a store that is well ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [False, True])
def test_a_store_that_is_well(path: Path, data: bool) -> None:
    before = (path / SEGMENTS_FILE).read_bytes()
    result = check(path, data=data)
    assert result.is_clean
    assert (result.live_records, result.lost_records, result.with_data) == (200, 0, data)
    assert result.as_json()["segments"] == {"total": 30, "in_use": 19, "sealed": 18, "damaged_headers": 0}
    assert repair(path) == []
    assert (path / SEGMENTS_FILE).read_bytes() == before


def test_an_empty_store(tmp_path: Path) -> None:
    opened(tmp_path / "store")[0].close()
    result = check(tmp_path / "store")
    assert (result.is_clean, result.live_records, result.segments) == (True, 0, [])


def test_replaced_and_deleted_records_are_not_live(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path / "store")
    for number in range(50):
        put(engine, namespace, {b"k%d" % (number % 10): block(number, 3000)})
    engine.delete(namespace, [b"k3", b"k4"])
    usage = engine.usage()
    engine.close()
    result = check(tmp_path / "store")
    assert (result.live_records, result.live_bytes) == (usage["records"], usage["live_bytes"])
    assert usage["records"] == 8


def test_a_process_that_died_leaves_no_damage(tmp_path: Path) -> None:
    engine, namespace = opened(tmp_path / "store")
    values = {b"k%d" % number: block(number, SIZE) for number in range(30)}
    put(engine, namespace, values)
    reservation = engine.reserve(namespace, [b"under way"], [SIZE], [bytes(16)], 0, None)
    shutil.copytree(tmp_path / "store", tmp_path / "dead")
    engine.abort(reservation)
    engine.close()
    result = check(tmp_path / "dead")
    assert (result.is_clean, result.live_records) == (True, 30)


# -- records ----------------------------------------------------------------------------------------------------------
def test_a_flipped_bit_in_a_value(path: Path, values: dict[bytes, bytes]) -> None:
    segments = Bytes(path)
    at = segments.find(values[b"k20"])
    segments.flip(at + 1234)
    assert check(path, data=False).is_clean, "without --data no payload is read"
    finding = only(check(path).findings, Damage.PAYLOAD)
    assert finding.file == str(path / SEGMENTS_FILE)
    assert at - 4096 < finding.offset < at
    assert finding.segment == finding.offset // SEGMENT
    assert str(finding) == (
        f"{path / SEGMENTS_FILE}: offset {finding.offset}: segment {finding.segment}: a value of 5000 bytes does not "
        "match its digest; run `memkv drive check --repair` on it"
    )
    steps = mended(path, values, {b"k20"})
    assert len(steps) == 1
    assert "sealed anew" in steps[0]
    assert "1 damaged dropped" in steps[0]


@pytest.mark.parametrize("into", [0, 4, 9, 17, 25, 33, 41, 57, 61, RECORD_HEADER_BYTES])
def test_a_flipped_bit_in_a_record_header(path: Path, values: dict[bytes, bytes], into: int) -> None:
    segments = Bytes(path)
    at = segments.find(values[b"k20"]) & -64
    while segments.data[at : at + 4] != b"\x02MKR":
        at -= 64
    segments.flip(at + into)
    for data in (False, True):
        finding = only(check(path, data=data).findings, Damage.RECORD)
        assert finding.offset == at
    mended(path, values, {b"k20"})


def test_a_damaged_version_hides_what_it_replaced(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine, namespace = opened(path)
    old, new = block(1, SIZE), block(2, SIZE)
    put(engine, namespace, {b"k": old})
    put(engine, namespace, {b"other%d" % number: block(10 + number, SIZE) for number in range(20)})
    put(engine, namespace, {b"k": new})
    put(engine, namespace, {b"more%d" % number: block(40 + number, SIZE) for number in range(20)})
    engine.close()
    segments = Bytes(path)
    segments.flip(segments.find(new) + 5)
    repair(path)
    assert served(path, [b"k", b"other3"]) == [None, block(13, SIZE)]


def test_a_damaged_copy_does_not_hide_the_original(tmp_path: Path) -> None:
    path = tmp_path / "store"
    values = filled(path, 100)
    segments = Bytes(path)
    at = segments.find(values[b"k5"])
    source = next(start for start in range(at & -64, 0, -64) if segments.data[start : start + 4] == b"\x02MKR")
    engine, _ = opened(path)
    victim = engine._pool.closed[0]
    assert source // SEGMENT == victim.slot
    key_hash = next(found for found, place in engine._index.items() if place_address(place) == source)
    assert engine._cleaner._copy(victim, key_hash, engine._index.shards[key_hash[0]][key_hash])
    engine.close()
    segments = Bytes(path)
    copy = segments.data.rfind(values[b"k5"])
    assert copy != at
    segments.flip(copy + 7)
    mended(path, values, set())


# -- footers and gaps -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("back", [1, 30, TRAILER_BYTES - 9, TRAILER_BYTES + 5, TRAILER_BYTES + 3 * ENTRY.size])
def test_a_damaged_footer_costs_no_record(path: Path, values: dict[bytes, bytes], back: int) -> None:
    segments = Bytes(path)
    slot = segments.slots(SegmentState.SEALED)[4]
    segments.flip((slot + 1) * SEGMENT - back if back > 24 else (slot + 1) * SEGMENT - TRAILER_BYTES + back)
    finding = only(check(path).findings, Damage.FOOTER)
    assert finding.offset == (slot + 1) * SEGMENT - TRAILER_BYTES
    mended(path, values, set())


def test_damage_in_the_open_segment(path: Path, values: dict[bytes, bytes]) -> None:
    segments = Bytes(path)
    (slot,) = segments.slots(SegmentState.OPEN)
    keys = [key for key, value in values.items() if segments.data.find(value) // SEGMENT == slot]
    assert len(keys) == 2
    at = segments.find(values[keys[0]]) & -64
    while segments.data[at : at + 4] != b"\x02MKR":
        at -= 64
    segments.flip(at + 41)
    finding = only(check(path).findings, Damage.GAP)
    assert finding.offset == at
    mended(path, values, {keys[0]})
    assert Bytes(path).slots(SegmentState.OPEN) != [slot], "it is sealed, and not written to again"


# -- segment headers --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("into", [0, 8, 16, 24, 32, 40])
@pytest.mark.parametrize("which", [0, 5, 17, 18])
def test_a_flipped_bit_in_a_segment_header_costs_no_record(
    path: Path, values: dict[bytes, bytes], into: int, which: int
) -> None:
    segments = Bytes(path)
    used = segments.slots(SegmentState.SEALED) + segments.slots(SegmentState.OPEN)
    slot = used[which]
    held = {key for key, value in values.items() if segments.data.find(value) // SEGMENT == slot}
    segments.flip(slot * SEGMENT + into)
    finding = only(check(path).findings, Damage.SEGMENT_HEADER)
    assert (finding.segment, finding.offset) == (slot, slot * SEGMENT)
    assert held
    mended(path, values, set())


def test_a_wiped_segment_header_costs_no_record(path: Path, values: dict[bytes, bytes]) -> None:
    segments = Bytes(path)
    sealed = segments.slots(SegmentState.SEALED)
    for slot in (sealed[3], sealed[8], segments.slots(SegmentState.OPEN)[0]):
        segments.overwrite(slot * SEGMENT, random.Random(slot).randbytes(SEGMENT_DATA_AT))
    assert check(path).findings.counts == {Damage.SEGMENT_HEADER: 3}
    mended(path, values, set())


def test_nothing_says_that_a_wiped_oldest_segment_had_not_been_given_up(path: Path, values: dict[bytes, bytes]) -> None:
    segments = Bytes(path)
    slot = segments.slots(SegmentState.SEALED)[0]
    held = {key for key, value in values.items() if segments.data.find(value) // SEGMENT == slot}
    segments.overwrite(slot * SEGMENT, bytes(SEGMENT_DATA_AT - 1) + b"x")
    segments.overwrite(slot * SEGMENT + SEGMENT_STATE_AT, b"\xff")
    assert "nothing proves that it is in use" in str(check(path).findings.kept[0])
    mended(path, values, held)


def test_what_was_given_up_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine, namespace = opened(path)
    for number in range(600):  # several times its size
        put(engine, namespace, {b"k%d" % number: block(number, SIZE)})
    engine.close()
    segments = Bytes(path)
    (free, *_) = segments.slots(SegmentState.FREE)
    segments.flip(free * SEGMENT + SEGMENT_STATE_AT)
    segments.flip(free * SEGMENT + SEGMENT_STATE_AT, 1)
    before = check(path)
    assert before.findings.counts == {Damage.SEGMENT_HEADER: 1}
    assert "nothing proves that it is in use" in str(before.findings.kept[0])
    assert "free space again" in repair(path)[0]
    after = check(path)
    assert (after.is_clean, after.live_records) == (True, before.live_records)


def test_a_segment_of_another_store_is_given_back(path: Path, values: dict[bytes, bytes], tmp_path: Path) -> None:
    filled(tmp_path / "other", 40)
    segments, other = Bytes(path), Bytes(tmp_path / "other")
    slot = segments.slots(SegmentState.SEALED)[6]
    held = {key for key, value in values.items() if segments.data.find(value) // SEGMENT == slot}
    segments.overwrite(slot * SEGMENT, bytes(other.data[:SEGMENT]))
    mended(path, values, held)


def test_of_two_segments_with_one_number_the_one_that_bears_it_counts(path: Path, values: dict[bytes, bytes]) -> None:
    segments = Bytes(path)
    sealed = segments.slots(SegmentState.SEALED)
    for source, target in ((sealed[9], sealed[2]), (sealed[11], sealed[13])):
        segments.overwrite(target * SEGMENT, bytes(segments.data[source * SEGMENT : source * SEGMENT + 64]))
    assert check(path).findings.counts == {Damage.SEGMENT_HEADER: 2}
    mended(path, values, set())


# -- the other files --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("at", [0, 5, 8, 11, 12, 13, 16, 18, 20, 24, 26, 32, 40, 47, 55, 56, 64])
def test_a_flipped_bit_in_the_superblock_costs_nothing(path: Path, values: dict[bytes, bytes], at: int) -> None:
    Bytes(path, FORMAT_FILE).flip(at)
    result = check(path)
    finding = only(result.findings, Damage.SUPERBLOCK)
    assert (finding.file, finding.offset) == (str(path / FORMAT_FILE), 0)
    with pytest.raises(StorageError, match=FORMAT_FILE):
        opened(path)
    mended(path, values, set())


def test_a_superblock_beyond_rescue(path: Path) -> None:
    (path / FORMAT_FILE).write_bytes(os.urandom(4096))
    finding = only(check(path).findings, Damage.SUPERBLOCK)
    assert "memkv setup --force" in str(finding)
    with pytest.raises(StorageError, match="no segment proves what it held"):
        repair(path)


def test_a_newer_format_is_refused(path: Path) -> None:
    from memkv_server.engine import superblock as module

    content = bytearray((path / FORMAT_FILE).read_bytes())
    content[8:12] = (module.FORMAT_VERSION + 1).to_bytes(4, "little")
    content[64:72] = xxhash.xxh3_64_intdigest(bytes(content[:64])).to_bytes(8, "little")
    (path / FORMAT_FILE).write_bytes(content)
    with pytest.raises(StorageError, match=f"has format version {module.FORMAT_VERSION + 1}"):
        check(path)


def test_a_segments_file_that_was_cut_short(path: Path, values: dict[bytes, bytes]) -> None:
    segments = Bytes(path)
    size = 10 * SEGMENT + 30_000
    os.truncate(path / SEGMENTS_FILE, size)
    result = check(path)
    assert (result.findings.counts[Damage.SIZE], result.findings.kept[0].offset) == (1, size)
    gone = {key for key, value in values.items() if segments.data.find(value) + SIZE > size}
    mended(path, values, gone)
    assert (path / SEGMENTS_FILE).stat().st_size == len(segments.data)


def test_the_registry_past_a_damaged_entry(path: Path) -> None:
    engine, _ = opened(path)
    for number in range(10):
        engine.open_namespace(f"tenant-{number}", b'{"n":%d}' % number)
    engine.close()
    registry = Bytes(path, REGISTRY_FILE)
    at = registry.data.find(b"tenant-4") - 24
    registry.flip(at + 30)
    finding = only(check(path).findings, Damage.REGISTRY)
    assert (finding.file, finding.offset) == (str(path / REGISTRY_FILE), at)
    repair(path)
    assert check(path).is_clean
    engine, _ = opened(path)
    assert engine.open_namespace("tenant-7", b"another identity") is None, "it is known again"
    engine.close()


@pytest.mark.parametrize("damaged", [b"tenant-4", b"\x02MNS"])
@pytest.mark.parametrize("turns", [1, 2])
def test_the_registry_that_was_written_anew(path: Path, damaged: bytes, turns: int) -> None:
    """In its second half, and in its first again; the entry at its beginning is damaged, or one in its middle."""
    engine, _ = opened(path)
    for number in range(10):
        engine.open_namespace(f"tenant-{number}", b'{"n":%d}' % number)
    for _ in range(turns):
        engine.namespaces._write_anew(Entry(Kind.DROPPED, 7, "tenant-2"))
    engine.close()
    engine, _ = opened(path)
    dropped = engine.drop_namespace("tenant-3")
    assert dropped is not None
    engine.close()
    checked = check(path)
    assert checked.is_clean
    assert checked.registry is not None
    assert set(checked.registry.names) == {"n", *(f"tenant-{number}" for number in (0, 1, 4, 5, 6, 7, 8, 9))}
    registry = Bytes(path, REGISTRY_FILE)
    half = half_bytes(len(registry.data))
    base = half if turns == 1 else 0
    at = registry.data.find(damaged, base) - (24 if damaged.startswith(b"t") else 0)
    assert base <= at < base + half
    registry.flip(at + 9)
    finding = only(check(path).findings, Damage.REGISTRY)
    assert (finding.file, finding.offset) == (str(path / REGISTRY_FILE), at)
    repair(path)
    assert check(path).is_clean
    engine, _ = opened(path)
    assert engine.open_namespace("tenant-7", b"another identity") is None, "it is known again"
    assert engine.open_namespace("tenant-3", b"another identity") is not None, "it is still dropped"
    engine.close()


def test_a_torn_entry_at_the_end_of_the_registry_is_no_damage(path: Path) -> None:
    registry = Bytes(path, REGISTRY_FILE)
    end = len(bytes(registry.data).rstrip(b"\0"))
    registry.overwrite(-(-end // 8) * 8, b"\x02MNS\x04\x00")
    assert check(path).is_clean


# -- anything at all --------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    holes=st.lists(
        st.tuples(st.integers(0, 19 * SEGMENT), st.integers(1, 3 * SIZE), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_whatever_is_overwritten_only_what_was_overwritten_is_lost(
    store: tuple[Path, dict[bytes, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    holes: list[tuple[int, int, int]],
) -> None:
    whole, values = store
    path = tmp_path_factory.mktemp("damaged") / "store"
    shutil.copytree(whole, path)
    segments = Bytes(path)
    pristine = bytes(segments.data)
    oldest = segments.slots(SegmentState.SEALED)[0]
    places = {key: pristine.find(value) for key, value in values.items()}
    for at, length, fill in holes:
        segments.data[at : at + length] = bytes([fill]) * len(segments.data[at : at + length])
    segments.file.write_bytes(segments.data)

    def touched(start: int, end: int) -> bool:
        return bytes(segments.data[start:end]) != pristine[start:end]

    # A record's header and key lie within 128 bytes before its value.
    lost = {key for key, at in places.items() if touched(at - 128, at + SIZE)}
    # A segment of which all is gone that could prove its number is given back.
    for slot in range(19):
        start, end = slot * SEGMENT, (slot + 1) * SEGMENT
        if touched(start, start + 64) and (
            slot == oldest or (touched(end - TRAILER_BYTES, end) and touched(start + 4096, start + 4096 + 128))
        ):
            lost |= {key for key, at in places.items() if start <= at < end}
    repair(path)
    assert check(path).is_clean
    found = dict(zip(values, served(path, list(values)), strict=True))
    assert all(value in (None, values[key]) for key, value in found.items())
    assert {key for key, value in found.items() if value is None} <= lost
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_a_start_finds(path: Path, values: dict[bytes, bytes], seed: int) -> None:
    """The checker's reader is not the server's; on damage that a start deals with by a scan, both find the same."""
    rng, segments = random.Random(seed), Bytes(path)
    for slot in rng.sample(segments.slots(SegmentState.SEALED), 4):
        segments.flip((slot + 1) * SEGMENT - rng.randrange(40, 300))  # its footer
        for _ in range(3):
            segments.flip(slot * SEGMENT + rng.randrange(SEGMENT_DATA_AT, SEGMENT - 1000))
    result = check(path)
    found = served(path, list(values))
    assert result.live_records == len(values) - found.count(None)


# -- refusals ---------------------------------------------------------------------------------------------------------
def test_a_store_in_use_is_refused_with_the_process(path: Path) -> None:
    engine, _ = opened(path)
    with pytest.raises(StorageError, match=rf"store is open in a running node \(process {os.getpid()}.*stop that node"):
        check(path)
    engine.close()
    assert check(path).is_clean


def test_while_it_is_checked_no_node_opens_it(path: Path) -> None:
    with open_image(path), pytest.raises(StorageError, match=f"in use by another node .process {os.getpid()}"):
        opened(path)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StorageError, match="holds no MemKV store; name the folder or device"):
        check(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(StorageError, match="No such file"):
        check(tmp_path / "nowhere")


def test_findings_are_all_counted_and_the_first_ones_kept() -> None:
    findings = Findings()
    for number in range(FINDINGS_KEPT + 5):
        findings.add(Finding(Damage.PAYLOAD, "f", number, "c"))
    assert (findings.count, len(findings.kept)) == (FINDINGS_KEPT + 5, FINDINGS_KEPT)
    assert findings.as_json()["by_damage"] == {"payload": FINDINGS_KEPT + 5}


# -- durability strict ------------------------------------------------------------------------------------------------
def test_what_was_under_way_when_the_power_failed_hides_nothing(tmp_path: Path) -> None:
    """As a start decides it: a torn replacement that nobody was told of does not cost the value before it."""
    path = tmp_path / "store"
    engine = open_engine("file", path, CAPACITY, SEGMENT, level=Level.STRICT)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    old, new, rotten, kept = (block(number, SIZE) for number in range(4))
    put(engine, namespace, {b"k": old, b"r": rotten})
    settle(engine)
    put(engine, namespace, {b"k2": kept})
    settle(engine)
    put(engine, namespace, {b"k": new})
    shutil.copytree(path, tmp_path / "cut")
    engine.close()
    segments = Bytes(tmp_path / "cut")
    segments.flip(segments.find(new) + 4000)
    segments.flip(segments.find(rotten) + 4000)
    shutil.copytree(tmp_path / "cut", tmp_path / "started")
    assert check(tmp_path / "cut").findings.counts == {Damage.PAYLOAD: 2}
    assert "sealed anew" in repair(tmp_path / "cut")[0]
    for store in ("cut", "started"):
        assert served(tmp_path / store, [b"k", b"r", b"k2"]) == [old, None, kept]


def settle(engine: SegmentEngine) -> None:
    ticket = engine.ticket()
    while ticket is not None and not ticket.settled:
        engine.tick()


def test_an_open_segment_of_a_later_run_with_a_damaged_header(tmp_path: Path) -> None:
    """Its number is far from all others: each start leaps."""
    path = tmp_path / "store"
    values = filled(path, 40)
    engine, namespace = opened(path)
    more = {b"later%d" % number: block(1000 + number, SIZE) for number in range(30)}
    put(engine, namespace, more)
    engine.close()
    segments = Bytes(path)
    (slot,) = segments.slots(SegmentState.OPEN)
    segments.flip(slot * SEGMENT + 18)
    assert check(path).findings.counts == {Damage.SEGMENT_HEADER: 1}
    mended(path, {**values, **more}, set())
