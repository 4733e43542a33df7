# SPDX-License-Identifier: Apache-2.0
"""The client against what is no MemKV server, or one that breaks the rules after a good handshake.

Whatever it does, a call returns misses by its deadline, writes to no target that it calls a miss without reason, and
raises nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from memkv_core import handshake, limits, wire
from memkv_core.auth import Keyring
from memkv_core.calls import GetCall, KeysCall
from memkv_core.client import Client
from memkv_core.config import ClientConfig
from memkv_core.digests import digest
from memkv_core.errors import RefusedError
from memkv_core.session import Session
from memkv_core.transports.base import Route
from memkv_core.transports.tcp import TCPTransport
from memkv_core.wire import ErrorCode, Flag, Header, Opcode, Status

KEY = bytes(range(32))
MakeConfig = Callable[..., ClientConfig]
DEADLINE_MS = 1000
LATEST_S = 5.0
POISON = b"\xa5"
VALUE = random.Random(1).randbytes(200_000)


class Rogue:
    """Listens on 127.0.0.1 and has ``behave(sock, number)`` deal with each connection, on a thread of its own."""

    def __init__(self, behave: Callable[[socket.socket, int], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.stopping = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with sock, contextlib.suppress(OSError, EOFError):  # the client closed: what it should do
            self._behave(sock, number)

    def stop(self) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # closed already
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


class Peer:
    """The server's side of a session over a blocking socket, up to the point where it is to misbehave."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.session = Session.server(Keyring([KEY]))

    def receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _message(self) -> None:
        prefix = self.receive(handshake.PREFIX_BYTES)
        self.session.receive_message(prefix + self.receive(handshake.decode_prefix(prefix).body_bytes))

    def prove(self) -> None:
        """The handshake up to the client's PROOF."""
        self._message()
        assert self.session.refusal_of_hello() is None
        self.sock.sendall(self.session.send_challenge(0))
        self._message()

    def welcome(self, metadata: bytes | None = None, flags: int = Flag.RESPONSE, opcode: int = Opcode.WELCOME) -> None:
        good = json.dumps({"version": "x", "lane": 0, "lanes": 1}).encode()
        self.sock.sendall(self.session.seal(opcode, metadata=good if metadata is None else metadata, flags=flags))

    def request(self) -> tuple[Header, bytes]:
        """The next request; its payload is read and dropped."""
        head = self.receive(wire.HEADER_BYTES)
        header = wire.decode_header(head)
        metadata, tag = self.receive(header.metadata_bytes), self.receive(wire.TAG_BYTES)
        self.session.open(header, head + metadata, tag)
        self.receive(header.payload_bytes)
        return header, metadata

    def respond(self, request: Header, metadata: bytes, payload: bytes = b"", **changes: Any) -> None:
        """An answer to a request, with some of its fields changed."""
        fields = {
            "opcode": request.opcode,
            "count": request.key_count,
            "flags": Flag.RESPONSE,
            "request_id": request.request_id,
            "payload_bytes": len(payload),
        }
        self.sock.sendall(self.session.seal(metadata=metadata, **(fields | changes)) + payload)


def opened(sock: socket.socket) -> Peer:
    peer = Peer(sock)
    peer.prove()
    peer.welcome()
    return peer


def hit(value: bytes = VALUE, kind: int = 0, metas: list[bytes] | None = None) -> bytes:
    """A GET response of one key that is there."""
    return wire.encode_get_response(bytes([Status.HIT]), bytes([kind]), [len(value)], [digest_of(value)], metas)


def digest_of(value: bytes) -> bytes:
    return digest([memoryview(value)], 0)


@pytest.fixture
def client_of(make_config: MakeConfig) -> Iterator[Callable[..., Client]]:
    """Makes a client of a server that behaves as given."""
    made: list[tuple[Rogue, Client]] = []

    def make(behave: Callable[[socket.socket, int], None], **settings: Any) -> Client:
        rogue = Rogue(behave)
        made.append((rogue, Client(make_config(rogue.address, **({"timeout_ms": DEADLINE_MS} | settings)))))
        return made[-1][1]

    yield make
    for rogue, client in made:
        client.close()
        rogue.stop()


