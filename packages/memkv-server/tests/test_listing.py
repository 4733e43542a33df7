# SPDX-License-Identifier: Apache-2.0
"""Keys are listed piece by piece: each once, whatever the mode, and what is not the namespace's never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import DriveSet, listing
from memkv_server.engine.durability import Level

CAPACITY, SEGMENT = 16 << 20, 1 << 20
VALUES = {b"k%03d" % number: block(number, 3000 + number) for number in range(400)}


def opened(mode: str, folder: Path, drives: int) -> DriveSet:
    places = [{"path": str(folder / f"d{number}"), "capacity_bytes": CAPACITY} for number in range(drives)]
    return DriveSet.over(mode, places if mode != "memory" else [], CAPACITY, SEGMENT, Level.RELAXED)


def listed(engine: DriveSet, name: str = "n", prefix: bytes = b"", count: int = 96) -> tuple[list[dict[str, Any]], int]:
    """Every row, and how many pieces it took."""
    rows: list[dict[str, Any]] = []
    drive: int | None = 0
    after, pieces = b"", 0
    while drive is not None:
        piece = engine.list_keys(name, drive, after, prefix, count)
        assert piece is not None
        assert len(piece.rows) <= count
        rows += piece.rows
        drive, after, pieces = piece.drive, piece.after, pieces + 1
        assert pieces < 5000, "every piece gets further"
    return rows, pieces


@pytest.mark.parametrize(("mode", "drives"), [("memory", 1), ("file", 1), ("file", 3), ("direct", 1)])
@pytest.mark.parametrize("piece_s", [10.0, 0.0])
def test_every_key_once(
    tmp_path: Path, mode: str, drives: int, piece_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LIST_PIECE_S", piece_s)  # 0: each piece ends after one record
    engine = opened(mode, tmp_path, drives)
    namespace, other = engine.open_namespace("n", b""), engine.open_namespace("other", b"")
    put(engine, namespace, VALUES)
    put(engine, other, {b"not mine": b"x"})
    before = engine.usage()
    rows, pieces = listed(engine)
    assert {bytes.fromhex(row["key"]): row["size"] for row in rows} == {key: len(VALUES[key]) for key in VALUES}
    assert len(rows) == len(VALUES)
    assert pieces > 100 or piece_s
    assert len(listed(engine, prefix=b"k39")[0]) == 10
    assert [row["key"] for row in listed(engine, "other")[0]] == [b"not mine".hex()]
    after = engine.usage()
    assert [row["hits"] for row in after["namespaces"]] == [row["hits"] for row in before["namespaces"]]
    assert get(engine, namespace, list(VALUES)) == list(VALUES.values())
    engine.close()


def test_a_namespace_that_is_not_known_or_dropped(tmp_path: Path) -> None:
    engine = opened("file", tmp_path, 2)
    put(engine, engine.open_namespace("n", b""), VALUES)
    engine.drop_namespace("n")
    assert engine.list_keys("n", 0, b"", b"", 10) is None
    assert engine.describe_namespace("n") is None
    put(engine, engine.open_namespace("n", b'{"a":1}'), {b"new": b"x"})
    assert [row["key"] for row in listed(engine)[0]] == [b"new".hex()]
    assert engine.describe_namespace("n") == {"name": "n", "identity": '{"a":1}'}
    engine.close()


def test_what_comes_and_goes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LIST_PIECE_RECORDS", 7)
    engine = opened("file", tmp_path, 1)
    namespace = engine.open_namespace("n", b"")
    assert namespace is not None
    put(engine, namespace, VALUES)
    keys = list(VALUES)
    kept, rows, after = set(keys[200:]), [], b""
    for step in range(10_000):
        piece = engine.list_keys("n", 0, after, b"", 5)
        assert piece is not None
        rows += [bytes.fromhex(row["key"]) for row in piece.rows]
        if piece.drive is None:
            break
        after = piece.after
        engine.delete(namespace, [keys[step % 200]])
        put(engine, namespace, {b"new%d" % step: b"x" * 100})
    assert len(rows) == len(set(rows))
    assert kept <= set(rows)
    engine.close()
