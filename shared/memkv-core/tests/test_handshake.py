# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core import handshake, limits
from memkv_core.errors import RemoteProtocolError
from memkv_core.handshake import Hello

HELLO = Hello(1, 1, 3, bytes(8), bytes(32), "default", "tests/1", b"{}")


def body(namespace: bytes = b"n", agent: bytes = b"", identity: bytes = b"", *, off: int = 0) -> bytes:
    fixed = handshake.HELLO_FIXED.pack(bytes(8), bytes(32), len(namespace), len(agent), len(identity) + off)
    return fixed + namespace + agent + identity


def decode(data: bytes) -> Hello:
    return handshake.decode_hello(handshake.Prefix(handshake.HELLO, 1, 1, 0, len(data)), data)


@given(
    st.builds(
        Hello,
        version_min=st.integers(0, 255),
        version_max=st.integers(0, 255),
        lane=st.integers(0, 65535),
        key_id=st.binary(min_size=8, max_size=8),
        nonce=st.binary(min_size=32, max_size=32),
        namespace=st.text(min_size=1, max_size=63),
        agent=st.text(max_size=32),
        identity=st.binary(max_size=300) | st.just(bytes(limits.IDENTITY_BYTES_MAX)),
    )
)
def test_hello_round_trip(hello: Hello) -> None:
    message = handshake.encode_hello(hello)
    prefix = handshake.decode_prefix(message)
    assert prefix.body_bytes == len(message) - handshake.PREFIX_BYTES
    assert handshake.decode_hello(prefix, message[handshake.PREFIX_BYTES :]) == hello
    assert handshake.hello_lane(message[: handshake.PREFIX_BYTES]) == hello.lane


def test_the_largest_hello() -> None:
    hello = HELLO._replace(
        namespace="n" * limits.NAMESPACE_BYTES_MAX,
        agent="a" * limits.AGENT_BYTES_MAX,
        identity=bytes(limits.IDENTITY_BYTES_MAX),
    )
    message = handshake.encode_hello(hello)
    assert handshake.decode_prefix(message).body_bytes <= limits.HELLO_BYTES_MAX
    assert decode(message[handshake.PREFIX_BYTES :])._replace(lane=3) == hello


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(43),
        body(b""),
        body(off=1),
        body(identity=b"xy", off=-1),
        body(agent=b"a" * (limits.AGENT_BYTES_MAX + 1)),
        body(identity=bytes(limits.IDENTITY_BYTES_MAX + 1)),
        body(b"\xff"),
        body(b"n", b"\xc3"),
        body() + b"more",
    ],
)
def test_bad_hello(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    for work in (handshake.decode_prefix, handshake.hello_lane, decode, handshake.decode_challenge):
        try:
            work(data)
        except RemoteProtocolError:
            continue


@pytest.mark.parametrize(
    ("magic", "most"),
    [
        (handshake.HELLO, limits.HELLO_BYTES_MAX),
        (handshake.CHALLENGE, 64),
        (handshake.PROOF, 32),
        (handshake.REFUSAL, 1024),
    ],
)
def test_bodies_are_bounded_before_they_are_read(magic: bytes, most: int) -> None:
    def prefix(size: int, zero: int = 0) -> bytes:
        return magic + struct.pack("<BBHII", 1, 1, 0, size, zero)

    assert handshake.decode_prefix(prefix(most)).body_bytes == most
    for data in (prefix(most + 1), prefix(2**32 - 1), prefix(0, 1), prefix(most)[:15], b"MKVX" + prefix(0)[4:]):
        with pytest.raises(RemoteProtocolError):
            handshake.decode_prefix(data)


def test_a_session_starts_with_hello() -> None:
    with pytest.raises(RemoteProtocolError):
        handshake.hello_lane(handshake.encode_proof(1, bytes(32)))


def test_refusals_are_cut() -> None:
    message = handshake.encode_refusal(1, 2, 7, "é" * 2000)
    prefix = handshake.decode_prefix(message)
    assert (prefix.a, prefix.b, prefix.c, prefix.body_bytes) == (1, 2, 7, 1024)
    assert len(message) == handshake.PREFIX_BYTES + 1024


def test_challenge_round_trip() -> None:
    message = handshake.encode_challenge(1, 7, b"n" * 32, b"p" * 32)
    assert handshake.decode_challenge(message[handshake.PREFIX_BYTES :]) == (b"n" * 32, b"p" * 32)
    assert handshake.decode_prefix(message).c == 7