def misses(client: Client, *, forgiving: bool = False) -> set[str]:
    """Asks everything once: nothing hits, nothing raises, all ends in time. The causes that were counted.

    With ``forgiving`` the breaker is closed before each call, so that each is really made.
    """
    started_s = time.monotonic()
    target = bytearray(POISON * len(VALUE))
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: client.get(["k"], [target]), [None]),
        (lambda: client.exists(["k"]), [False]),
        (lambda: client.put(["k"], [b"v"]), [False]),
        (lambda: client.lookup(["k"]), 0),
        (lambda: client.delete(["k"]), [False]),
    ]
    for call, miss in calls:
        if forgiving:
            client._fleet.success(client.servers[0])
        assert call() == miss
    assert target == POISON * len(target)
    assert time.monotonic() - started_s < LATEST_S
    return set(client.stats().misses)


# -- no MemKV server at all -------------------------------------------------------------------------------------------
def http(sock: socket.socket, number: int) -> None:
    sock.recv(4096)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def greeting(sock: socket.socket, number: int) -> None:
    sock.sendall(b"220 mail.example ESMTP ready for whatever you may have to say\r\n")
    sock.recv(4096)


def noise(sock: socket.socket, number: int) -> None:
    sock.sendall(random.Random(number).randbytes(100_000))


def hang_up(sock: socket.socket, number: int) -> None:
    """At once."""


def hang_up_after_hello(sock: socket.socket, number: int) -> None:
    sock.recv(4096)


def echo(sock: socket.socket, number: int) -> None:
    while data := sock.recv(4096):
        sock.sendall(data)


def huge_body(sock: socket.socket, number: int) -> None:
    sock.sendall(handshake.PREFIX.pack(b"MKVC", 1, 0, 0, 0xFFFFFFFF, 0))
    sock.recv(4096)


def wrong_proof(sock: socket.socket, number: int) -> None:
    sock.recv(4096)
    sock.sendall(handshake.encode_challenge(1, 0, bytes(32), bytes(32)))
    sock.recv(4096)


