# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from memkv_core.errors import StorageError
from memkv_server import operations
from memkv_server.engine import SegmentEngine, open_engine


@pytest.fixture
def engine() -> SegmentEngine:
    return open_engine("memory", capacity_bytes=32 << 20)


def test_an_operation_gets_the_engine_and_its_arguments(engine: SegmentEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def records(of: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"records": of.usage()["records"], **arguments}

    monkeypatch.setitem(operations.OPERATIONS, "records", records)
    assert operations.answer(engine, "records", {"a": 1}) == {"result": {"records": 0, "a": 1}}


def test_a_refusal_comes_back_in_words(engine: SegmentEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_engine: Any, _arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        raise StorageError("/srv/a is not here", remedy="mount it")

    monkeypatch.setitem(operations.OPERATIONS, "refuse", refuse)
    assert operations.answer(engine, "refuse", {}) == {"error": "/srv/a is not here; mount it"}
    assert "knows no operation 'other'" in operations.answer(engine, "other", {})["error"]


def test_namespaces_are_listed_and_dropped(engine: SegmentEngine) -> None:
    engine.open_namespace("n", b"")
    listed = operations.answer(engine, "list_namespaces", {"after": ""})["result"]["namespaces"]
    assert [row["name"] for row in listed] == ["n"]
    assert operations.answer(engine, "drop_namespace", {"name": "n"})["result"]["dropped"]["records"] == 0
    assert operations.answer(engine, "drop_namespace", {"name": "n"}) == {"result": {"dropped": None}}
