# SPDX-License-Identifier: Apache-2.0
"""The wire format of what the server moves; the vectors of it are in ``test_vectors``."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core import limits, wire
from memkv_core.errors import RemoteProtocolError
from memkv_core.places import (
    PART,
    Access,
    Endpoint,
    Places,
    RegionKind,
    RegionRequest,
    decode_endpoint,
    decode_places,
    decode_region,
    encode_endpoint,
    encode_places,
    encode_region,
)
from memkv_core.wire import Flag, Header, Opcode

PARTS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**20))
VALUES = st.one_of(  # the parts of each value
    st.lists(st.lists(PARTS, max_size=5), max_size=12),
    st.lists(st.tuples(PARTS).map(list), max_size=40),  # one each, fewer and more than arrays are worth it for
)


def places_of(values: list[list[tuple[int, int, int]]]) -> Places:
    rows = [part for parts in values for part in parts]
    return Places(np.array([len(parts) for parts in values], np.uint16), np.array(rows, PART))


def sizes_of(values: list[list[tuple[int, int, int]]]) -> list[int]:
    return [sum(size for _, _, size in parts) for parts in values]


def header(count: int, *, flags: int = Flag.PLACED, payload_bytes: int = 0) -> Header:
    return Header(Opcode.PUT, flags, 0, 0, count, 0, payload_bytes)


@given(VALUES)
def test_places(values: list[list[tuple[int, int, int]]]) -> None:
    places, sizes = places_of(values), sizes_of(values)
    encoded = encode_places(places)
    assert len(encoded) == 2 * len(values) + 16 * sum(map(len, values))
    decoded = decode_places(encoded, sizes)
    assert decoded.counts.tolist() == places.counts.tolist()
    assert decoded.parts.tolist() == places.parts.tolist()
    assert decoded.one_each == all(len(parts) == 1 for parts in values)
    for wrong in ([*sizes, 0], sizes[:-1], [size + 1 for size in sizes]):
        if wrong != sizes:
            with pytest.raises(RemoteProtocolError):
                decode_places(encoded, wrong)
    for cut in {0, 1, len(encoded) // 2, len(encoded) - 1} - {len(encoded)}:
        if encoded:
            with pytest.raises(RemoteProtocolError):
                decode_places(encoded[:cut], sizes)
    with pytest.raises(RemoteProtocolError):
        decode_places(encoded + b"\0", sizes)


def test_bytes_of_one_value_do_not_count_for_the_next() -> None:
    encoded = encode_places(places_of([[(1, 0, 10)], [(1, 10, 20)]]))
    decode_places(encoded, [10, 20])
    for sizes in ([20, 10], [30, 0], [0, 30], [15, 15]):
        with pytest.raises(RemoteProtocolError):
            decode_places(encoded, sizes)


def test_parts_are_counted_before_memory_is_taken() -> None:
    most = limits.PLACED_PARTS_MAX
    encoded = encode_places(places_of([[(1, 0, 1)] * (most // 2), [(1, 0, 1)] * (most // 2)]))
    assert len(decode_places(encoded, [most // 2] * 2).parts) == most
    with pytest.raises(RemoteProtocolError, match="parts in a frame"):
        decode_places(struct.pack("<3H", 0xFFFF, 2, 0), [0, 0, 0])


@given(st.binary(max_size=200), st.lists(st.integers(0, 2**32 - 1), max_size=6))
def test_noise(data: bytes, sizes: list[int]) -> None:
    for decode in (lambda: decode_places(data, sizes), lambda: decode_region(data), lambda: decode_endpoint(data)):
        try:
            decode()
        except RemoteProtocolError:
            continue
        assert len(data) in (0, 2 * len(sizes) + 16 * ((len(data) - 2 * len(sizes)) // 16), 32, 64)


# -- with the frames --------------------------------------------------------------------------------------------------
@given(VALUES, st.booleans())
def test_a_placed_put(values: list[list[tuple[int, int, int]]], with_meta: bool) -> None:
    keys, sizes = [b"k%d" % number for number in range(len(values))], sizes_of(values)
    metas = [b"m"] * len(keys) if with_meta else None
    encoded = wire.encode_put(keys, sizes, [bytes(16)] * len(keys), metas) + encode_places(places_of(values))
    flags = Flag.PLACED | (Flag.META if with_meta else 0)
    request, places = wire.decode_placed_put(encoded, header(len(keys), flags=flags))
    assert (request.keys, request.lengths, request.metas) == (keys, tuple(sizes), metas)
    assert places.parts.tolist() == places_of(values).parts.tolist()
    with pytest.raises(RemoteProtocolError):
        wire.decode_placed_put(encoded + b"\0", header(len(keys), flags=flags))


def test_the_values_of_a_placed_put_are_bounded_together() -> None:
    half = limits.FRAME_PAYLOAD_BYTES_MAX // 2
    for more, fits in ((0, True), (1, False)):
        sizes = [half, half + more]
        places = places_of([[(1, 0, size)] for size in sizes])
        encoded = wire.encode_put([b"a", b"b"], sizes, [bytes(16)] * 2, None) + encode_places(places)
        if fits:
            wire.decode_placed_put(encoded, header(2))
        else:
            with pytest.raises(RemoteProtocolError, match="in a frame"):
                wire.decode_placed_put(encoded, header(2))


@given(VALUES)
def test_a_placed_get(values: list[list[tuple[int, int, int]]]) -> None:
    keys, sizes = [b"k%d" % number for number in range(len(values))], sizes_of(values)
    encoded = wire.encode_get(keys, sizes) + encode_places(places_of(values))
    decoded_keys, capacities, places = wire.decode_placed_get(encoded, len(keys))
    assert (decoded_keys, list(capacities)) == (keys, sizes)
    assert places.parts.tolist() == places_of(values).parts.tolist()


def test_a_placed_response_has_no_payload() -> None:
    encoded = wire.encode_get_response(b"\x01", b"\x00", [64], [bytes(16)], None)
    flags = Flag.RESPONSE | Flag.PLACED
    assert wire.decode_get_response(encoded, header(1, flags=flags)).lengths == (64,)
    for said in (header(1, flags=flags, payload_bytes=64), header(1, flags=Flag.RESPONSE)):
        with pytest.raises(RemoteProtocolError):
            wire.decode_get_response(encoded, said)


# -- regions and endpoints --------------------------------------------------------------------------------------------
REGIONS = st.builds(
    RegionRequest,
    region=st.integers(0, 2**32 - 1),
    access=st.integers(1, 3),
    kind=st.sampled_from(RegionKind),
    size_bytes=st.integers(1, limits.REGION_BYTES_MAX),
    address=st.integers(0, limits.ADDRESS_MAX - limits.REGION_BYTES_MAX),
    rkey=st.integers(0, 2**32 - 1),
    nonce=st.binary(min_size=32, max_size=32),
)


@given(REGIONS)
def test_regions(request: RegionRequest) -> None:
    assert decode_region(encode_region(request)) == request
    assert len(encode_region(request)) == 64


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"access": 0}, "access"),
        ({"access": 4}, "access"),
        ({"kind": 0}, "kind"),
        ({"kind": 3}, "kind"),
        ({"size_bytes": limits.REGION_BYTES_MAX + 1}, "bytes at"),
        ({"address": limits.ADDRESS_MAX}, "bytes at"),
        ({"address": 2**64 - 1}, "bytes at"),
    ],
)
def test_region_bounds(changed: dict[str, int], match: str) -> None:
    good = RegionRequest(1, Access.READ, RegionKind.RDMA, 4096, 4096, 1)
    decode_region(encode_region(good))
    with pytest.raises(RemoteProtocolError, match=match):
        decode_region(encode_region(good._replace(**changed)))  # type: ignore[arg-type]


def test_a_region_that_is_given_back_needs_no_access() -> None:
    given_back = RegionRequest(1, 0, RegionKind.SHM, 0)
    assert decode_region(encode_region(given_back)) == given_back


@pytest.mark.parametrize("at", [6, 7, 28, 29, 30, 31])
def test_reserved_bits_of_a_region(at: int) -> None:
    encoded = bytearray(encode_region(RegionRequest(1, Access.READ, RegionKind.RDMA, 4096, 4096, 1)))
    encoded[at] = 1
    with pytest.raises(RemoteProtocolError, match="reserved"):
        decode_region(bytes(encoded))


ENDPOINT = Endpoint(17, 0xFFFFFF, bytes(16), 3, 5, 1, 64, 16, 2)


def test_endpoints() -> None:
    assert decode_endpoint(encode_endpoint(ENDPOINT)) == ENDPOINT
    assert len(encode_endpoint(ENDPOINT)) == 32


@pytest.mark.parametrize(
    "changed",
    [{"qpn": 1 << 24}, {"psn": 1 << 24}, {"mtu": 0}, {"mtu": 6}, {"port": 0}, {"depth": 0}, {"depth": 4097},
     {"reads": 0}],
)  # fmt: skip
def test_endpoint_bounds(changed: dict[str, int]) -> None:
    with pytest.raises(RemoteProtocolError, match=next(iter(changed))):
        decode_endpoint(encode_endpoint(ENDPOINT._replace(**changed)))  # type: ignore[arg-type]
