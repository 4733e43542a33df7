# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memkv_core import limits, wire
from memkv_core.errors import RemoteProtocolError
from memkv_core.wire import Flag, Header, Opcode, Status

KEYS = st.lists(st.binary(min_size=1, max_size=512), max_size=20)
EVEN_KEYS = st.integers(1, 64).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size), max_size=20))
METAS = st.binary(max_size=64)
LENGTHS = st.integers(0, 2**20)
DIGESTS = st.binary(min_size=16, max_size=16)


def header(count: int, *, payload_bytes: int = 0, flags: int = 0) -> Header:
    return Header(Opcode.PUT, flags, 0, 0, count, 0, payload_bytes)


# -- header -----------------------------------------------------------------------------------------------------------
HEADERS = st.builds(
    Header,
    opcode=st.integers(0, 255),
    flags=st.integers(0, 15),
    kind=st.integers(0, 255),
    request_id=st.integers(0, 2**32 - 1),
    key_count=st.integers(0, limits.FRAME_KEYS_MAX),
    metadata_bytes=st.integers(0, limits.FRAME_METADATA_BYTES_MAX),
    payload_bytes=st.integers(0, limits.FRAME_PAYLOAD_BYTES_MAX),
)


@given(HEADERS)
def test_header_round_trip(decoded: Header) -> None:
    encoded = wire.encode_header(*decoded)
    assert len(encoded) == wire.HEADER_BYTES
    assert wire.decode_header(encoded) == decoded
    assert wire.decode_header(memoryview(bytearray(encoded + b"more"))) == decoded


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("key_count", limits.FRAME_KEYS_MAX),
        ("metadata_bytes", limits.FRAME_METADATA_BYTES_MAX),
        ("payload_bytes", limits.FRAME_PAYLOAD_BYTES_MAX),
        ("flags", 15),
    ],
)
def test_header_bounds(field: str, most: int) -> None:
    base = Header(Opcode.PUT, 0, 0, 0, 0, 0, 0)
    assert wire.decode_header(wire.encode_header(*base._replace(**{field: most}))) == base._replace(**{field: most})
    with pytest.raises(RemoteProtocolError):
        wire.decode_header(wire.encode_header(*base._replace(**{field: most + 1})))


@pytest.mark.parametrize("at", [0, 1, 2, 3, 7, 20, 21, 22, 23])
def test_header_magic_and_zeros(at: int) -> None:
    encoded = bytearray(wire.encode_header(Opcode.PUT, 0, 0, 1, 1, 1, 1))
    encoded[at] ^= 0x10
    with pytest.raises(RemoteProtocolError):
        wire.decode_header(encoded)


@given(st.binary(max_size=80) | st.binary(min_size=28, max_size=28).map(lambda data: wire.MAGIC + data))
def test_header_of_noise(data: bytes) -> None:
    try:
        decoded = wire.decode_header(data)
    except RemoteProtocolError:
        return
    assert wire.encode_header(*decoded) == data[: wire.HEADER_BYTES]


# -- round trips ------------------------------------------------------------------------------------------------------
@given(KEYS | EVEN_KEYS)
@example([b"a"])
@example([b"k" * 512] * 3)
@example([b"ab", b"c"])
@example([b"c", b"ab", b"abc"])  # even on the average, not each
def test_keys(keys: list[bytes]) -> None:
    encoded = wire.encode_keys(keys)
    assert wire.decode_keys(encoded, len(keys)) == keys
    even = len({len(key) for key in keys}) == 1
    assert len(encoded) == 2 + (0 if even else 2 * len(keys)) + sum(map(len, keys))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), LENGTHS, DIGESTS, METAS), max_size=12), st.booleans())
