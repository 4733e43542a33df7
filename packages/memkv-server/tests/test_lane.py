# SPDX-License-Identifier: Apache-2.0
"""A real lane over a drive whose syncs wait until the test lets them: who is answered when, and what is said."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memkv_core import wire
from memkv_core.digests import digest
from memkv_core.errors import StorageError
from memkv_core.testing.raw_client import RawClient
from memkv_core.wire import Opcode, Status
from memkv_server import limits
from memkv_server.engine import DriveSet
from memkv_server.engine.drive import FileDrive
from memkv_server.engine.durability import Level
from memkv_server.lane import Lane

KEY = bytes(range(32))
HIT, MISS, READ_ONLY = bytes([Status.HIT]), bytes([Status.MISS]), bytes([Status.READ_ONLY])


class Gate:
    """Stands in the way of every sync of a drive while it is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Semaphore(0)
        self.failure: str | None = None
        self.syncs = 0
        real = FileDrive.sync

        def sync(drive: FileDrive) -> None:
            self.begun.release()
            assert self.open.wait(30)
            self.syncs += 1
            if self.failure is not None:
                raise StorageError(self.failure)
            real(drive)

        monkeypatch.setattr(FileDrive, "sync", sync)

    def shut(self) -> None:
        while self.begun.acquire(blocking=False):
            pass
        self.open.clear()

    def wait_begun(self) -> None:
        assert self.begun.acquire(timeout=30)


class Running:
    """A lane in a thread, and clients of it."""

    def __init__(self, folder: Path, gate: Gate, level: Level = Level.STRICT) -> None:
        self.gate = gate
        drives = [{"path": str(folder), "capacity_bytes": 32 << 20}]
        self.engine = DriveSet.over("file", drives, 32 << 20, None, level)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        start = {"auth_keys": [KEY.hex()], "lane": 0, "lane_count": 1, "limits": {}}
        self.lane = Lane(theirs, self.engine, start)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=work) for work in (self.lane.run, self._accept)]
        for thread in self._threads:
            thread.start()
        self._clients: list[RawClient] = []
        self._theirs = theirs

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                sock, _ = self._server.accept()
                socket.send_fds(self._control, [json.dumps({"op": "adopt", "prefix": ""}).encode()], [sock.fileno()])
                sock.close()

    def client(self) -> RawClient:
        port = self._server.getsockname()[1]
        self._clients.append(RawClient(f"127.0.0.1:{port}", KEY, timeout_s=30))
        return self._clients[-1]

    def close(self) -> None:
        self.gate.open.set()
        for client in self._clients:
            client.close()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._control.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        self._control.close()
        self._theirs.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def running(tmp_path: Path, gate: Gate) -> Iterator[Running]:
    lane = Running(tmp_path / "store", gate)
    yield lane
    lane.close()


def put_frame(client: RawClient, key: bytes, value: bytes, request_id: int = 0) -> bytes:
    announced = digest([memoryview(value)], wire.DigestKind.XXH3_128)
    metadata = wire.encode_put([key], [len(value)], [announced], None)
    sealed = client.session.seal(
        Opcode.PUT, count=1, metadata=metadata, payload_bytes=len(value), request_id=request_id
    )
    return sealed + value


def frame(client: RawClient, opcode: Opcode, key: bytes, request_id: int = 0) -> bytes:
    return client.session.seal(opcode, count=1, metadata=wire.encode_keys([key]), request_id=request_id)


def is_silent(client: RawClient) -> bool:
    return select.select([client.sock], [], [], 0.05)[0] == []


def answer(client: RawClient) -> bytes:
    return client.receive_frame()[1]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def exists(client: RawClient, key: bytes) -> bool:
    return client.request(Opcode.EXISTS, wire.encode_keys([key]), count=1)[1] == HIT


def test_a_put_waits_for_the_medium_and_nobody_else_does(running: Running, gate: Gate) -> None:
    writer, reader = running.client(), running.client()
    assert writer.put(b"old", b"there") == Status.HIT
    gate.shut()
    writer.sock.sendall(put_frame(writer, b"new", b"value"))
    gate.wait_begun()
    for _ in range(20):
        assert reader.get(b"old") == b"there"
    assert is_silent(writer)
    gate.open.set()
    assert answer(writer) == HIT


def test_answers_of_one_connection_keep_their_order(running: Running, gate: Gate) -> None:
    client = running.client()
    gate.shut()
    client.sock.sendall(
        put_frame(client, b"k", b"value", 1)
        + frame(client, Opcode.EXISTS, b"k", 2)
        + client.session.seal(Opcode.GET, count=1, metadata=wire.encode_get([b"k"], [100]), request_id=3)
        + frame(client, Opcode.DELETE, b"k", 4)
        + client.session.seal(Opcode.PING, request_id=5)
    )
    gate.wait_begun()
    assert is_silent(client)
    gate.open.set()
    frames = [client.receive_frame() for _ in range(5)]
    assert [header.request_id for header, _, _ in frames] == [1, 2, 3, 4, 5]
    assert [frames[0][1], frames[1][1], frames[2][2], frames[3][1]] == [HIT, HIT, b"value", HIT]


