# SPDX-License-Identifier: Apache-2.0
"""What a session accepts and what it refuses: the golden frames and messages, altered in every way."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core import auth, handshake, wire
from memkv_core.errors import (
    AuthError,
    ConfigError,
    LocalProtocolError,
    ProtocolError,
    RefusedError,
    RemoteProtocolError,
)
from memkv_core.session import Role, Session, State, remedy_of
from memkv_core.wire import ErrorCode, Flag, Opcode

Load = Callable[[str], dict[str, Any]]
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
SAMPLE = st.integers(0, 10_000)


def client(key: bytes = KEY, **overrides: Any) -> Session:
    settings: dict[str, Any] = {"namespace": "default", "identity": b'{"model":"m"}', "lane": 1}
    return Session.client(key, **(settings | overrides))


def server(*keys: bytes, **overrides: Any) -> Session:
    return Session.server(auth.Keyring(keys or (KEY,)), **overrides)


def deliver(session: Session, data: bytes) -> None:
    """Has a session open a frame, cut out of the stream as a connection does it."""
    try:
        header = wire.decode_header(data)
    except RemoteProtocolError:
        session.close()
        raise
    tag_at = wire.HEADER_BYTES + header.metadata_bytes
    session.open(header, data[:tag_at], data[tag_at : tag_at + wire.TAG_BYTES])


def shake_hands(one: Session, two: Session, tamper: Callable[[str, bytes], bytes] = lambda _, message: message) -> None:
    """Client and server up to OPEN; raises what either raises. ``tamper`` sees each message on its way."""
    two.receive_message(tamper("hello", one.send_hello()))
    refusal = two.refusal_of_hello()
    if refusal is not None:
        one.receive_message(tamper("refusal", two.send_refusal(*refusal)))
        raise AssertionError("a refusal that does not raise")
    one.receive_message(tamper("challenge", two.send_challenge(1)))
    two.receive_message(tamper("proof", one.send_proof()))
    deliver(one, tamper("welcome", two.seal(Opcode.WELCOME, metadata=b'{"lanes":2}', flags=Flag.RESPONSE)))


@dataclass(frozen=True)
class Golden:
    """The session of ``frames.json``: the frames of both directions, and receivers that expect any of them next."""

    frames: tuple[tuple[bytes, ...], tuple[bytes, ...]]
    handshake: dict[str, Any]

    def receiver(self, direction: int, number: int) -> Session:
        """A session that has taken ``number`` frames of a direction and now expects that one."""
        vector = self.handshake
        hello = {name: vector[name] for name in ("namespace", "agent", "lane")} | {
            "identity": vector["identity"].encode()
        }
        one = Session.client(KEY, nonce=bytes.fromhex(vector["client_nonce"]), **hello)
        two = server(nonce=bytes.fromhex(vector["server_nonce"]))
        two.receive_message(one.send_hello())
        assert two.refusal_of_hello() is None
        one.receive_message(two.send_challenge(1))
        two.receive_message(one.send_proof())
        welcome = bytes.fromhex(vector["messages"]["welcome"])
        assert two.seal(Opcode.WELCOME, metadata=welcome[32:-32], flags=Flag.RESPONSE) == welcome
        deliver(one, welcome)
        session = two if direction == 0 else one
        for frame in self.frames[direction][:number]:
            deliver(session, frame)
        return session


@pytest.fixture(scope="module")
def golden(vectors: Load) -> Golden:
    frames = vectors("frames.json")["frames"]
    by_direction = [
        tuple(bytes.fromhex(frame["frame"]) for frame in frames if frame["direction"] == direction)
        for direction in (0, 1)
    ]
    return Golden((by_direction[0], by_direction[1]), vectors("handshake.json"))


def refused(session: Session, data: bytes, *kinds: type[ProtocolError]) -> None:
    with pytest.raises(kinds or RemoteProtocolError):
        deliver(session, data)
    assert session.state is State.CLOSED
    with pytest.raises(LocalProtocolError):
        session.seal(Opcode.PING)


# -- frames -----------------------------------------------------------------------------------------------------------
def test_golden_frames_are_accepted_in_their_order(golden: Golden) -> None:
    for direction in (0, 1):
        session = golden.receiver(direction, len(golden.frames[direction]))
        assert session.state is State.OPEN


def test_every_bit_of_the_short_frames(golden: Golden) -> None:
    """Header, metadata and tag: no bit of a frame without a large payload description can be flipped."""
    tried = 0
    for direction, frames in enumerate(golden.frames):
        for number, frame in enumerate(frames):
            if len(frame) > 160:
                continue
            expecting = golden.receiver(direction, number)
            for bit in range(8 * len(frame)):
                altered = bytearray(frame)
                altered[bit // 8] ^= 1 << bit % 8
                refused(copy(expecting), bytes(altered))
                tried += 1
    assert tried > 5000


@given(direction=st.integers(0, 1), number=SAMPLE, bit=st.integers(0, 2**32))
def test_any_bit_flipped(golden: Golden, direction: int, number: int, bit: int) -> None:
    frames = golden.frames[direction]
    number %= len(frames)
    altered = bytearray(frames[number])
    bit %= 8 * len(altered)
    altered[bit // 8] ^= 1 << bit % 8
    refused(golden.receiver(direction, number), bytes(altered))


@given(direction=st.integers(0, 1), expected=SAMPLE, sent=SAMPLE)
def test_replayed_or_reordered(golden: Golden, direction: int, expected: int, sent: int) -> None:
    frames = golden.frames[direction]
    expected, sent = expected % (len(frames) + 1), sent % len(frames)
    if expected != sent:
        refused(golden.receiver(direction, expected), frames[sent], AuthError)


@given(direction=st.integers(0, 1), number=SAMPLE, cut=st.integers(1, 5000))
def test_truncated(golden: Golden, direction: int, number: int, cut: int) -> None:
    """As a reader would see it that takes what is there for the whole frame."""
    frames = golden.frames[direction]
    frame = frames[number % len(frames)]
    refused(golden.receiver(direction, number % len(frames)), frame[: max(0, len(frame) - cut)])


@given(direction=st.integers(0, 1), number=SAMPLE, cut=st.integers(1, 5000))
def test_truncated_with_lengths_that_agree(golden: Golden, direction: int, number: int, cut: int) -> None:
    frames = golden.frames[direction]
    frame = frames[number % len(frames)]
    header = wire.decode_header(frame)
    kept = max(0, header.metadata_bytes - cut)
    if kept == header.metadata_bytes:
        return
    shorter = wire.encode_header(*header._replace(metadata_bytes=kept))
    data = shorter + frame[wire.HEADER_BYTES :][:kept] + frame[-wire.TAG_BYTES :]
    refused(golden.receiver(direction, number % len(frames)), data, AuthError)


@given(direction=st.integers(0, 1), number=SAMPLE, more=st.binary(min_size=1, max_size=64), at_end=st.booleans())
def test_extended(golden: Golden, direction: int, number: int, more: bytes, at_end: bool) -> None:
    frames = golden.frames[direction]
    frame = frames[number % len(frames)]
    header = wire.decode_header(frame)
    longer = wire.encode_header(*header._replace(metadata_bytes=header.metadata_bytes + len(more)))
    metadata, tag = frame[wire.HEADER_BYTES : -wire.TAG_BYTES], frame[-wire.TAG_BYTES :]
    data = longer + (metadata + more if at_end else more + metadata) + tag
    refused(golden.receiver(direction, number % len(frames)), data, AuthError)


@given(direction=st.integers(0, 1), number=SAMPLE)
def test_a_frame_of_the_other_direction(golden: Golden, direction: int, number: int) -> None:
    """A reflected frame has its direction's key, and its direction under the tag besides."""
    frames = golden.frames[1 - direction]
    for expected in (0, number % len(golden.frames[direction])):
        refused(golden.receiver(direction, expected), frames[number % len(frames)], AuthError)


