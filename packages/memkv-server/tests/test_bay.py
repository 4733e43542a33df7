# SPDX-License-Identifier: Apache-2.0
"""A bay tries again, takes only the store it knew, and ends when it is told to."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from memkv_core.errors import StorageError
from memkv_server.engine import SegmentEngine, open_engine
from memkv_server.engine import bay as bay_module
from memkv_server.engine.bay import Bay

CAPACITY = 1 << 20
SEGMENT = 64 << 10


def bay_on(path: Path) -> Bay:
    def opened(uuid: bytes | None) -> SegmentEngine:
        return open_engine("file", path, CAPACITY, SEGMENT, uuid)

    return Bay(str(path), "file", CAPACITY, opened)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bay_module, "RETRY_S_MIN", 0.01)
    monkeypatch.setattr(bay_module, "RETRY_S_MAX", 0.02)


def engine_of(bay: Bay) -> SegmentEngine:
    deadline = time.monotonic() + 30
    while (engine := bay.watch()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return engine


def test_down_and_up_again(tmp_path: Path) -> None:
    bay = bay_on(tmp_path / "store")
    bay.open()
    first = bay.engine
    assert first is not None
    assert bay.watch() is None
    bay.take_down("it was pulled out")
    down = bay.engine
    assert down is None
    assert (bay.usage()["state"], bay.usage()["failure"]) == ("offline", "it was pulled out")
    second = engine_of(bay)
    bay.install(second)
    assert bay.engine is second is not first
    assert second.uuid == first.uuid
    assert bay.failure is None
    bay.close()
    bay.close()


def test_another_store_in_its_place_is_not_taken(tmp_path: Path) -> None:
    bay = bay_on(tmp_path / "store")
    bay.open()
    (tmp_path / "store").rename(tmp_path / "away")
    open_engine("file", tmp_path / "store", CAPACITY, SEGMENT).close()
    bay.take_down("swapped")
    deadline = time.monotonic() + 30
    while "does not hold the store" not in (bay.failure or ""):
        assert time.monotonic() < deadline
        assert bay.watch() is None
    (tmp_path / "store").rename(tmp_path / "other")
    (tmp_path / "away").rename(tmp_path / "store")
    bay.install(engine_of(bay))
    bay.close()


def test_a_rejected_engine_is_closed_and_tried_again(tmp_path: Path) -> None:
    bay = bay_on(tmp_path / "store")
    bay.open()
    bay.take_down("x")
    bay.reject(engine_of(bay), "its registry cannot be written")
    assert bay.engine is None
    bay.install(engine_of(bay))  # it could be opened: the rejected one had been closed
    bay.close()


def test_a_refusal_at_the_start_is_raised_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "stranger").write_text("x")
    bay = bay_on(tmp_path)
    with pytest.raises(StorageError, match="stranger"):
        bay.open()
    (tmp_path / "stranger").unlink()
    bay.install(engine_of(bay))
    bay.close()


def test_close_ends_the_tries(tmp_path: Path) -> None:
    before = threading.active_count()
    (tmp_path / "stranger").write_text("x")
    bay = bay_on(tmp_path)
    with pytest.raises(StorageError):
        bay.open()
    assert threading.active_count() == before + 1
    bay.close()
    assert threading.active_count() == before