def test_put(rows: list[tuple[bytes, int, bytes, bytes]], with_meta: bool) -> None:
    keys, lengths, digests, metas = ([row[column] for row in rows] for column in range(4))
    encoded = wire.encode_put(keys, lengths, digests, metas if with_meta else None)  # type: ignore[arg-type]
    said = header(len(rows), payload_bytes=sum(lengths), flags=Flag.META if with_meta else 0)  # type: ignore[arg-type]
    decoded = wire.decode_put(encoded, said)
    assert decoded == (keys, tuple(lengths), digests, metas if with_meta else None)
    if rows:
        with pytest.raises(RemoteProtocolError):
            wire.decode_put(encoded, said._replace(payload_bytes=said.payload_bytes + 1))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(0, 2**32 - 1)), max_size=12))
def test_get(rows: list[tuple[bytes, int]]) -> None:
    keys, capacities = [row[0] for row in rows], [row[1] for row in rows]
    assert wire.decode_get(wire.encode_get(keys, capacities), len(rows)) == (keys, tuple(capacities))


@given(
    st.lists(st.tuples(st.sampled_from(Status), st.integers(0, 1), LENGTHS, DIGESTS, METAS), max_size=12), st.booleans()
)
def test_get_response(rows: list[tuple[Status, int, int, bytes, bytes]], with_meta: bool) -> None:
    statuses, kinds = bytes(row[0] for row in rows), bytes(row[1] for row in rows)
    lengths, digests, metas = [row[2] for row in rows], [row[3] for row in rows], [row[4] for row in rows]
    encoded = wire.encode_get_response(statuses, kinds, lengths, digests, metas if with_meta else None)
    hits = sum(length for status, length in zip(statuses, lengths) if status == Status.HIT)
    said = header(len(rows), payload_bytes=hits, flags=Flag.META if with_meta else 0)
    expected = (statuses, kinds, tuple(lengths), digests, metas if with_meta else None)
    assert wire.decode_get_response(encoded, said) == expected
    with pytest.raises(RemoteProtocolError):
        wire.decode_get_response(encoded, said._replace(payload_bytes=hits + 1))


@given(st.binary(max_size=4096))
def test_statuses(statuses: bytes) -> None:
    assert wire.decode_statuses(statuses, header(len(statuses))) == statuses
    for said in (header(len(statuses) + 1), header(len(statuses), payload_bytes=1)):
        with pytest.raises(RemoteProtocolError):
            wire.decode_statuses(statuses, said)


@given(st.integers(0, 2**32 - 1))
def test_lookup_response(run: int) -> None:
    encoded = struct.pack("<I", run)
    assert wire.decode_lookup_response(encoded, header(4096)) == run
    for metadata, said in (
        (encoded[:3], header(1)),
        (encoded + b"\0", header(1)),
        (encoded, header(1)._replace(payload_bytes=9)),
    ):
        with pytest.raises(RemoteProtocolError):
            wire.decode_lookup_response(metadata, said)


@given(st.integers(0, 2**16 - 1), st.text(max_size=300))
def test_error(code: int, text: str) -> None:
    assert wire.decode_error(wire.encode_error(code, text)) == (code, text)


def test_error_bounds() -> None:
    code, text = wire.decode_error(wire.encode_error(9, "é" * 5000))
    assert (code, len(text.encode())) == (9, 1024)
    assert wire.decode_error(b"\x05\x00\xff\xfe") == (5, "\ufffd\ufffd")
    for metadata in (b"", b"\x01"):
        with pytest.raises(RemoteProtocolError):
            wire.decode_error(metadata)