def test_a_frame_of_another_session(golden: Golden) -> None:
    """Same key, namespace and sequence numbers; other nonces."""
    for _ in range(3):
        one, two = client(), server()
        shake_hands(one, two)
        refused(two, golden.frames[0][0], AuthError)
        refused(one, golden.frames[1][0], AuthError)


def test_a_frame_sealed_under_another_sequence_number(golden: Golden) -> None:
    """A frame that was lost on the way is missed by the next."""
    one, two = client(), server()
    shake_hands(one, two)
    one.seal(Opcode.PING)
    refused(two, one.seal(Opcode.PING), AuthError)


def test_a_tag_of_another_length(golden: Golden) -> None:
    for tag in (b"", bytes(31), bytes(33), golden.frames[0][0][-32:] + b"\0"):
        session = golden.receiver(0, 0)
        frame = golden.frames[0][0]
        with pytest.raises(AuthError):
            session.open(wire.decode_header(frame), frame[:-32], tag)
        assert session.state is State.CLOSED


def test_memoryviews_are_as_good_as_bytes(golden: Golden) -> None:
    frame = golden.frames[0][0]
    view = memoryview(bytearray(frame))
    receiver = golden.receiver(0, 0)
    receiver.open(wire.decode_header(view), view[:-32], view[-32:])
    assert receiver.state is State.OPEN
    following = golden.frames[0][1]
    receiver.open(wire.decode_header(following), following[:-32], following[-32:])
    assert receiver.state is State.OPEN, "the first was counted"


