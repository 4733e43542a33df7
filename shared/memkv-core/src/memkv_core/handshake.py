# SPDX-License-Identifier: Apache-2.0
"""The four messages that open a session, as bytes: HELLO, CHALLENGE, PROOF, REFUSAL (pure; see ``wire`` for the box).

HELLO      a = lowest version, b = highest version, c = lane       key_id 8 │ nonce 32 │ namespace_bytes u8 │
           agent_bytes u8 │ identity_bytes u16 │ namespace │ agent │ identity
CHALLENGE  a = chosen version, b = 0, c = lane                     nonce 32 │ proof 32
PROOF      a = chosen version, b = 0, c = 0                        proof 32
REFUSAL    a = lowest version, b = highest version, c = code       UTF-8 text
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from memkv_core import limits
from memkv_core.errors import RemoteProtocolError

PREFIX: Final = struct.Struct("<4sBBHII")
PREFIX_BYTES: Final = 16
HELLO_FIXED: Final = struct.Struct("<8s32sBBH")
PROOF_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
LANE_ANY: Final = 0xFFFF
assert PREFIX.size == PREFIX_BYTES

HELLO: Final = b"MKVH"
CHALLENGE: Final = b"MKVC"
PROOF: Final = b"MKVP"
REFUSAL: Final = b"MKVE"

_BODY_BYTES_MAX: Final = {
    HELLO: limits.HELLO_BYTES_MAX,
    CHALLENGE: limits.NONCE_BYTES + PROOF_BYTES,
    PROOF: PROOF_BYTES,
    REFUSAL: 1024,
}


class Prefix(NamedTuple):
    """The 16 bytes before a handshake message's body."""

    magic: bytes
    a: int
    b: int
    c: int
    body_bytes: int


class Hello(NamedTuple):
    """What a client says of itself. ``identity`` is canonical JSON, or empty."""

    version_min: int
    version_max: int
    lane: int
    key_id: bytes
    nonce: bytes
    namespace: str
    agent: str
    identity: bytes


def decode_prefix(data: bytes | bytearray | memoryview) -> Prefix:
    """Decodes and bounds-checks a prefix; RemoteProtocolError for anything else, an HTTP client's bytes included."""
    if len(data) < PREFIX_BYTES:
        raise RemoteProtocolError("a handshake message ends early")
    magic, a, b, c, body_bytes, zero = PREFIX.unpack_from(data)
    limit = _BODY_BYTES_MAX.get(magic)
    if limit is None:
        raise RemoteProtocolError(f"not a MemKV handshake (starts with {bytes(magic)!r})")
    if body_bytes > limit or zero:
        raise RemoteProtocolError(f"a handshake body of {body_bytes} bytes, {limit} at most")
    return Prefix(magic, a, b, c, body_bytes)


def hello_lane(prefix: bytes | bytearray | memoryview) -> int:
    """The lane that a HELLO's first 16 bytes name; RemoteProtocolError when they are no HELLO."""
    decoded = decode_prefix(prefix)
    if decoded.magic != HELLO:
        raise RemoteProtocolError("a session starts with HELLO")
    return decoded.c


def _message(magic: bytes, a: int, b: int, c: int, body: bytes) -> bytes:
    return PREFIX.pack(magic, a, b, c, len(body), 0) + body


def encode_hello(hello: Hello) -> bytes:
    """The whole message."""
    namespace, agent = hello.namespace.encode(), hello.agent.encode()
    fixed = HELLO_FIXED.pack(hello.key_id, hello.nonce, len(namespace), len(agent), len(hello.identity))
    body = fixed + namespace + agent + hello.identity
    return _message(HELLO, hello.version_min, hello.version_max, hello.lane, body)


def decode_hello(prefix: Prefix, body: bytes) -> Hello:
    """The body of a HELLO; RemoteProtocolError where it breaks a rule."""
    if len(body) < HELLO_FIXED.size:
        raise RemoteProtocolError("HELLO ends early")
    key_id, nonce, namespace_bytes, agent_bytes, identity_bytes = HELLO_FIXED.unpack_from(body)
    at = HELLO_FIXED.size
    if at + namespace_bytes + agent_bytes + identity_bytes != len(body):
        raise RemoteProtocolError("HELLO's lengths do not add up")
    if identity_bytes > limits.IDENTITY_BYTES_MAX or agent_bytes > limits.AGENT_BYTES_MAX or not namespace_bytes:
        raise RemoteProtocolError("HELLO's namespace, agent or identity is out of bounds")
    agent_at, identity_at = at + namespace_bytes, at + namespace_bytes + agent_bytes
    try:
        namespace, agent = body[at:agent_at].decode(), body[agent_at:identity_at].decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("HELLO's namespace or agent is not UTF-8") from error
    return Hello(prefix.a, prefix.b, prefix.c, key_id, nonce, namespace, agent, body[identity_at:])


def encode_challenge(version: int, lane: int, nonce: bytes, proof: bytes) -> bytes:
    """The whole message."""
    return _message(CHALLENGE, version, 0, lane, nonce + proof)


def decode_challenge(body: bytes) -> tuple[bytes, bytes]:
    """(nonce, proof)."""
    if len(body) != limits.NONCE_BYTES + PROOF_BYTES:
        raise RemoteProtocolError("CHALLENGE has the wrong length")
    return body[: limits.NONCE_BYTES], body[limits.NONCE_BYTES :]


def encode_proof(version: int, proof: bytes) -> bytes:
    """The whole message."""
    return _message(PROOF, version, 0, 0, proof)


def encode_refusal(version_min: int, version_max: int, code: int, text: str) -> bytes:
    """The whole message; the text is cut at 1,024 bytes."""
    return _message(REFUSAL, version_min, version_max, code, text.encode()[:1024])