# -- limits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "metadata",
    [
        struct.pack("<H", 513) + bytes(513),
        struct.pack("<HH", 0, 513) + bytes(513),
        struct.pack("<HH", 0, 0),
        struct.pack("<H", 0xFFFF) + bytes(0xFFFF),
    ],
)
def test_key_lengths(metadata: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_keys(metadata, 1)


def test_meta_length() -> None:
    for size, fits in ((limits.META_BYTES_MAX, True), (limits.META_BYTES_MAX + 1, False)):
        encoded = wire.encode_put([b"k"], [0], [bytes(16)], [bytes(size)])
        if fits:
            assert wire.decode_put(encoded, header(1, flags=Flag.META)).metas == [bytes(size)]
        else:
            with pytest.raises(RemoteProtocolError):
                wire.decode_put(encoded, header(1, flags=Flag.META))


def test_the_largest_put_fits_its_frame() -> None:
    count = limits.FRAME_KEYS_MAX
    keys = [b"%04d" % number + bytes(508) for number in range(count)]
    encoded = wire.encode_put(keys, [2**32 - 1] * count, [bytes(16)] * count, [bytes(limits.META_BYTES_MAX)] * count)
    assert len(encoded) <= limits.FRAME_METADATA_BYTES_MAX


# -- hostile metadata -------------------------------------------------------------------------------------------------
DECODERS: dict[str, Callable[[bytes, Header], Any]] = {
    "keys": lambda metadata, said: wire.decode_keys(metadata, said.key_count),
    "put": wire.decode_put,
    "get": lambda metadata, said: wire.decode_get(metadata, said.key_count),
    "get_response": wire.decode_get_response,
    "statuses": wire.decode_statuses,
    "lookup_response": wire.decode_lookup_response,
    "error": lambda metadata, _: wire.decode_error(metadata),
}
SAID = st.builds(
    header,
    st.integers(0, 8) | st.sampled_from([limits.FRAME_KEYS_MAX, 1000]),
    payload_bytes=st.integers(0, 3) | st.just(limits.FRAME_PAYLOAD_BYTES_MAX),
    flags=st.integers(0, 15),
)


@pytest.mark.parametrize("name", DECODERS)
@given(metadata=st.binary(max_size=400), said=SAID)
def test_noise(name: str, metadata: bytes, said: Header) -> None:
    """A typed error, or a value with one entry per key; nothing else is raised."""
    try:
        decoded = DECODERS[name](metadata, said)
    except RemoteProtocolError:
        return
    if name in ("put", "get_response"):
        assert all(len(column) == said.key_count for column in decoded if column is not None)


@given(
    rows=st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.integers(0, 500), METAS), min_size=1, max_size=6),
    with_meta=st.booleans(),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.integers(-3, 3),
    count_off=st.integers(-1, 1),
)
def test_mutated_put(
    rows: list[tuple[bytes, int, bytes]],
    with_meta: bool,
    edits: list[tuple[int, int]],
    cut: int,
    count_off: int,
) -> None:
    keys, lengths, metas = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    encoded = bytearray(wire.encode_put(keys, lengths, [bytes(16)] * len(rows), metas if with_meta else None))
    for at, value in edits:
        encoded[at % len(encoded)] = value
    data = bytes(encoded[:cut]) if cut < 0 else bytes(encoded) + bytes(cut)
    said = header(len(rows) + count_off, payload_bytes=sum(lengths), flags=Flag.META if with_meta else 0)
    try:
        decoded = wire.decode_put(data, said)
    except RemoteProtocolError:
        return
    assert len(decoded.keys) == said.key_count
    assert all(1 <= len(key) <= 512 for key in decoded.keys)
    assert sum(decoded.lengths) == said.payload_bytes


@pytest.mark.parametrize("name", DECODERS)
def test_announced_sizes_take_no_memory(name: str) -> None:
    """A few bytes that announce the most there can be are refused before memory is taken for it."""
    hostile = [
        b"",
        b"\xff" * 64,
        struct.pack("<H", 512),
        struct.pack("<H", 512) + bytes(512),
        bytes(2) + struct.pack("<4096H", *([512] * 4096)),
        bytes(2) + struct.pack("<4096H", *([65535] * 4096)),
        bytes(4096) + bytes(4096),
    ]
    said = header(limits.FRAME_KEYS_MAX, payload_bytes=limits.FRAME_PAYLOAD_BYTES_MAX, flags=Flag.META)
    for metadata in hostile:
        tracemalloc.start()
        try:
            DECODERS[name](metadata, said)
        except RemoteProtocolError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 2**20, (metadata[:16], peak)
