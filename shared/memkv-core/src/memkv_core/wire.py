# SPDX-License-Identifier: Apache-2.0
"""The wire format: pure encoding and decoding of what goes before a payload. Payload bytes never pass through here.

All integers are little-endian. The normative text is ``shared/protocol/wire.md``; the vectors beside it hold this
module and every other implementation to the same bytes.

Frame::

    0       4    5     6    7     8          12      16              20         24               32
    ┌───────┬────┬─────┬────┬─────┬──────────┬───────┬───────────────┬──────────┬────────────────┐
    │ MKV1  │ op │flags│kind│  0  │request_id│ count │ metadata_bytes│    0     │ payload_bytes  │ header
    ├───────┴────┴─────┴────┴─────┴──────────┴───────┴───────────────┴──────────┴────────────────┤
    │ metadata: metadata_bytes                                                                   │
    ├────────────────────────────────────────────────────────────────────────────────────────────┤
    │ tag: 32 bytes, HMAC-SHA256(key of the direction, direction u8 │ sequence u64 │ header │ metadata) │
    ├────────────────────────────────────────────────────────────────────────────────────────────┤
    │ payload: payload_bytes, the values one after the other                                     │
    └────────────────────────────────────────────────────────────────────────────────────────────┘

Handshake message::

    0       4    5    6       8            12          16
    ┌───────┬────┬────┬───────┬────────────┬───────────┬───────────────┐
    │ magic │ a  │ b  │   c   │ body_bytes │     0     │ body          │
    └───────┴────┴────┴───────┴────────────┴───────────┴───────────────┘
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from memkv_core import limits
from memkv_core.errors import RemoteProtocolError
from memkv_core.places import Places, decode_places

MAGIC: Final = b"MKV1"
PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 1

HEADER: Final = struct.Struct("<4sBBBBIIIIQ")
HEADER_BYTES: Final = 32
TAG_BYTES: Final = 32
DIGEST_BYTES: Final = 16
_ARRAY_MIN: Final = 16  # pieces of one size that numpy cuts faster
assert HEADER.size == HEADER_BYTES


class Opcode(IntEnum):
    """What a frame asks for. A response carries the opcode of its request."""

    WELCOME = 0x01  # the server's first frame of a session
    PING = 0x02
    STAT = 0x03
    PUT = 0x10
    GET = 0x11
    EXISTS = 0x12
    LOOKUP = 0x13
    DELETE = 0x14
    VERIFY = 0x15
    REGISTER_REGION = 0x20
    CONNECT_RDMA = 0x21


class Flag:
    """Header flags; plain integers, since an IntFlag's `&` costs a microsecond in every frame."""

    RESPONSE: Final = 0x01
    ERROR: Final = 0x02
    META: Final = 0x04  # PUT: metadata beside the values follows; GET: it is asked for, and follows in the response
    PLACED: Final = 0x08  # PUT, GET: no payload follows; the server moves it from or to the client's regions


class DigestKind(IntEnum):
    """How the 16-byte digest of a value was made."""

    XXH3_128 = 0
    SHA256_128 = 1  # the first 16 bytes of SHA-256


class Status(IntEnum):
    """What became of one key of a batch (one byte of a response)."""

    MISS = 0
    HIT = 1
    PRESENT = 2
    TOO_LONG = 3
    NO_SPACE = 4
    BAD_DIGEST = 5
    READ_ONLY = 6


class ErrorCode(IntEnum):
    """Why a server refuses a session or a frame."""

    AUTH_FAILED = 1
    UNSUPPORTED_VERSION = 2
    IDENTITY_MISMATCH = 3
    BAD_FRAME = 4
    LIMIT_EXCEEDED = 5
    UNSUPPORTED_OPCODE = 6
    BUSY = 7
    DRAINING = 8
    INTERNAL = 9
    STORAGE = 10
    MOVE_FAILED = 11


class Header(NamedTuple):
    """A decoded frame header, within every bound of ``limits``."""

    opcode: int
    flags: int
    kind: int
    request_id: int
    key_count: int
    metadata_bytes: int
    payload_bytes: int


def encode_header(
    opcode: int, flags: int, kind: int, request_id: int, count: int, metadata_bytes: int, payload_bytes: int
) -> bytes:
    """The 32 bytes; arguments are this side's own and not checked."""
    return HEADER.pack(MAGIC, opcode, flags, kind, 0, request_id, count, metadata_bytes, 0, payload_bytes)


def decode_header(data: bytes | bytearray | memoryview) -> Header:
    """Decodes and bounds-checks the first 32 bytes of ``data``; RemoteProtocolError names what is wrong."""
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError("a frame's header ends early")
    magic, opcode, flags, kind, zero1, request_id, count, metadata_bytes, zero2, payload_bytes = HEADER.unpack_from(
        data
    )
    if magic != MAGIC:
        raise RemoteProtocolError(f"not a MemKV frame (starts with {bytes(magic)!r})")
    if zero1 or zero2 or flags > 15:
        raise RemoteProtocolError("reserved header bits are set")
    if count > limits.FRAME_KEYS_MAX:
        raise RemoteProtocolError(f"{count} keys in a frame, {limits.FRAME_KEYS_MAX} at most")
    if metadata_bytes > limits.FRAME_METADATA_BYTES_MAX:
        raise RemoteProtocolError(f"{metadata_bytes} bytes of metadata, {limits.FRAME_METADATA_BYTES_MAX} at most")
    if payload_bytes > limits.FRAME_PAYLOAD_BYTES_MAX:
        raise RemoteProtocolError(f"{payload_bytes} bytes of payload, {limits.FRAME_PAYLOAD_BYTES_MAX} at most")
    return Header(opcode, flags, kind, request_id, count, metadata_bytes, payload_bytes)