# -- handshake --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("message", ["hello", "challenge", "proof", "welcome"])
def test_every_bit_of_the_handshake(message: str) -> None:
    """With any bit flipped one side refuses, and no session comes to be on which both would speak."""
    passed: dict[str, bytes] = {}

    def watch(name: str, sent: bytes) -> bytes:
        passed[name] = sent
        return sent

    shake_hands(client(), server(), watch)
    for bit in range(8 * len(passed[message])):

        def tamper(name: str, sent: bytes, bit: int = bit) -> bytes:
            altered = bytearray(sent)
            if name == message:
                altered[bit // 8] ^= 1 << bit % 8
            return bytes(altered)

        one, two = client(), server()
        with pytest.raises((AuthError, RemoteProtocolError, RefusedError)):
            shake_hands(one, two, tamper)
        assert State.OPEN not in (one.state, two.state) or message == "welcome"
        assert one.state is not State.OPEN


@given(data=st.binary(max_size=300))
def test_noise_instead_of_a_message(data: bytes) -> None:
    two = server()
    with pytest.raises(RemoteProtocolError):
        two.receive_message(data)
    assert two.state is State.CLOSED
    one = client()
    one.send_hello()
    with pytest.raises((RemoteProtocolError, RefusedError)):
        one.receive_message(data)
    assert one.state is State.CLOSED


@given(
    magic=st.sampled_from([handshake.HELLO, handshake.CHALLENGE, handshake.PROOF, handshake.REFUSAL]),
    numbers=st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535)),
    body=st.binary(max_size=120),
    extra=st.integers(-2, 2),
)
def test_well_framed_noise(magic: bytes, numbers: tuple[int, int, int], body: bytes, extra: int) -> None:
    """Right magic, arbitrary body: only typed errors, and the session is over (but for a HELLO that is one)."""
    data = handshake.PREFIX.pack(magic, *numbers, max(0, len(body) + extra), 0) + body
    two, one = server(), client()
    one.send_hello()
    for session in (two, one):
        try:
            session.receive_message(data)
        except (RemoteProtocolError, RefusedError):
            assert session.state is State.CLOSED
        else:
            assert session.role is Role.SERVER
            assert two.refusal_of_hello() is not None