@pytest.mark.parametrize(
    ("behave", "cause"),
    [
        (http, "unreachable"),
        (greeting, "unreachable"),
        (noise, "unreachable"),
        (hang_up, "unreachable"),
        (hang_up_after_hello, "unreachable"),
        (echo, "unreachable"),
        (huge_body, "unreachable"),
        (wrong_proof, "refused"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_no_memkv_server(client_of: Callable[..., Client], behave: Callable[..., None], cause: str) -> None:
    client = client_of(behave)
    assert misses(client) == {cause}
    assert client.stats().breaker_opened == 1


def test_silence(client_of: Callable[..., Client]) -> None:
    """It takes all that comes and never says a word: one deadline, then nothing."""

    def behave(sock: socket.socket, number: int) -> None:
        while sock.recv(65536):
            pass

    assert misses(client_of(behave)) == {"timeout"}


# -- a handshake that goes wrong at its end ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "welcome",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        b"{}",
        b'{"lane": 0, "lanes": 0}',
        b'{"lane": 0, "lanes": "2"}',
        b'{"lane": 0, "lanes": 1000000000}',
        b'{"lane": 5, "lanes": 2}',
        b'{"lane": -1, "lanes": 2}',
        b'{"lane": "x", "lanes": 2}',
        b'{"lane": [0], "lanes": 2}',
        b'{"lane": null, "lanes": 2}',
        b'{"lane": 0, "lanes": 1e400}',
        b"[" * 100_000,
    ],
    ids=lambda welcome: repr(welcome[:36]),
)
def test_a_welcome_that_makes_no_sense(client_of: Callable[..., Client], welcome: bytes) -> None:
    def behave(sock: socket.socket, number: int) -> None:
        peer = Peer(sock)
        peer.prove()
        peer.welcome(welcome)
        peer.request()

    assert misses(client_of(behave)) == {"unreachable"}


def test_a_first_frame_that_is_no_welcome(client_of: Callable[..., Client]) -> None:
    def behave(sock: socket.socket, number: int) -> None:
        peer = Peer(sock)
        peer.prove()
        peer.sock.sendall(wire.encode_header(Opcode.PING, 1, 0, 0, 0, 0, 0) + bytes(32))
        peer.request()

    assert misses(client_of(behave)) == {"unreachable"}


@pytest.mark.parametrize("code", [ErrorCode.IDENTITY_MISMATCH, ErrorCode.STORAGE, 999])
def test_a_welcome_that_refuses(client_of: Callable[..., Client], code: int, caplog: pytest.LogCaptureFixture) -> None:
    def behave(sock: socket.socket, number: int) -> None:
        peer = Peer(sock)
        peer.prove()
        peer.welcome(wire.encode_error(code, "because of that"), Flag.RESPONSE | Flag.ERROR)

    assert misses(client_of(behave)) == {"refused"}
    assert "because of that" in caplog.text


@pytest.mark.parametrize("code", [ErrorCode.AUTH_FAILED, ErrorCode.BUSY, ErrorCode.DRAINING, 999])
def test_a_refusal(client_of: Callable[..., Client], code: int, caplog: pytest.LogCaptureFixture) -> None:
    def behave(sock: socket.socket, number: int) -> None:
        peer = Peer(sock)
        peer._message()
        sock.sendall(peer.session.send_refusal(code, "because of that"))

    assert misses(client_of(behave)) == {"refused"}
    assert "because of that" in caplog.text


# -- answers that break the rules -------------------------------------------------------------------------------------
def answering(change: Callable[[Peer, Header], None]) -> Callable[[socket.socket, int], None]:
    """A server that opens sessions and answers each request by ``change``."""

    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        while True:
            header, _ = peer.request()
            change(peer, header)

    return behave


STATUSES = {Opcode.PUT: b"\1", Opcode.EXISTS: b"\1", Opcode.DELETE: b"\1", Opcode.LOOKUP: b"\1\0\0\0"}


def good(header: Header) -> tuple[bytes, bytes]:
    """(metadata, payload) of a plain success."""
    if header.opcode == Opcode.GET:
        return hit(), VALUE
    return STATUSES.get(Opcode(header.opcode), b"\1"), b""


def test_the_good_answers_are_good(client_of: Callable[..., Client]) -> None:
    """Else the tests below would prove nothing."""
    client = client_of(answering(lambda peer, header: peer.respond(header, *good(header))))
    target = bytearray(len(VALUE))
    assert client.get(["k"], [target]) == [len(VALUE)]
    assert target == VALUE
    assert (client.exists(["k"]), client.put(["k"], [b"v"]), client.delete(["k"])) == ([True], [True], [True])
    assert client.lookup(["k"]) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 0},
        {"count": 2},
        {"request_id": 77},
        {"opcode": Opcode.PING},
        {"opcode": 0xFF},
        {"opcode": Opcode.WELCOME - 1},
        {"flags": 0},
        {"flags": Flag.RESPONSE | Flag.META},
        {"flags": Flag.RESPONSE | Flag.ERROR, "payload_bytes": 10},
        {"payload_bytes": len(VALUE) - 1},
        {"payload_bytes": len(VALUE) + 1},
        {"metadata": b""},
        {"metadata": b"\1" * 1000},
    ],
    ids=repr,
)
def test_answers_that_do_not_fit(client_of: Callable[..., Client], changes: dict[str, Any]) -> None:
    def change(peer: Peer, header: Header) -> None:
        metadata, payload = good(header)
        fields = dict(changes)
        if "flags" in fields and fields["flags"] == Flag.RESPONSE | Flag.META and header.opcode != Opcode.GET:
            fields["count"] = 9  # the flag means nothing to the others
        peer.respond(header, fields.pop("metadata", metadata), payload, **fields)

    assert misses(client_of(answering(change)), forgiving=True) <= {"unreachable", "timeout", "refused"}


