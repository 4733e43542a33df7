# SPDX-License-Identifier: Apache-2.0
"""Engines whose drive fails beneath them. The file is cut short: a touch of what is gone would be a SIGBUS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine.drive import SEGMENTS_FILE
from memkv_server.engine.limits import READ_ERRORS_OFFLINE
from memkv_server.engine.mapping import Mapping

CAPACITY = 8 << 20
SEGMENT = 256 << 10
SIZE = 20_000


def opened(path: Path) -> tuple[SegmentEngine, Namespace]:
    engine = open_engine("file", path, CAPACITY, SEGMENT)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    return engine, namespace


def filled(path: Path, count: int) -> tuple[SegmentEngine, Namespace, dict[bytes, bytes]]:
    engine, namespace = opened(path)
    values = {b"k%d" % number: block(number, SIZE) for number in range(count)}
    for key, value in values.items():
        assert put(engine, namespace, {key: value}) == bytes([Status.HIT])
    return engine, namespace, values


def cut(path: Path, size: int) -> None:
    os.truncate(path / SEGMENTS_FILE, size)


def test_what_cannot_be_read_is_a_miss_and_counted(tmp_path: Path) -> None:
    engine, namespace, values = filled(tmp_path, 200)
    cut(tmp_path, 10 * SEGMENT)
    found = get(engine, namespace, list(values))
    assert all(value in (None, values[key]) for key, value in zip(values, found, strict=True))
    usage = engine.usage()
    assert 70 < found.count(None) < 90
    assert usage["unreadable_records"] == found.count(None) == 200 - usage["records"]
    assert usage["corrupt_records"] == 0
    drive = usage["drives"][0]
    assert drive["state"] == "offline"
    assert drive["read_errors"] >= READ_ERRORS_OFFLINE
    assert str(tmp_path) in drive["failure"]
    assert "cannot be read" in drive["failure"]
    engine.close()


def test_one_bad_spot_costs_the_records_on_it_and_they_heal(tmp_path: Path) -> None:
    engine, namespace, values = filled(tmp_path, 30)
    size = engine.usage()["capacity_bytes"]
    cut(tmp_path, 2 * SEGMENT + 60_000)
    cut(tmp_path, size)  # grown again: it reads zeros there, as a page that was remapped by the drive does
    verified = engine.verify(namespace, list(values))
    lost = [key for key, status in zip(values, verified, strict=True) if status != Status.HIT]
    assert 0 < len(lost) < 10
    assert get(engine, namespace, lost) == [None] * len(lost)
    assert engine.usage()["drives"][0]["state"] == "online"
    assert put(engine, namespace, values).count(Status.HIT) == len(lost)
    assert get(engine, namespace, list(values)) == list(values.values())
    engine.close()


def spoil(monkeypatch: pytest.MonkeyPatch, bad: tuple[int, int]) -> None:
    """Has the mapping say of ``bad`` (first byte, end) what it says of pages that the medium does not give back."""

    def hit(extent: tuple[int, int]) -> bool:
        return extent[0] < bad[1] and bad[0] < extent[0] + extent[1]

    def positions(_self: Mapping, extents: Sequence[tuple[int, int]]) -> list[int]:
        return [position for position, extent in enumerate(extents) if hit(extent)]

    monkeypatch.setattr(Mapping, "missing", positions)
    monkeypatch.setattr(Mapping, "fetch", positions)


def test_verify_and_put_again_and_delete_of_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, namespace, values = filled(tmp_path, 60)
    keys = list(values)
    spoil(monkeypatch, (100_000, 160_000))  # k4 to k7
    assert engine.verify(namespace, keys[3:6]) == bytes([Status.HIT, Status.BAD_DIGEST, Status.BAD_DIGEST])
    assert engine.exists(namespace, keys[3:6]) == bytes([Status.HIT, Status.MISS, Status.MISS])
    assert put(engine, namespace, {keys[6]: values[keys[6]]}) == bytes([Status.HIT])
    assert engine.delete(namespace, [keys[6], keys[4]]) == bytes([Status.HIT, Status.MISS])
    assert engine.usage()["unreadable_records"] == 3
    monkeypatch.undo()
    engine.close()
    engine, namespace = opened(tmp_path)
    found = get(engine, namespace, keys)
    assert found[4] is None, "what was deleted does not come back with the drive"
    assert found[6] is None
    assert found[5] == values[keys[5]]
    engine.close()


def test_of_many_records_read_at_once_only_the_bad_one_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, namespace, values = filled(tmp_path, 60)
    spoil(monkeypatch, (100_000, 100_001))
    found = get(engine, namespace, list(values))
    assert found.count(None) == 1
    assert found[4] is None
    assert engine.usage()["drives"][0]["state"] == "online"
    engine.close()


def test_a_drive_that_cannot_be_written_takes_no_more_and_serves_what_it_has(tmp_path: Path) -> None:
    engine, namespace, values = filled(tmp_path, 40)
    used = engine.usage()["segments"]["sealed"] + 1
    cut(tmp_path, used * SEGMENT)
    statuses = []
    for number in range(40, 80):
        try:
            statuses.append(put(engine, namespace, {b"k%d" % number: block(number, SIZE)})[0])
        except StorageError as error:
            assert f"{SEGMENTS_FILE}: offset" in str(error)  # noqa: PT017
            statuses.append(Status.READ_ONLY)
    stored = statuses.count(Status.HIT)
    assert statuses == [Status.HIT] * stored + [Status.READ_ONLY] * (40 - stored)
    assert engine.usage()["drives"][0]["state"] == "read-only"
    assert get(engine, namespace, list(values)) == list(values.values())
    assert not engine.tick()
    engine.close()


def test_eviction_passes_over_what_it_cannot_read(tmp_path: Path) -> None:
    engine, namespace, values = filled(tmp_path, 250)
    get(engine, namespace, list(values)[-230:])  # read, so that eviction wants to copy them
    size = engine.usage()["capacity_bytes"]
    cut(tmp_path, 0)
    cut(tmp_path, size)
    for number in range(250, 600):
        assert put(engine, namespace, {b"k%d" % number: block(number, SIZE)}) == bytes([Status.HIT])
    assert get(engine, namespace, [b"k599"]) == [block(599, SIZE)]
    assert engine.usage()["reinserted_records"] == 0
    engine.close()


def test_a_start_sets_aside_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _, values = filled(tmp_path, 200)
    engine.close()
    real = SegmentEngine.__init__

    def cut_first(self: SegmentEngine, *arguments: Any) -> None:
        cut(tmp_path, 10 * SEGMENT)
        real(self, *arguments)

    monkeypatch.setattr(SegmentEngine, "__init__", cut_first)
    engine, namespace = opened(tmp_path)
    found = get(engine, namespace, list(values))
    assert all(value in (None, values[key]) for key, value in zip(values, found, strict=True))
    assert 70 < found.count(None) < 90
    usage = engine.usage()
    assert usage["segments"]["quarantined"] == usage["segments"]["total"] - 10
    engine.close()