def test_one_sync_serves_all_that_wait(running: Running, gate: Gate) -> None:
    clients = [running.client() for _ in range(16)]
    reader = running.client()
    gate.shut()
    before = gate.syncs
    for number, client in enumerate(clients):
        client.sock.sendall(put_frame(client, b"k%d" % number, b"value"))
    for number in range(16):
        wait_for(lambda: exists(reader, b"k%d" % number))  # noqa: B023
    assert all(is_silent(client) for client in clients)
    gate.open.set()
    assert [answer(client) for client in clients] == [HIT] * 16
    assert gate.syncs - before <= 2, "the one that had begun, and one for all the others"
    status = running.lane.status()["engine"]
    assert status["sync_requests"] == 16
    assert status["syncs"] == gate.syncs - before
    assert status["sync_seconds"] > 0


def test_what_rests_on_anothers_unsynced_write_waits_as_well(running: Running, gate: Gate) -> None:
    first, second, third = running.client(), running.client(), running.client()
    assert first.put(b"gone", b"value") == Status.HIT
    gate.shut()
    first.sock.sendall(put_frame(first, b"k", b"value") + frame(first, Opcode.DELETE, b"gone"))
    gate.wait_begun()
    wait_for(lambda: not exists(third, b"gone"))
    second.sock.sendall(put_frame(second, b"k", b"value"))
    third.sock.sendall(frame(third, Opcode.DELETE, b"gone"))
    assert is_silent(second)
    assert is_silent(third)
    gate.open.set()
    assert answer(second) == bytes([Status.PRESENT])
    assert answer(third) == MISS


def test_a_sync_that_fails_acknowledges_nothing(running: Running, gate: Gate) -> None:
    writer, other = running.client(), running.client()
    assert writer.put(b"old", b"there") == Status.HIT
    gate.shut()
    gate.failure = "the drive is on fire"
    writer.sock.sendall(put_frame(writer, b"new", b"value") + frame(writer, Opcode.DELETE, b"old"))
    gate.wait_begun()
    other.sock.sendall(put_frame(other, b"other", b"value"))
    assert is_silent(other)
    gate.open.set()
    assert [answer(writer), answer(writer), answer(other)] == [READ_ONLY] * 3
    drive = running.lane.status()["engine"]["drives"][0]
    assert (drive["state"], drive["failure"]) == ("read-only", "the drive is on fire")


def test_a_connection_that_dies_meanwhile_harms_nobody(running: Running, gate: Gate) -> None:
    dying, other = running.client(), running.client()
    gate.shut()
    dying.sock.sendall(
        put_frame(dying, b"k", b"value")
        + dying.session.seal(Opcode.GET, count=1, metadata=wire.encode_get([b"k"], [100]))
    )
    gate.wait_begun()
    wait_for(lambda: exists(other, b"k"))
    dying.close()
    wait_for(lambda: running.lane.status()["connections"] == 1)
    other.sock.sendall(put_frame(other, b"k2", b"value"))
    gate.open.set()
    assert answer(other) == HIT
    assert other.get(b"k") == b"value"
    wait_for(lambda: not running.lane.context.waiting)
    engine = running.engine._bays[0].engine
    assert engine is not None
    segments = engine._pool.segments
    wait_for(lambda: all(segment.pins == 0 for segment in segments))


def test_how_much_waits_for_one_connection_is_bounded(running: Running, gate: Gate) -> None:
    eager, other = running.client(), running.client()
    gate.shut()
    count = 3 * limits.PENDING_MAX
    eager.sock.sendall(b"".join(put_frame(eager, b"k%d" % number, b"value", number) for number in range(count)))
    gate.wait_begun()
    wait_for(lambda: exists(other, b"k%d" % (limits.PENDING_MAX - 1)))
    for _ in range(20):
        assert not exists(other, b"k%d" % limits.PENDING_MAX)
    gate.open.set()
    assert [eager.receive_frame()[0].request_id for _ in range(count)] == list(range(count))


def test_relaxed_waits_for_no_sync(tmp_path: Path, gate: Gate) -> None:
    lane = Running(tmp_path / "relaxed", gate, Level.RELAXED)
    try:
        client = lane.client()
        gate.shut()
        assert client.put(b"k", b"value") == Status.HIT
        assert client.request(Opcode.DELETE, wire.encode_keys([b"k"]), count=1)[1] == HIT
        assert lane.lane.status()["engine"]["syncs"] == 0
    finally:
        lane.close()


def test_a_drive_that_is_taken_down_fails_what_waits_for_it(running: Running, gate: Gate) -> None:
    client = running.client()
    gate.shut()
    client.sock.sendall(put_frame(client, b"k", b"value"))
    gate.wait_begun()
    engine = running.engine._bays[0].engine
    assert engine is not None
    for _ in range(20):  # the lane takes it down by itself when it finds this
        engine.health.read_failed("nothing can be read")
    assert answer(client) == READ_ONLY
    gate.open.set()