# -- metadata of the operations ---------------------------------------------------------------------------------------
#
# keys:            fixed_bytes u16 │ [lengths u16 × count, when fixed_bytes is 0] │ the keys one after the other
# PUT request:     keys │ lengths u32 × count │ digests 16 × count │ [meta, with Flag.META]
# GET request:     keys │ capacities u32 × count
#                  both with Flag.PLACED: │ places (see ``places``)
# GET response:    statuses u8 × count │ kinds u8 × count │ lengths u32 × count │ digests 16 × count │ [meta]
# EXISTS, LOOKUP, DELETE, VERIFY request:  keys
# PUT, EXISTS, DELETE, VERIFY response:    statuses u8 × count
# LOOKUP response: run u32
# error response:  code u16 │ UTF-8 text
# meta:            lengths u16 × count │ the metas one after the other


def encode_keys(keys: Sequence[bytes]) -> bytes:
    """The key block; every key is 1 to 512 bytes (checked by the caller)."""
    first = len(keys[0]) if keys else 0
    if len(keys) == 1:
        return first.to_bytes(2, "little") + keys[0]
    joined = b"".join(keys)
    if len(set(map(len, keys))) == 1:
        return first.to_bytes(2, "little") + joined
    return struct.pack(f"<H{len(keys)}H", 0, *map(len, keys)) + joined


def encode_put(
    keys: Sequence[bytes], lengths: Sequence[int], digests: Sequence[bytes], metas: Sequence[bytes] | None
) -> bytes:
    """Metadata of a PUT request."""
    parts = [encode_keys(keys), struct.pack(f"<{len(keys)}I", *lengths), *digests]
    if metas is not None:
        parts.append(encode_metas(metas))
    return b"".join(parts)


def encode_get(keys: Sequence[bytes], capacities: Sequence[int]) -> bytes:
    """Metadata of a GET request."""
    return encode_keys(keys) + struct.pack(f"<{len(keys)}I", *capacities)


def encode_metas(metas: Sequence[bytes]) -> bytes:
    """The meta block: what is kept beside each value, empty for nothing."""
    return struct.pack(f"<{len(metas)}H", *map(len, metas)) + b"".join(metas)


def encode_get_response(
    statuses: bytes | bytearray,
    kinds: bytes | bytearray,
    lengths: Sequence[int],
    digests: Sequence[bytes],
    metas: Sequence[bytes] | None,
) -> bytes:
    """``digests`` of misses are 16 zero bytes, their lengths 0."""
    parts = [bytes(statuses), bytes(kinds), struct.pack(f"<{len(lengths)}I", *lengths), *digests]
    if metas is not None:
        parts.append(encode_metas(metas))
    return b"".join(parts)


def encode_error(code: int, text: str) -> bytes:
    """Metadata of an error response."""
    return struct.pack("<H", code) + text.encode()[:1024]


class PutRequest(NamedTuple):
    """Decoded metadata of a PUT; every list has one entry per key."""

    keys: list[bytes]
    lengths: tuple[int, ...]
    digests: list[bytes]
    metas: list[bytes] | None


class GetResponse(NamedTuple):
    """Decoded metadata of a GET's response; zeros where a key missed."""

    statuses: bytes
    kinds: bytes
    lengths: tuple[int, ...]
    digests: list[bytes]
    metas: list[bytes] | None


