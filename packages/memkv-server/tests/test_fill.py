# SPDX-License-Identifier: Apache-2.0
"""A store that is written ten times over: never above its bound, no put refused. How fast, ``memkv bench`` tells."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkv_core.limits import KIB, MIB
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import SegmentEngine, Status, open_engine
from memkv_server.engine.limits import REINSERT_SHARE_MAX

TURNS = 10
CAPACITY = 16 * MIB
SEGMENT = 512 * KIB
SIZES = (1, 100, 5_000, 70_000, 250_000)  # mixed: what is left over at the end of a segment differs each time
HOT = [b"hot%d" % number for number in range(20)]


def occupied_bytes(folder: Path) -> int:
    """What the files take of the disk, holes left out."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def keep_reading(engine: SegmentEngine, namespace: Any) -> None:
    """Some blocks are always wanted, and put again when they are gone: the eviction has something to copy."""
    for key, value in zip(HOT, get(engine, namespace, HOT), strict=True):
        if value is None:
            assert put(engine, namespace, {key: block(len(key), 20_000)}) == bytes([Status.HIT])


@pytest.mark.parametrize("idle", [True, False], ids=["with idle time", "never idle"])
@pytest.mark.parametrize("mode", ["file", "direct", "memory"])
def test_an_engine_takes_every_put_and_stays_within_its_bound(mode: str, idle: bool, tmp_path: Path) -> None:
    engine = open_engine(mode, None if mode == "memory" else tmp_path / "store", CAPACITY, SEGMENT)
    namespace = engine.open_namespace("n", b"{}")
    rng = random.Random(11)
    written = puts = 0
    while written < TURNS * CAPACITY:
        batch = {b"k%d/%d" % (puts, place): block(puts + place, rng.choice(SIZES)) for place in range(8)}
        assert put(engine, namespace, batch) == bytes([Status.HIT]) * 8
        written += sum(map(len, batch.values()))
        puts += 8
        if puts % 40 == 0:
            keep_reading(engine, namespace)
        while idle and engine.tick():
            pass
        usage = engine.usage()
        assert usage["live_bytes"] <= usage["used_bytes"] <= usage["capacity_bytes"] <= CAPACITY
        assert occupied_bytes(tmp_path) <= CAPACITY
        assert get(engine, namespace, list(batch)) == list(batch.values())
    assert usage["user_bytes"] >= written  # headers and padding count
    assert usage["evicted_segments"] >= (TURNS - 1) * usage["segments"]["total"]
    assert 0 < usage["reinserted_bytes"] <= REINSERT_SHARE_MAX * usage["user_bytes"]
    assert usage["corrupt_records"] == usage["unreadable_records"] == 0
    engine.close()


def test_a_node_takes_every_put_and_stays_within_its_bound(start_node: Callable[..., Any], tmp_path: Path) -> None:
    store = tmp_path / "store"
    node = start_node("--path", str(store), "--capacity", "64MiB")
    values = [block(number, 256 * KIB) for number in range(32)]
    with node.client() as client:
        for turn in range(TURNS):
            for batch in range(64 * MIB // (32 * 256 * KIB)):
                keys = [b"%d/%d/%d" % (turn, batch, number) for number in range(32)]
                assert client.put(keys, values, timeout_ms=60_000) == [True] * 32
                assert occupied_bytes(store) <= 64 * MIB
                assert client.exists(keys) == [True] * 32
            storage = node.status()["storage"]
            assert storage["used_bytes"] <= storage["capacity_bytes"] <= 64 * MIB
        targets = [bytearray(256 * KIB) for _ in range(32)]
        assert client.get(keys, targets) == [256 * KIB] * 32
        assert targets == values
    assert storage["evicted_records"] >= (TURNS - 2) * 64 * MIB // (256 * KIB)