@pytest.mark.parametrize("where", ["header", "metadata", "tag"])
def test_answers_that_were_altered_on_the_way(client_of: Callable[..., Client], where: str) -> None:
    def change(peer: Peer, header: Header) -> None:
        metadata, payload = good(header)
        frame = bytearray(
            peer.session.seal(
                header.opcode,
                count=header.key_count,
                metadata=metadata,
                flags=Flag.RESPONSE,
                request_id=header.request_id,
                payload_bytes=len(payload),
            )
        )
        at = {"header": 6, "metadata": wire.HEADER_BYTES, "tag": -1}[where]
        frame[at] ^= 1
        peer.sock.sendall(frame + payload)

    assert misses(client_of(answering(change)), forgiving=True) == {"refused"}


def test_a_value_longer_than_its_target(client_of: Callable[..., Client]) -> None:
    client = client_of(answering(lambda peer, header: peer.respond(header, *good(header))))
    memory = bytearray(POISON * len(VALUE))
    assert client.get(["k"], [memoryview(memory)[:-1]]) == [None]
    assert memory == POISON * len(VALUE)


def test_meta_that_does_not_come(client_of: Callable[..., Client]) -> None:
    client = client_of(answering(lambda peer, header: peer.respond(header, *good(header))))
    assert client.get(["k"], [bytearray(len(VALUE))], with_meta=True) == [None]


@pytest.mark.parametrize("status", [Status.MISS, Status.TOO_LONG, Status.NO_SPACE, Status.BAD_DIGEST, 6, 7, 200, 255])
def test_statuses(client_of: Callable[..., Client], status: int) -> None:
    """Those that are known, and those of a server from the future."""

    def change(peer: Peer, header: Header) -> None:
        if header.opcode == Opcode.GET:
            metadata = wire.encode_get_response(bytes([status]), b"\0", [0], [bytes(16)], None)
        else:
            metadata = bytes([status]) if header.opcode != Opcode.LOOKUP else bytes(4)
        peer.respond(header, metadata)

    assert misses(client_of(answering(change)), forgiving=True) <= {"absent", "too_long", "corrupt", "refused"}


@pytest.mark.parametrize("code", [ErrorCode.LIMIT_EXCEEDED, ErrorCode.STORAGE, ErrorCode.INTERNAL, 999])
def test_error_frames(client_of: Callable[..., Client], code: int) -> None:
    """The session goes on: the next request is served on the same connection."""
    connections: set[int] = set()

    def behave(sock: socket.socket, number: int) -> None:
        connections.add(number)
        peer = opened(sock)
        for turn in itertools.count():
            header, _ = peer.request()
            if turn % 2 == 0:
                peer.respond(header, wire.encode_error(code, "no"), flags=Flag.RESPONSE | Flag.ERROR, count=0)
            else:
                peer.respond(header, *good(header))

    client = client_of(behave)
    for _ in range(3):
        target = bytearray(len(VALUE))
        assert client.get(["k"], [target]) == [None]
        assert client.get(["k"], [target]) == [len(VALUE)]
        assert target == VALUE
    assert client.stats().misses == {"refused": 3}
    assert connections == {0}


# -- payloads ---------------------------------------------------------------------------------------------------------
def test_a_byte_that_was_altered_in_the_payload(client_of: Callable[..., Client]) -> None:
    """A miss, counted as corrupt; the server is asked to look at its copy."""
    verified: list[bytes] = []
    altered = VALUE[:1000] + bytes([VALUE[1000] ^ 0x20]) + VALUE[1001:]

    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        while True:
            header, metadata = peer.request()
            if header.opcode == Opcode.VERIFY:
                verified.extend(wire.decode_keys(metadata, header.key_count))
                peer.respond(header, bytes([Status.HIT]))
            else:
                peer.respond(header, hit(), altered)

    client = client_of(behave)
    assert client.get(["k"], [bytearray(len(VALUE))]) == [None]
    assert verified == [b"k"]
    assert client.stats().misses == {"corrupt": 1}


