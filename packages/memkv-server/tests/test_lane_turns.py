# SPDX-License-Identifier: Apache-2.0
"""In which order a lane serves its connections in a round, and how much each may move in its turn."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core import wire
from memkv_core.digests import digest
from memkv_core.limits import WINDOW_BYTES
from memkv_core.testing.raw_client import RawClient
from memkv_core.wire import Opcode
from memkv_server.engine import DriveSet
from memkv_server.engine.durability import Level
from memkv_server.lane import Lane
from memkv_server.limits import ASKED_S, CROWDED_TURN_BYTES
from memkv_server.testing.local_lane import LocalLane

KEY = bytes(range(32))
NOW_S = 1000.0


class Connected:
    """Stands for a connection; its turns are noted."""

    closed = False
    mask = select.EPOLLIN

    def __init__(self, lane: Lane, name: str, turns: list[tuple[str, int]], *, bulk: bool) -> None:
        self.sock, self._theirs = socket.socketpair()
        self.fd, self.name, self.bulk = self.sock.fileno(), name, bulk
        self._lane, self._turns = lane, turns
        connections: dict[int, Any] = lane._connections
        connections[self.fd] = self
        lane._masks[self.fd] = self.mask

    def on_event(self, now_s: float) -> None:
        self._turns.append((self.name, self._lane.context.turn_bytes))

    def close(self) -> None:
        self.sock.close()
        self._theirs.close()


@pytest.fixture
def lane() -> Iterator[Lane]:
    engine = DriveSet.over("memory", [], 64 << 20, None, Level.RELAXED)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lane = Lane(theirs, engine, {"auth_keys": [KEY.hex()], "lane": 0, "lane_count": 1, "limits": {}})
    yield lane
    for connection in list(lane._connections.values()):
        connection.close()
    engine.close()
    ours.close()
    theirs.close()


def test_a_turn_is_short_while_others_ask(lane: Lane) -> None:
    turns: list[tuple[str, int]] = []
    mover, asker = Connected(lane, "mover", turns, bulk=True), Connected(lane, "asker", turns, bulk=False)

    def serve(*connections: Connected, at_s: float) -> list[tuple[str, int]]:
        turns.clear()
        lane._serve([(each.fd, select.EPOLLIN) for each in connections], at_s)
        return list(turns)

    assert serve(mover, at_s=NOW_S) == [("mover", WINDOW_BYTES)], "nobody else is there"
    assert serve(mover, asker, at_s=NOW_S) == [("asker", CROWDED_TURN_BYTES), ("mover", CROWDED_TURN_BYTES)]
    assert serve(mover, at_s=NOW_S + ASKED_S / 2) == [("mover", CROWDED_TURN_BYTES)], "the asker may ask again"
    assert serve(mover, at_s=NOW_S + 2 * ASKED_S) == [("mover", WINDOW_BYTES)]
    assert serve(asker, at_s=NOW_S + 3 * ASKED_S) == [("asker", WINDOW_BYTES)]
    asker.bulk = True
    assert serve(asker, at_s=NOW_S + 3 * ASKED_S) == [("asker", WINDOW_BYTES)], "what it asked itself is no reason"
    lane._forget(asker)  # type: ignore[arg-type]
    assert serve(mover, at_s=NOW_S + 3 * ASKED_S) == [("mover", WINDOW_BYTES)], "who asked is gone"


def test_who_moved_last_comes_after_those_who_ask(tmp_path: Path) -> None:
    lane = LocalLane(tmp_path, KEY, mode="memory")
    client = RawClient(lane.address, KEY)
    try:
        (connection,) = lane.lane._connections.values()
        seen = [connection.bulk]
        keys, value = wire.encode_keys([b"key"]), b"value"
        put = wire.encode_put([b"key"], [5], [digest([memoryview(value)], wire.DigestKind.XXH3_128)], None)
        for opcode, metadata, payload in (
            (Opcode.PUT, put, value),
            (Opcode.EXISTS, keys, b""),
            (Opcode.GET, wire.encode_get([b"key"], [5]), b""),
            (Opcode.LOOKUP, keys, b""),
        ):
            client.request(opcode, metadata, payload, count=1)
            seen.append(connection.bulk)
        assert seen == [False, True, False, True, False]
    finally:
        client.close()
        lane.stop()