@pytest.mark.parametrize(
    "text", [b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"]
)
def test_another_protocol(text: bytes) -> None:
    one = client()
    one.send_hello()
    with pytest.raises(RemoteProtocolError, match="not a MemKV handshake"):
        one.receive_message(text)
    with pytest.raises(RemoteProtocolError, match="not a MemKV frame"):
        wire.decode_header(text.ljust(64))


def test_a_key_the_server_does_not_have() -> None:
    """It learns the refusal and nothing else: the server has sent no proof that could be tried at leisure."""
    one, two = client(OTHER_KEY), server()
    passed: dict[str, bytes] = {}

    def watch(name: str, sent: bytes) -> bytes:
        passed[name] = sent
        return sent

    with pytest.raises(RefusedError) as caught:
        shake_hands(one, two, watch)
    assert caught.value.code == ErrorCode.AUTH_FAILED
    assert caught.value.remedy is not None
    assert list(passed) == ["hello", "refusal"]
    assert passed["refusal"] == handshake.encode_refusal(1, 1, ErrorCode.AUTH_FAILED, "unknown auth key")
    assert (one.state, two.state) == (State.CLOSED, State.CLOSED)


def test_a_server_without_the_key() -> None:
    """It answers with the right key id but cannot prove that it has the key."""
    one = client()
    hello = one.send_hello()
    proof = auth.server_proof(OTHER_KEY, hello, 1, 1, bytes(32))
    with pytest.raises(AuthError) as caught:
        one.receive_message(handshake.encode_challenge(1, 1, bytes(32), proof))
    assert caught.value.remedy is not None
    assert one.state is State.CLOSED


def test_a_client_without_the_key() -> None:
    """It names the right key id but cannot prove that it has the key; replaying an old proof does not help."""
    honest, once = client(nonce=bytes(32)), server()
    once.receive_message(honest.send_hello())
    assert once.refusal_of_hello() is None
    honest.receive_message(once.send_challenge(1))
    old = honest.send_proof()
    two = server()
    two.receive_message(client(nonce=bytes(32)).send_hello())
    assert two.refusal_of_hello() is None
    two.send_challenge(1)
    with pytest.raises(AuthError):
        two.receive_message(old)
    assert two.state is State.CLOSED


def test_a_challenge_before_the_key_was_looked_up() -> None:
    """Else an empty key would be proved, which everyone has."""
    two = server()
    two.receive_message(client().send_hello())
    with pytest.raises(LocalProtocolError):
        two.send_challenge(1)
    assert two.state is State.CLOSED


def test_two_keys_in_rotation() -> None:
    for key in (KEY, OTHER_KEY):
        one, two = client(key), server(KEY, OTHER_KEY)
        shake_hands(one, two)
        deliver(two, one.seal(Opcode.PING))
        deliver(one, two.seal(Opcode.PING, flags=Flag.RESPONSE))
    with pytest.raises(RefusedError):
        shake_hands(client(bytes(32)), server(KEY, OTHER_KEY))


@pytest.mark.parametrize("keys", [[], [b"short"], [bytes(33)], [KEY, b""]])
def test_a_keyring_of_bad_keys(keys: list[bytes]) -> None:
    with pytest.raises(ConfigError):
        auth.Keyring(keys)


@pytest.mark.parametrize(("lowest", "highest", "spoken"), [(1, 1, 1), (1, 9, 1), (0, 255, 1), (0, 1, 1)])
def test_versions_that_meet(lowest: int, highest: int, spoken: int) -> None:
    one, two = client(), server()
    assert one.hello is not None
    one.hello = one.hello._replace(version_min=lowest, version_max=highest)
    shake_hands(one, two)
    assert (one.version, two.version) == (spoken, spoken)


@pytest.mark.parametrize(("lowest", "highest"), [(2, 2), (7, 9), (0, 0), (9, 1), (255, 255)])
def test_versions_that_do_not_meet(lowest: int, highest: int) -> None:
    one, two = client(), server()
    assert one.hello is not None
    one.hello = one.hello._replace(version_min=lowest, version_max=highest)
    with pytest.raises(RefusedError, match=f"{lowest} to {highest}") as caught:
        shake_hands(one, two)
    assert caught.value.code == ErrorCode.UNSUPPORTED_VERSION
    assert (one.state, two.state) == (State.CLOSED, State.CLOSED)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_server_that_chooses_what_the_client_does_not_speak(version: int) -> None:
    one = client()
    proof = auth.server_proof(KEY, one.send_hello(), version, 1, bytes(32))
    with pytest.raises(RemoteProtocolError, match=f"protocol {version}"):
        one.receive_message(handshake.encode_challenge(version, 1, bytes(32), proof))
    assert one.state is State.CLOSED


def test_what_the_server_learns_of_the_client() -> None:
    one, two = client(agent="tests/1"), server()
    shake_hands(one, two)
    assert two.hello == one.hello
    assert two.hello is not None
    assert (two.hello.namespace, two.hello.agent, two.hello.lane) == ("default", "tests/1", 1)
    assert two.hello.identity == b'{"model":"m"}'


def test_every_session_has_its_own_keys() -> None:
    tags = set()
    for _ in range(20):
        one, two = client(), server()
        shake_hands(one, two)
        tags.add(one.seal(Opcode.PING))
        tags.add(two.seal(Opcode.PING))
    assert len(tags) == 40


def test_a_welcome_that_refuses() -> None:
    one, two = client(), server()
    two.receive_message(one.send_hello())
    assert two.refusal_of_hello() is None
    one.receive_message(two.send_challenge(1))
    two.receive_message(one.send_proof())
    error = wire.encode_error(ErrorCode.IDENTITY_MISMATCH, "another identity is recorded")
    deliver(one, two.seal(Opcode.WELCOME, metadata=error, flags=Flag.RESPONSE | Flag.ERROR))
    assert wire.decode_error(error) == (ErrorCode.IDENTITY_MISMATCH, "another identity is recorded")


def test_remedies() -> None:
    assert all(remedy_of(code) for code in (1, 2, 3, 7))
    assert remedy_of(200) is None
