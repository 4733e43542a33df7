# SPDX-License-Identifier: Apache-2.0
"""One connection over a socket pair, with a real engine in memory: whole frames, torn frames, and what breaks rules."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from memkv_core import auth, digests, handshake, wire
from memkv_core.session import Session
from memkv_core.wire import ErrorCode, Flag, Header, Opcode, Status
from memkv_server import limits
from memkv_server.connection import Connection, Phase
from memkv_server.engine import open_engine
from memkv_server.handler import Handler
from memkv_server.lane_context import LaneContext

KEY = bytes(range(32))
MIB = 1024 * 1024


class Peer:
    """The client's end, driven by hand; ``turn`` is one turn of the lane's loop."""

    def __init__(self, context: LaneContext, *, namespace: str = "tests", identity: bytes = b"", open: bool = True):
        server, self.sock = socket.socketpair()
        server.setblocking(False)
        self.sock.settimeout(10)
        self.connection = Connection(server, b"", context, 0.0)
        self.session = Session.client(KEY, namespace=namespace, identity=identity)
        if open:
            self.shake_hands()

    def shake_hands(self) -> Header:
        self.sock.sendall(self.session.send_hello())
        self.turn(2)
        self.session.receive_message(self.read_message())
        self.sock.sendall(self.session.send_proof())
        self.turn(2)
        return self.read_frame()[0]

    def turn(self, count: int = 1, now_s: float = 0.0) -> None:
        for _ in range(count):
            if not self.connection.closed:
                self.connection.on_event(now_s)

    def read_message(self) -> bytes:
        prefix = self.read(handshake.PREFIX_BYTES)
        return prefix + self.read(handshake.decode_prefix(prefix).body_bytes)

    def read_frame(self) -> tuple[Header, bytes]:
        head = self.read(wire.HEADER_BYTES)
        header = wire.decode_header(head)
        metadata, tag = self.read(header.metadata_bytes), self.read(wire.TAG_BYTES)
        self.session.open(header, head + metadata, tag)
        return header, metadata

    def read(self, size: int) -> bytes:
        """Takes turns until so many bytes have come."""
        data = bytearray()
        while len(data) < size:
            self.sock.setblocking(False)
            try:
                got = self.sock.recv(size - len(data))
            except BlockingIOError:
                assert not self.connection.closed
                self.turn()
                continue
            finally:
                self.sock.settimeout(10)
            assert got, "closed"
            data += got
        return bytes(data)

    def ask(self, opcode: int, *, count: int = 0, metadata: bytes = b"", flags: int = 0) -> tuple[Header, bytes]:
        self.sock.sendall(self.session.seal(opcode, count=count, metadata=metadata, flags=flags, request_id=7))
        return self.read_frame()

    def put_frame(self, values: dict[bytes, bytes]) -> bytes:
        keys, blocks = list(values), list(values.values())
        marks = [digests.digest([memoryview(block)], 0) for block in blocks]
        metadata = wire.encode_put(keys, [len(block) for block in blocks], marks, None)
        size = sum(map(len, blocks))
        return self.session.seal(Opcode.PUT, count=len(keys), metadata=metadata, payload_bytes=size)

    def send(self, data: bytes) -> None:
        """Sends all of it, as the connection takes it."""
        left = memoryview(data)
        while left:
            self.sock.setblocking(False)
            try:
                left = left[self.sock.send(left[:MIB]) :]
            except BlockingIOError:
                assert not self.connection.closed
            self.sock.settimeout(10)
            self.turn()

    def put(self, values: dict[bytes, bytes]) -> bytes:
        """One PUT; the statuses."""
        self.send(self.put_frame(values) + b"".join(values.values()))
        return self.read_frame()[1]

    def get(self, keys: list[bytes], capacity: int) -> tuple[wire.GetResponse, bytes]:
        header, metadata = self.ask(Opcode.GET, count=len(keys), metadata=wire.encode_get(keys, [capacity] * len(keys)))
        return wire.decode_get_response(metadata, header), self.read(header.payload_bytes)


Connect = Callable[..., Peer]


@pytest.fixture
def context() -> Iterator[LaneContext]:
    engine = open_engine("memory", None, 64 * MIB)
    yield LaneContext(Handler(engine), auth.Keyring([KEY]), 0, 1)
    engine.close()


@pytest.fixture
def connect(context: LaneContext) -> Iterator[Connect]:
    """Makes peers, and closes both of their ends when the test is over."""
    peers: list[Peer] = []

    def make(**options: Any) -> Peer:
        peers.append(Peer(context, **options))
        return peers[-1]

    yield make
    for peer in peers:
        peer.connection.close()
        peer.sock.close()


@pytest.fixture
def peer(connect: Connect) -> Peer:
    return connect()


def test_put_get_exists_lookup_delete_verify(peer: Peer) -> None:
    values = {b"a": os.urandom(100), b"b": os.urandom(70_000), b"empty": b""}
    assert peer.put(values) == bytes([Status.HIT] * 3)
    assert peer.put(values) == bytes([Status.PRESENT] * 3)
    response, payload = peer.get([b"b", b"nope", b"a", b"empty"], 70_000)
    assert response.statuses == bytes([Status.HIT, Status.MISS, Status.HIT, Status.HIT])
    assert payload == values[b"b"] + values[b"a"]
    keys = wire.encode_keys([b"a", b"nope"])
    assert peer.ask(Opcode.EXISTS, count=2, metadata=keys)[1] == bytes([Status.HIT, Status.MISS])
    assert peer.ask(Opcode.LOOKUP, count=2, metadata=keys)[1] == (1).to_bytes(4, "little")
    assert peer.ask(Opcode.VERIFY, count=2, metadata=keys)[1] == bytes([Status.HIT, Status.MISS])
    assert peer.ask(Opcode.DELETE, count=2, metadata=keys)[1] == bytes([Status.HIT, Status.MISS])
    assert peer.ask(Opcode.EXISTS, count=2, metadata=keys)[1] == bytes([Status.MISS, Status.MISS])
    assert peer.ask(Opcode.PING)[0].request_id == 7
    assert b"records" in peer.ask(Opcode.STAT)[1]


def test_too_long_for_the_target(peer: Peer) -> None:
    assert peer.put({b"k": bytes(1000)}) == bytes([Status.HIT])
    response, payload = peer.get([b"k"], 999)
    assert response.statuses == bytes([Status.TOO_LONG])
    assert payload == b""


def test_a_byte_at_a_time(peer: Peer) -> None:
    value = os.urandom(300)
    for byte in peer.put_frame({b"slow": value}) + value:
        peer.sock.sendall(bytes([byte]))
        peer.turn()
    assert peer.read_frame()[1] == bytes([Status.HIT])
    assert peer.get([b"slow"], 300)[1] == value


def test_many_frames_in_one_piece(peer: Peer) -> None:
    """Pipelined requests, a PUT with its payload among them, are answered in order."""
    value = os.urandom(500)
    keys = wire.encode_keys([b"k"])
    frames = b"".join(
        [
            *(peer.session.seal(Opcode.EXISTS, count=1, metadata=keys, request_id=number) for number in range(40)),
            peer.put_frame({b"k": value}),
            value,
            *(peer.session.seal(Opcode.EXISTS, count=1, metadata=keys, request_id=number) for number in range(40)),
        ]
    )
    peer.sock.sendall(frames)
    answers = [peer.read_frame() for _ in range(81)]
    assert [header.request_id for header, _ in answers] == [*range(40), 0, *range(40)]
    assert [metadata for _, metadata in answers] == [b"\0"] * 40 + [b"\1"] * 41


def test_a_large_lookup_and_the_buffer_after_it(peer: Peer) -> None:
    keys = [b"key-%060d" % number for number in range(4096)]
    peer.send(peer.session.seal(Opcode.LOOKUP, count=4096, metadata=wire.encode_keys(keys)))
    assert peer.read_frame()[1] == bytes(4)
    assert peer.connection._inbound.buffer_bytes <= limits.HEAD_BYTES
    assert peer.put({b"after": b"it"}) == bytes([Status.HIT])


def test_a_slow_reader_is_not_read_from(peer: Peer, context: LaneContext) -> None:
    value = os.urandom(3 * MIB)
    assert peer.put({b"big": value}) == bytes([Status.HIT])
    peer.sock.sendall(peer.session.seal(Opcode.GET, count=1, metadata=wire.encode_get([b"big"], [len(value)])))
    peer.sock.sendall(peer.session.seal(Opcode.PING))
    peer.turn(3)
    assert peer.connection.bulk, "half sent"
    header, metadata = peer.read_frame()
    assert wire.decode_get_response(metadata, header).statuses == bytes([Status.HIT])
    assert peer.read(len(value)) == value
    assert peer.read_frame()[0].opcode == Opcode.PING
    assert peer.connection.idle


def test_closed_in_the_middle_of_a_payload(connect: Connect) -> None:
    """Nothing of it is visible, its space is free again, and others go on."""
    other = connect()
    for _ in range(60):  # 60 × 3 MiB in a store of 64: an abandoned reservation that held its space would show
        peer = connect()
        value = bytes(3 * MIB)
        peer.sock.sendall(peer.put_frame({b"torn": value}) + value[: 100 * 1024])
        peer.turn(3)
        assert peer.connection.phase is Phase.PAYLOAD
        peer.sock.close()
        peer.turn(3)
        assert peer.connection.closed
    assert other.ask(Opcode.EXISTS, count=1, metadata=wire.encode_keys([b"torn"]))[1] == bytes([Status.MISS])
    assert other.put({b"torn": b"whole"}) == bytes([Status.HIT])


def test_a_reader_that_goes_away_unpins(connect: Connect) -> None:
    writer = connect()
    block = os.urandom(2 * MIB)
    assert writer.put({b"pinned": block}) == bytes([Status.HIT])
    for _ in range(40):
        reader = connect()
        reader.sock.sendall(reader.session.seal(Opcode.GET, count=1, metadata=wire.encode_get([b"pinned"], [2 * MIB])))
        reader.turn(2)
        reader.connection.close()
        reader.sock.close()
    for number in range(60):  # the store turns over: no segment is pinned any more
        assert writer.put({b"%d" % number: os.urandom(2 * MIB)}) == bytes([Status.HIT])


def test_wrong_bytes_are_not_stored(peer: Peer) -> None:
    frame = peer.put_frame({b"k": b"announced"})
    peer.sock.sendall(frame + b"delivered")
    peer.turn(3)
    assert peer.read_frame()[1] == bytes([Status.BAD_DIGEST])
    assert peer.ask(Opcode.EXISTS, count=1, metadata=wire.encode_keys([b"k"]))[1] == bytes([Status.MISS])


@pytest.mark.parametrize("wrong", [0, 3, 7])
def test_wrong_bytes_among_right_ones_in_many_pieces(peer: Peer, wrong: int) -> None:
    values = {b"k%d" % number: os.urandom(40_000) for number in range(8)}
    delivered = bytearray(b"".join(values.values()))
    delivered[wrong * 40_000 + 39_999] ^= 1
    peer.sock.sendall(peer.put_frame(values))
    for at in range(0, len(delivered), 50_000):
        peer.sock.sendall(delivered[at : at + 50_000])
        peer.turn(2)
    expected = [Status.BAD_DIGEST if number == wrong else Status.HIT for number in range(8)]
    assert peer.read_frame()[1] == bytes(expected)


def test_an_operation_that_is_not_known_goes_on(peer: Peer) -> None:
    for opcode in (0x7F, Opcode.REGISTER_REGION, Opcode.CONNECT_RDMA):
        header, metadata = peer.ask(opcode)
        assert header.flags & Flag.ERROR
        assert wire.decode_error(metadata)[0] == ErrorCode.UNSUPPORTED_OPCODE
    assert peer.ask(Opcode.PING)[0].opcode == Opcode.PING


@pytest.mark.parametrize(
    "broken",
    [
        {"opcode": Opcode.EXISTS, "count": 2, "metadata": wire.encode_keys([b"one"])},
        {"opcode": Opcode.EXISTS, "count": 1, "metadata": wire.encode_keys([b"one"]), "payload_bytes": 5},
        {"opcode": Opcode.PUT, "count": 1, "metadata": wire.encode_put([b"k"], [4], [bytes(16)], None)},
        {"opcode": Opcode.PING, "flags": Flag.RESPONSE},
        {"opcode": Opcode.GET, "count": 1, "metadata": b""},
    ],
)
def test_a_frame_that_breaks_a_rule_ends_the_session(
    context: LaneContext, connect: Connect, broken: dict[str, int]
) -> None:
    peer = connect()
    peer.sock.sendall(peer.session.seal(**broken))  # type: ignore[arg-type]
    peer.turn(2)
    assert peer.connection.closed
    assert context.errors["protocol"] == 1
    assert peer.sock.recv(1) == b""


def test_a_frame_that_was_altered_ends_the_session(context: LaneContext, connect: Connect) -> None:
    peer = connect()
    frame = bytearray(peer.session.seal(Opcode.EXISTS, count=1, metadata=wire.encode_keys([b"key"])))
    frame[wire.HEADER_BYTES + 3] ^= 1
    peer.sock.sendall(frame)
    peer.turn(2)
    assert peer.connection.closed
    assert context.errors["auth"] == 1


def test_another_identity_is_refused_in_the_session(context: LaneContext, connect: Connect) -> None:
    connect(namespace="pinned", identity=b'{"dtype":"bf16"}')
    peer = connect(namespace="pinned", identity=b'{"dtype":"fp16"}', open=False)
    header = peer.shake_hands()
    assert header.flags & Flag.ERROR
    peer.turn(2)
    assert peer.connection.closed
    assert context.errors["identity"] == 1


def _refused(connect: Connect) -> int:
    peer = connect(open=False)
    peer.sock.sendall(peer.session.send_hello())
    peer.turn(2)
    assert peer.connection.closed
    return handshake.decode_prefix(peer.sock.recv(1024)).c


def test_refusals(context: LaneContext, connect: Connect) -> None:
    context.crowded = lambda: True
    assert _refused(connect) == ErrorCode.BUSY
    context.draining = True
    assert _refused(connect) == ErrorCode.DRAINING
    context.keyring = auth.Keyring([bytes(32)])
    assert _refused(connect) == ErrorCode.AUTH_FAILED


def test_what_stalls_is_closed(context: LaneContext, connect: Connect) -> None:
    silent = connect(open=False)
    idle, half = connect(), connect()
    half.sock.sendall(half.put_frame({b"k": bytes(100)}) + bytes(50))
    half.turn(2)
    for peer in (silent, idle, half):
        peer.connection.check(limits.HANDSHAKE_S - 0.1)
        assert not peer.connection.closed
        peer.connection.check(limits.HANDSHAKE_S + 0.1)
    assert [silent.connection.closed, idle.connection.closed, half.connection.closed] == [True, False, False]
    for peer in (idle, half):
        peer.connection.check(limits.STALL_S + 0.1)
    assert [idle.connection.closed, half.connection.closed] == [False, True]
    assert context.errors["stalled"] == 2