class _Reader:
    """Takes pieces off a metadata block; a block that ends early or late is the peer's error."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        at = self._at
        end = at + size
        if end > len(self._data):
            raise RemoteProtocolError("metadata ends early")
        self._at = end
        return self._data[at:end]

    def integers(self, code: str, count: int) -> tuple[int, ...]:
        layout = f"<{count}{code}"
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def slices(self, lengths: Sequence[int]) -> list[bytes]:
        blob = self.take(sum(lengths))
        pieces = []
        at = 0
        for length in lengths:
            pieces.append(blob[at : at + length])
            at += length
        return pieces

    def even_slices(self, size: int, count: int) -> list[bytes]:
        blob = self.take(size * count)
        if count >= _ARRAY_MIN:  # 15 ns each in place of 75
            pieces: list[bytes] = np.frombuffer(blob, f"V{size}").tolist()
            return pieces
        return [blob[at : at + size] for at in range(0, size * count, size)]

    def keys(self, count: int) -> list[bytes]:
        (fixed,) = self.integers("H", 1)
        if fixed > limits.KEY_BYTES_MAX:
            raise RemoteProtocolError(f"a key of {fixed} bytes, {limits.KEY_BYTES_MAX} at most")
        if fixed:
            return self.even_slices(fixed, count)
        lengths = self.integers("H", count)
        if count and not limits.KEY_BYTES_MIN <= min(lengths) <= max(lengths) <= limits.KEY_BYTES_MAX:
            raise RemoteProtocolError(f"a key is not {limits.KEY_BYTES_MIN} to {limits.KEY_BYTES_MAX} bytes long")
        return self.slices(lengths)

    def metas(self, count: int) -> list[bytes]:
        lengths = self.integers("H", count)
        if count and max(lengths) > limits.META_BYTES_MAX:
            raise RemoteProtocolError(f"{max(lengths)} bytes beside a value, {limits.META_BYTES_MAX} at most")
        return self.slices(lengths)

    def rest(self) -> memoryview:
        return memoryview(self._data)[self._at :]

    def end(self) -> None:
        if self._at != len(self._data):
            raise RemoteProtocolError(f"{len(self._data) - self._at} bytes after the metadata's end")


def decode_keys(metadata: bytes, count: int) -> list[bytes]:
    """The keys of EXISTS, LOOKUP, DELETE, VERIFY."""
    reader = _Reader(metadata)
    keys = reader.keys(count)
    reader.end()
    return keys


def decode_put(metadata: bytes, header: Header) -> PutRequest:
    """The metadata of a PUT; the lengths add up to the frame's payload."""
    reader = _Reader(metadata)
    request = _put_request(reader, header)
    reader.end()
    if sum(request.lengths) != header.payload_bytes:
        raise RemoteProtocolError(f"values of {sum(request.lengths)} bytes in a payload of {header.payload_bytes}")
    return request


def decode_placed_put(metadata: bytes, header: Header) -> tuple[PutRequest, Places]:
    """The metadata of a PUT with PLACED: where each value is, exactly as many bytes as it is long."""
    reader = _Reader(metadata)
    request = _put_request(reader, header)
    if sum(request.lengths) > limits.FRAME_PAYLOAD_BYTES_MAX:
        raise RemoteProtocolError(f"values of {sum(request.lengths)} bytes in a frame")
    return request, decode_places(reader.rest(), request.lengths)


def _put_request(reader: _Reader, header: Header) -> PutRequest:
    keys = reader.keys(header.key_count)
    lengths = reader.integers("I", header.key_count)
    digests = reader.even_slices(DIGEST_BYTES, header.key_count)
    metas = reader.metas(header.key_count) if header.flags & Flag.META else None
    return PutRequest(keys, lengths, digests, metas)


def decode_get(metadata: bytes, count: int) -> tuple[list[bytes], tuple[int, ...]]:
    """(keys, capacities) of a GET."""
    reader = _Reader(metadata)
    keys = reader.keys(count)
    capacities = reader.integers("I", count)
    reader.end()
    return keys, capacities


def decode_placed_get(metadata: bytes, count: int) -> tuple[list[bytes], tuple[int, ...], Places]:
    """(keys, capacities, places) of a GET with PLACED: room for each value, exactly as much as its capacity."""
    reader = _Reader(metadata)
    keys = reader.keys(count)
    capacities = reader.integers("I", count)
    return keys, capacities, decode_places(reader.rest(), capacities)


def decode_get_response(metadata: bytes, header: Header) -> GetResponse:
    """The metadata of a GET's response; the lengths of the hits add up to the frame's payload, which a response with
    PLACED does not have."""
    reader = _Reader(metadata)
    count = header.key_count
    statuses = reader.take(count)
    kinds = reader.take(count)
    lengths = reader.integers("I", count)
    digests = reader.even_slices(DIGEST_BYTES, count)
    metas = reader.metas(count) if header.flags & Flag.META else None
    reader.end()
    if statuses.count(Status.HIT) == count:
        hit_bytes = sum(lengths)
    else:
        hit_bytes = sum(length for status, length in zip(statuses, lengths) if status == Status.HIT)
    if header.payload_bytes != (0 if header.flags & Flag.PLACED else hit_bytes):
        raise RemoteProtocolError(f"hits of {hit_bytes} bytes in a payload of {header.payload_bytes}")
    return GetResponse(statuses, kinds, lengths, digests, metas)


def decode_statuses(metadata: bytes, header: Header) -> bytes:
    """The status of each key of a PUT, EXISTS, DELETE or VERIFY."""
    if len(metadata) != header.key_count or header.payload_bytes:
        raise RemoteProtocolError(f"{len(metadata)} statuses for {header.key_count} keys")
    return metadata


def decode_lookup_response(metadata: bytes, header: Header) -> int:
    """The length of the leading run."""
    if len(metadata) != 4 or header.payload_bytes:
        raise RemoteProtocolError("a LOOKUP response holds one u32")
    return int.from_bytes(metadata, "little")


def decode_error(metadata: bytes) -> tuple[int, str]:
    """(code, text)."""
    if len(metadata) < 2:
        raise RemoteProtocolError("an error frame without a code")
    return int.from_bytes(metadata[:2], "little"), metadata[2:].decode("utf-8", "replace")