@pytest.mark.parametrize("reset", [False, True])
def test_a_server_that_closes_in_the_middle_of_a_payload(client_of: Callable[..., Client], reset: bool) -> None:
    """The first two times; the call tries again and hits, within its deadline."""

    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        header, _ = peer.request()
        if number < 2:
            peer.respond(header, hit(), VALUE[: len(VALUE) // 2], payload_bytes=len(VALUE))
            if reset:  # RST in place of FIN
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            peer.respond(header, *good(header))
            peer.request()

    client = client_of(behave, timeout_ms=20_000)
    target = bytearray(len(VALUE))
    assert client.get(["k"], [target]) == [len(VALUE)]
    assert target == VALUE
    assert client.stats().retries == 2


def test_a_server_that_always_closes_in_the_middle_of_a_payload(client_of: Callable[..., Client]) -> None:
    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        header, _ = peer.request()
        peer.respond(header, hit(), VALUE[: len(VALUE) // 2], payload_bytes=len(VALUE))

    client = client_of(behave)
    assert client.get(["k"], [bytearray(len(VALUE))]) == [None]
    stats = client.stats()
    assert (stats.misses, stats.retries) == ({"unreachable": 1}, 2)


def test_late_bytes_of_a_half_sent_payload(client_of: Callable[..., Client]) -> None:
    """The call ended; the rest of the payload comes when the target is the caller's again: none of it lands."""
    ended, refused = threading.Event(), threading.Event()

    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        header, _ = peer.request()
        peer.respond(header, hit(), VALUE[:100_000], payload_bytes=len(VALUE))
        assert ended.wait(30)
        try:
            for _ in range(100):
                sock.sendall(VALUE[100_000:])
                time.sleep(0.001)
        except OSError:
            refused.set()
            raise

    client = client_of(behave)
    target = bytearray(len(VALUE))
    assert client.get(["k"], [target], timeout_ms=300) == [None]
    assert target[:100_000] == VALUE[:100_000], "the first half did land, in time"
    target[:] = POISON * len(VALUE)
    ended.set()
    assert refused.wait(30), "the connection is still open"
    assert target == POISON * len(VALUE)


def test_a_payload_that_trickles(client_of: Callable[..., Client]) -> None:
    """There is always something to read, and never all of it."""

    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        header, _ = peer.request()
        peer.respond(header, hit(), payload_bytes=len(VALUE))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(VALUE)):
            sock.sendall(VALUE[at : at + 1])
            time.sleep(0.0005)

    client = client_of(behave)
    started_s = time.monotonic()
    assert client.get(["k"], [bytearray(len(VALUE))], timeout_ms=400) == [None]
    assert time.monotonic() - started_s < LATEST_S
    assert client.stats().misses == {"timeout": 1}


def test_a_server_that_does_not_read(client_of: Callable[..., Client]) -> None:
    """A put that no socket buffer holds."""
    release = threading.Event()

    def behave(sock: socket.socket, number: int) -> None:
        opened(sock)
        release.wait(30)

    client = client_of(behave)
    started_s = time.monotonic()
    try:
        assert client.put(["k"], [bytes(64 << 20)], timeout_ms=400) == [False]
    finally:
        release.set()
    assert time.monotonic() - started_s < LATEST_S
    assert client.stats().misses == {"timeout": 1}


def test_frames_that_nobody_asked_for(client_of: Callable[..., Client]) -> None:
    """They never land in a later call's target: the connection is given up, and the call made on another."""

    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        header, _ = peer.request()
        peer.respond(header, *good(header))
        if number == 0:
            peer.respond(header, *good(header))
        header, _ = peer.request()
        peer.respond(header, *good(header))
        peer.request()

    client = client_of(behave)
    target = bytearray(len(VALUE))
    assert client.get(["k"], [target]) == [len(VALUE)]
    for _ in range(2):
        lengths = client.get(["k"], [target])
        assert lengths in ([None], [len(VALUE)])
    assert lengths == [len(VALUE)]
    assert target == VALUE


# -- several requests under way ---------------------------------------------------------------------------------------
def get_call(key_count: int, target: bytearray) -> GetCall:
    """A GET of some keys of which the first has a target."""
    keys = [b"key-%d" % number for number in range(key_count)]
    parts: list[list[memoryview]] = [[memoryview(target)], *([] for _ in keys[1:])]
    return GetCall(range(key_count), keys, parts, [len(target), *[0] * (key_count - 1)], with_meta=False, kind_min=0)


@pytest.fixture
def transport() -> Iterator[TCPTransport]:
    transport = TCPTransport(lambda lane: Session.client(KEY, namespace="default", lane=lane))
    yield transport
    transport.close()


@pytest.mark.parametrize("size", [0, 1, 50, 2000, len(VALUE)])
def test_an_answer_that_comes_along_with_a_shorter_one(transport: TCPTransport, size: int) -> None:
    """An error is shorter than the answer that was expected: what was read beyond it is the next answer's.

    Whole frames, parts of a frame, parts of a payload: the longer the value, the less of it was read ahead.
    """
    value = VALUE[:size]

    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        answers = bytearray()
        for turn in range(4):
            header, _ = peer.request()
            fields: dict[str, Any] = {"request_id": header.request_id}
            if turn % 2 == 0:
                fields |= {"metadata": wire.encode_error(ErrorCode.STORAGE, "no"), "flags": Flag.RESPONSE | Flag.ERROR}
                answers += peer.session.seal(header.opcode, **fields)
                continue
            misses = header.key_count - 1
            fields["metadata"] = wire.encode_get_response(
                bytes([Status.HIT]) + bytes(misses),
                bytes(header.key_count),
                [size] + [0] * misses,
                [digest_of(value)] + [bytes(16)] * misses,
                None,
            )
            fields |= {"flags": Flag.RESPONSE, "count": header.key_count, "payload_bytes": size}
            answers += peer.session.seal(header.opcode, **fields) + value
        sock.sendall(answers)
        peer.request()

    rogue = Rogue(behave)
    targets = [bytearray(POISON * size) for _ in range(4)]
    calls = [get_call(count, target) for count, target in zip((100, 1, 100, 3), targets)]
    transport.run([(Route(rogue.address, 0), calls)], time.monotonic() + 20)
    assert [isinstance(call.error, RefusedError) for call in calls] == [True, False, True, False]
    assert [call.lengths[0] for call in calls] == [None, size, None, size]
    assert targets == [POISON * size, value, POISON * size, value]
    transport.close()
    rogue.stop()


def test_a_server_that_reads_late(transport: TCPTransport) -> None:
    """More requests than the sockets hold: they wait for it, and the answers find their own."""
    started, count = threading.Event(), 16

    def behave(sock: socket.socket, number: int) -> None:
        peer = opened(sock)
        assert started.wait(30)
        time.sleep(0.1)
        for turn in range(count):
            header, metadata = peer.request()
            assert wire.decode_keys(metadata, header.key_count)[0][:2] == b"%02d" % turn
            peer.respond(header, bytes([turn % 2]) * header.key_count)
        peer.request()

    rogue = Rogue(behave)
    keys = [bytes(510)] * limits.FRAME_KEYS_MAX
    calls = [KeysCall(Opcode.EXISTS, range(len(keys)), [b"%02d" % turn + keys[0], *keys[1:]]) for turn in range(count)]
    started.set()
    transport.run([(Route(rogue.address, 0), calls)], time.monotonic() + 20)
    assert [call.statuses for call in calls] == [bytes([turn % 2]) * len(keys) for turn in range(count)]
    transport.close()
    rogue.stop()
