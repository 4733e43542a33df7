# SPDX-License-Identifier: Apache-2.0
"""A dropped namespace is empty at once and for ever: with sessions open, after restarts, on drives that were away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memkv_core.digests import digest
from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import DriveSet, Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine import bay as bay_module
from memkv_server.engine.drive import FileDrive

CAPACITY = 8 << 20
SEGMENT = 256 << 10
VALUES = {b"k%d" % number: block(number, 20_000) for number in range(60)}


def opened(folders: list[Path]) -> DriveSet:
    drives = [{"path": str(folder), "capacity_bytes": CAPACITY} for folder in folders]
    return DriveSet.over("file", drives, CAPACITY * len(drives), SEGMENT)


def names(engine: DriveSet | SegmentEngine) -> dict[str, int]:
    return {row["name"]: row["records"] for row in engine.usage()["namespaces"]}


def open_(engine: DriveSet | SegmentEngine, name: str = "n", identity: bytes = b"{}") -> Namespace:
    namespace = engine.open_namespace(name, identity)
    assert namespace is not None
    return namespace


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(bay_module, "RETRY_S_MIN", 0.02)
    monkeypatch.setattr(bay_module, "RETRY_S_MAX", 0.05)
    return [tmp_path / name for name in ("a", "b", "c")]


@pytest.fixture
def engine(folders: list[Path]) -> Iterator[DriveSet]:
    engine = opened(folders)
    yield engine
    engine.close()


def tick_until(engine: DriveSet, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        engine.tick()
        time.sleep(0.01)


def all_online(engine: DriveSet) -> bool:
    return {drive["state"] for drive in engine.usage()["drives"]} == {"online"}


def test_all_goes_and_nothing_else(engine: DriveSet) -> None:
    namespace, other = open_(engine), open_(engine, "other")
    put(engine, namespace, VALUES)
    put(engine, other, VALUES)
    dropped = engine.drop_namespace("n")
    assert dropped is not None
    assert (dropped["records"], dropped["bytes"] > 60 * 20_000, dropped["away"]) == (60, True, [])
    assert names(engine) == {"other": 60}
    assert engine.usage()["records"] == 60
    assert namespace.dropped
    assert get(engine, namespace, list(VALUES)) == [None] * 60
    assert engine.drop_namespace("n") is None
    assert engine.drop_namespace("never there") is None
    again = open_(engine)
    assert again is namespace, "sessions go on with it"
    assert set(engine.exists(again, list(VALUES))) == {Status.MISS}
    assert engine.lookup(again, list(VALUES)) == 0
    assert set(engine.verify(again, list(VALUES))) == {Status.MISS}
    assert set(engine.delete(again, list(VALUES))) == {Status.MISS}
    assert get(engine, again, list(VALUES)) == [None] * 60
    assert put(engine, again, VALUES) == bytes([Status.HIT]) * 60, "and none of it is PRESENT"
    assert get(engine, again, list(VALUES)) == list(VALUES.values())
    assert get(engine, other, list(VALUES)) == list(VALUES.values())


def test_the_identity_is_forgotten_with_it(engine: DriveSet) -> None:
    namespace = open_(engine, identity=b"bf16")
    put(engine, namespace, VALUES)
    assert engine.open_namespace("n", b"fp16") is None
    engine.drop_namespace("n")
    other = open_(engine, identity=b"fp16")
    assert get(engine, other, list(VALUES)) == [None] * 60
    put(engine, other, {b"k0": b"of the other"})
    assert namespace.dropped, "who held it must not meet blocks of another identity"
    assert get(engine, namespace, [b"k0"]) == [None]
    assert engine.open_namespace("n", b"bf16") is None


def test_what_is_under_way(engine: DriveSet) -> None:
    namespace = open_(engine)
    put(engine, namespace, VALUES)
    batch = engine.read(namespace, list(VALUES), [20_000] * 60)
    value = block(7, 5000)
    reserved = engine.reserve(namespace, [b"late"], [5000], [digest([memoryview(value)], 0)], 0, None)
    extent = reserved.extents[0]
    assert extent is not None
    engine.drop_namespace("n")
    assert open_(engine) is namespace
    extent[:] = value
    assert engine.commit(reserved) == bytes([Status.NO_SPACE])
    assert get(engine, namespace, [b"late"]) == [None]
    assert [bytes(view or b"") for view in batch.views] == list(VALUES.values()), "it was answered before the drop"
    engine.release(batch)
    assert names(engine) == {"n": 0}


def crash(engine: DriveSet, folders: list[Path]) -> None:
    """Leaves in the folders what a process that dies now leaves."""
    for folder in folders:
        shutil.copytree(folder, folder.with_suffix(".copy"))
    engine.close()
    for folder in folders:
        shutil.rmtree(folder)
        folder.with_suffix(".copy").rename(folder)


@pytest.mark.parametrize("reopened_first", [False, True])
def test_it_stays_dropped_after_a_crash(engine: DriveSet, folders: list[Path], reopened_first: bool) -> None:
    namespace = open_(engine)
    put(engine, namespace, VALUES)
    engine.drop_namespace("n")
    if reopened_first:
        put(engine, open_(engine), {b"new": b"value"})
    crash(engine, folders)
    after = opened(folders)
    assert names(after) == ({"n": 1} if reopened_first else {})
    again = open_(after)
    assert get(after, again, [*VALUES, b"new"]) == [None] * 60 + [b"value" if reopened_first else None]
    after.close()


def test_again_and_again_over_restarts(folders: list[Path]) -> None:
    for round_ in range(6):
        engine = opened(folders)
        namespace = open_(engine)
        assert get(engine, namespace, list(VALUES)) == [None] * 60
        put(engine, namespace, {key: value[round_:] for key, value in VALUES.items()})
        assert names(engine) == {"n": 60}
        engine.close()
        engine = opened(folders)
        assert get(engine, open_(engine), list(VALUES)) == [value[round_:] for value in VALUES.values()]
        assert engine.drop_namespace("n") is not None
        engine.close()


def test_a_drive_that_is_away_hears_of_it_before_it_serves(engine: DriveSet) -> None:
    namespace = open_(engine)
    put(engine, namespace, VALUES)
    engine._bays[1].take_down("pulled out")
    dropped = engine.drop_namespace("n")
    assert dropped is not None
    assert dropped["away"] == [engine._bays[1].path]
    assert open_(engine) is namespace
    tick_until(engine, lambda: all_online(engine))
    assert get(engine, namespace, list(VALUES)) == [None] * 60
    assert set(put(engine, namespace, VALUES)) == {Status.HIT}
    assert get(engine, namespace, list(VALUES)) == list(VALUES.values())


def test_a_drive_that_comes_back_after_a_restart_hears_of_it(folders: list[Path]) -> None:
    engine = opened(folders)
    put(engine, open_(engine), VALUES)
    engine.close()
    folders[2].rename(folders[2].with_name("away"))
    without = opened(folders[:2])  # it keeps its homes for the keys of its own drives only
    assert without.drop_namespace("n") is not None
    without.close()
    folders[2].with_name("away").rename(folders[2])
    engine = opened(folders)
    assert names(engine) == {}
    assert get(engine, open_(engine), list(VALUES)) == [None] * 60
    engine.close()


def test_a_drive_that_was_alone_tells_the_others(engine: DriveSet, folders: list[Path]) -> None:
    """The only one that recorded a drop is away at a start, and comes back while the name is in use again."""
    namespace = open_(engine)
    put(engine, namespace, VALUES)
    for bay in engine._bays[1:]:
        bay.take_down("pulled out")
    engine.drop_namespace("n")
    engine.close()
    folders[0].rename(folders[0].with_name("away"))
    folders[0].mkdir()
    (folders[0] / "stranger").write_text("x")
    later = opened(folders)
    stale = open_(later)
    assert names(later)["n"] > 0, "nobody there can know of it"
    assert get(later, stale, list(VALUES)).count(None) < 60
    shutil.rmtree(folders[0])
    folders[0].with_name("away").rename(folders[0])
    tick_until(later, lambda: all_online(later))
    assert stale.dropped
    assert get(later, stale, list(VALUES)) == [None] * 60
    assert open_(later) is stale
    assert names(later) == {"n": 0}
    assert get(later, stale, list(VALUES)) == [None] * 60
    assert set(put(later, stale, VALUES)) == {Status.HIT}
    later.close()


def test_dropped_on_two_sides_that_did_not_meet_the_later_counts(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    both = opened(folders[:2])
    put(both, open_(both), VALUES)
    both.close()
    left = opened(folders[:1])
    left.drop_namespace("n")
    put(left, open_(left), {b"left": b"1"})
    left.close()
    monkeypatch.setattr("time.time", lambda: now + 10)
    right = opened(folders[1:2])
    right.drop_namespace("n")
    right.close()
    both = opened(folders[:2])
    assert names(both) == {}
    assert get(both, open_(both), [b"left", *VALUES]) == [None] * 61
    both.close()


def test_no_drive_can_record_it(engine: DriveSet, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = open_(engine)
    put(engine, namespace, VALUES)

    def failing(self: FileDrive, at: int, data: bytes) -> None:
        raise StorageError("the drive fails", remedy="replace it")

    with monkeypatch.context() as patched:
        patched.setattr(FileDrive, "registry_append", failing)
        with pytest.raises(StorageError, match="the drive fails"):
            engine.drop_namespace("n")
    assert get(engine, namespace, list(VALUES)) == list(VALUES.values()), "then it was not"
    for bay in engine._bays:
        bay.take_down("pulled out")
    with pytest.raises(StorageError, match="no drive serves"):
        engine.drop_namespace("n")


def test_its_records_are_evicted_and_not_copied(tmp_path: Path) -> None:
    engine = open_engine("file", tmp_path, 8 * SEGMENT + (1 << 17), SEGMENT)
    namespace, other = open_(engine), open_(engine, "other")
    put(engine, namespace, VALUES)
    for _ in range(4):
        assert get(engine, namespace, list(VALUES)) == list(VALUES.values()), "all are worth a second chance"
    engine.drop_namespace("n")
    assert next(iter(engine._index.retired.values())).records == 60
    for number in range(200):
        put(engine, other, {b"o%d" % number: block(number, 20_000)})
        while engine.tick():
            pass
    usage = engine.usage()
    assert usage["reinserted_records"] == 0
    assert engine._index.retired == {}
    assert usage["records"] == len(engine._index) == names(engine)["other"]
    engine.close()


def test_dropped_while_its_segment_is_being_emptied(tmp_path: Path) -> None:
    engine = open_engine("file", tmp_path, 8 * SEGMENT + (1 << 17), SEGMENT)
    namespace, other = open_(engine), open_(engine, "other")
    put(engine, namespace, VALUES)
    get(engine, namespace, list(VALUES))
    number = 0
    while not engine._cleaner.busy:
        put(engine, other, {b"o%d" % number: block(number, 20_000)})
        number += 1
    engine._cleaner._step()
    before = engine.usage()["reinserted_records"]
    engine.drop_namespace("n")
    while engine.tick():
        pass
    assert engine.usage()["reinserted_records"] == before
    assert names(engine) == {"other": number}
    engine.close()


def test_listed_page_by_page(engine: DriveSet) -> None:
    for number in range(25):
        put(engine, open_(engine, f"n{number:02}"), {b"k%d" % each: b"v" for each in range(number)})
    engine.drop_namespace("n07")
    listed: list[dict[str, object]] = []
    while page := engine.list_namespaces(str(listed[-1]["name"]) if listed else "", 10):
        listed += page
    expected = [(f"n{number:02}", number) for number in range(25) if number != 7]
    assert [(row["name"], row["records"]) for row in listed] == expected


def test_a_footer_and_headers_that_cannot_be_read_leave_the_counts_right(tmp_path: Path) -> None:
    """Eviction of a segment that was damaged from end to end: what was whose is not in it any more."""
    engine = open_engine("memory", None, 8 * SEGMENT + (1 << 17), SEGMENT)
    one, two = open_(engine, "one"), open_(engine, "two")
    for number in range(10):
        put(engine, one if number % 3 else two, {b"k%d" % number: block(number, 20_000)})
    put(engine, two, {b"more%d" % number: block(number, 20_000) for number in range(10)})
    victim = engine._pool.closed[0]
    engine._pool.segments[victim.slot].view[victim.origin + 4096 : victim.origin + victim.end] = bytes(SEGMENT - 4096)
    number = 0
    while not engine.usage()["evicted_segments"]:
        put(engine, two, {b"new%d" % number: block(number, 20_000)})
        number += 1
    account = {row["name"]: (row["records"], row["bytes"]) for row in engine.usage()["namespaces"]}
    live = {"one": [0, 0], "two": [0, 0]}
    for name, namespace, keys in (
        ("one", one, [b"k%d" % each for each in range(10)]),
        ("two", two, [b"%s%d" % (word, each) for word in (b"k", b"more", b"new") for each in range(number)]),
    ):
        live[name][0] = engine.exists(namespace, keys).count(Status.HIT)
    assert {name: records for name, (records, _) in account.items()} == {name: live[name][0] for name in live}
    assert sum(size for _, size in account.values()) == engine.usage()["live_bytes"] == len(engine._index) * 20_160
    engine.close()
