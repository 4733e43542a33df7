# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from memkv_core import limits, wire
from memkv_core.calls import GetCall, KeysCall, LookupCall, PutCall
from memkv_core.errors import RemoteProtocolError
from memkv_core.wire import DigestKind, Flag, Header, Opcode, Status

PREFIX = b"\xa5"


def header(
    count: int, metadata: bytes = b"", payload_bytes: int = 0, flags: int = 0, opcode: Opcode = Opcode.GET
) -> Header:
    return Header(opcode, Flag.RESPONSE | flags, 0, 0, count, len(metadata), payload_bytes)


def xxh3(value: bytes) -> bytes:
    return xxhash.xxh3_128_digest(value)


# -- GET --------------------------------------------------------------------------------------------------------------
class Stored:
    """What a server would answer: None a miss, a Status in place of a value just that, else the value."""

    def __init__(self, *values: bytes | Status | None, kind: int = DigestKind.XXH3_128, **wrong: Any) -> None:
        hits = [value if isinstance(value, bytes) else None for value in values]
        self.payload = b"".join(value for value in hits if value is not None)
        statuses = bytes(
            Status.HIT if isinstance(value, bytes) else Status.MISS if value is None else value for value in values
        )
        digests = [
            bytes(16)
            if value is None
            else xxh3(value)
            if kind != DigestKind.SHA256_128
            else hashlib.sha256(value).digest()[:16]
            for value in hits
        ]
        kinds = bytes(0 if value is None else kind for value in hits)
        lengths = [0 if value is None else len(value) for value in hits]
        metas = wrong.get("metas")
        self.metadata = wire.encode_get_response(
            wrong.get("statuses", statuses), kinds, wrong.get("lengths", lengths), digests, metas
        )
        self.header = header(
            wrong.get("count", len(values)),
            self.metadata,
            wrong.get("payload_bytes", len(self.payload)),
            Flag.META if metas is not None else 0,
        )


def get_call(*targets: list[bytearray], with_meta: bool = False, kind_min: int = 0) -> GetCall:
    keys = [b"key-%d" % number for number in range(len(targets))]
    parts = [[memoryview(part) for part in target] for target in targets]
    capacities = [sum(map(len, target)) for target in targets]
    return GetCall(range(100, 100 + len(keys)), keys, parts, capacities, with_meta=with_meta, kind_min=kind_min)


def land(call: GetCall, stored: Stored, steps: list[int] | None = None) -> None:
    """Has the payload arrive, in pieces that end at ``steps``, as a transport would."""
    scatter = call.accept(stored.header, stored.metadata)
    assert sum(map(len, scatter)) == stored.header.payload_bytes
    places = [(view, at) for view in scatter for at in range(len(view))]
    done = 0
    for step in [*sorted(steps or []), len(places)]:
        step = min(step, len(places))
        for (view, at), byte in zip(places[done:step], stored.payload[done:step]):
            view[at] = byte
        done = step
        call.landed(done)


def test_get_request() -> None:
    call = get_call([bytearray(5)], [bytearray(3), bytearray(4)], with_meta=True)
    assert wire.decode_get(call.metadata, 2) == ([b"key-0", b"key-1"], (5, 7))
    assert (call.opcode, call.flags, call.payload_bytes, call.sources) == (Opcode.GET, Flag.META, 0, [])
    assert call.response_metadata_bytes == len(Stored(None, None).metadata)


def test_a_target_beyond_the_largest_value() -> None:
    """The capacity is a u32 on the wire."""
    call = GetCall(range(2), [b"a", b"b"], [[], []], [2**33, 7], with_meta=False, kind_min=0)
    assert wire.decode_get(call.metadata, 2)[1] == (limits.VALUE_BYTES_MAX, 7)


@given(
    values=st.lists(st.none() | st.just(Status.TOO_LONG) | st.binary(max_size=60), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    room=st.integers(0, 5),
    steps=st.lists(st.integers(0, 300), max_size=8),
)
def test_get_lands(values: list[bytes | Status | None], cuts: list[int], room: int, steps: list[int]) -> None:
    """Values in targets of several parts, some roomier than needed, arriving in any pieces."""
    targets = []
    for value in values:
        left = (len(value) if isinstance(value, bytes) else 10) + room
        target = []
        for cut in cuts:
            target.append(bytearray(PREFIX * min(cut, left)))
            left -= len(target[-1])
        targets.append([*target, bytearray(PREFIX * left)])
    call = get_call(*targets)
    stored = Stored(*values)
    land(call, stored, steps)
    for value, target, length in zip(values, targets, call.lengths):
        whole = b"".join(target)
        if isinstance(value, bytes):
            assert length == len(value)
            assert whole == value + PREFIX * (len(whole) - len(value))
        else:
            assert length is None
            assert whole == PREFIX * len(whole), "a miss was written to"
    assert call.corrupt == []
    assert call.too_long_count == values.count(Status.TOO_LONG)
    assert call.received_bytes == len(stored.payload)


@given(steps=st.lists(st.integers(0, 40), max_size=6))
def test_get_reports_only_what_is_whole(steps: list[int]) -> None:
    values = [b"a" * 10, b"", b"b" * 20, b"c" * 10]
    call = get_call(*([bytearray(20)] for _ in values))
    stored = Stored(*values)
    scatter = call.accept(stored.header, stored.metadata)
    for view, value in zip(scatter, [value for value in values if value]):
        view[:] = value
    for step in sorted(steps):
        call.landed(step)
        expected = [10 if step >= 10 else None, 0 if step >= 10 else None, 20 if step >= 30 else None]
        assert call.lengths == [*expected, 10 if step >= 40 else None]


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("kind", DigestKind)
def test_a_corrupt_value_misses_alone(bad: int, kind: DigestKind) -> None:
    values = [b"aaaa", b"bbbbbb", b"cc"]
    stored = Stored(*values, kind=kind)
    altered = bytearray(stored.payload)
    altered[sum(map(len, values[:bad]))] ^= 4
    stored.payload = bytes(altered)
    call = get_call(*([bytearray(8)] for _ in values))
    land(call, stored)
    expected: list[int | None] = [4, 6, 2]
    expected[bad] = None
    assert (call.lengths, call.corrupt) == (expected, [bad])


def test_an_unknown_digest_kind_is_corrupt() -> None:
    call = get_call([bytearray(4)])
    land(call, Stored(b"abcd", kind=2))
    assert (call.lengths, call.corrupt) == ([None], [0])


def test_a_weaker_digest_than_wanted_is_a_miss_but_not_corrupt() -> None:
    for kind, length in ((DigestKind.XXH3_128, None), (DigestKind.SHA256_128, 4)):
        call = get_call([bytearray(4)], kind_min=DigestKind.SHA256_128)
        land(call, Stored(b"abcd", kind=kind))
        assert (call.lengths, call.corrupt) == ([length], [])


def test_get_with_meta() -> None:
    call = get_call([bytearray(4)], [bytearray(4)], with_meta=True)
    land(call, Stored(b"abcd", None, metas=[b"shape", b""]))
    assert (call.lengths, call.metas) == ([4, None], [b"shape", b""])


@pytest.mark.parametrize(
    "stored",
    [
        Stored(b"abcd"),
        Stored(b"abcd", None, None),
        Stored(b"abcd", None, count=3),
        Stored(b"abcd", None, payload_bytes=5),
        Stored(b"abcd", None, payload_bytes=0),
        Stored(b"abcde", None),
        Stored(b"abcd", None, lengths=[2**32 - 1, 0], payload_bytes=2**32 - 1),
        Stored(b"abcd", None, metas=[b"", b""]),
    ],
    ids=["few", "many", "count", "long payload", "no payload", "over the target", "huge", "meta"],
)
def test_get_responses_that_do_not_fit(stored: Stored) -> None:
    target = bytearray(PREFIX * 4)
    call = get_call([target], [bytearray(4)])
    with pytest.raises(RemoteProtocolError):
        call.accept(stored.header, stored.metadata)
    assert target == PREFIX * 4
    assert call.lengths == [None, None]


def test_meta_that_was_asked_for_and_does_not_come() -> None:
    call = get_call([bytearray(4)], with_meta=True)
    stored = Stored(b"abcd")
    with pytest.raises(RemoteProtocolError):
        call.accept(stored.header, stored.metadata)


def test_statuses_from_the_future_are_misses() -> None:
    call = get_call([bytearray(4)], [bytearray(4)])
    land(call, Stored(None, b"ab", statuses=bytes([77, Status.HIT])))
    assert call.lengths == [None, 2]


# -- PUT --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", DigestKind)
@pytest.mark.parametrize("metas", [None, [b"", b"m" * 4096, b"x"]])
def test_put_request(kind: DigestKind, metas: list[bytes] | None) -> None:
    values = [[b"one", b"two"], [], [b"three"]]
    call = PutCall(
        range(3), [b"a", b"bc", b"k" * 512], [[memoryview(part) for part in value] for value in values], metas, kind
    )
    assert (call.kind, call.flags, call.payload_bytes) == (kind, Flag.META if metas else 0, 11)
    assert b"".join(call.sources) == b"onetwothree"
    metadata = call.metadata
    said = Header(call.opcode, call.flags, call.kind, 0, call.key_count, len(metadata), call.payload_bytes)
    whole = [b"".join(value) for value in values]
    hashed = [xxh3(value) if kind == 0 else hashlib.sha256(value).digest()[:16] for value in whole]
    assert wire.decode_put(metadata, said) == ([b"a", b"bc", b"k" * 512], (6, 0, 5), hashed, metas)


def test_put_digests_are_of_what_is_sent() -> None:
    """They are made when the frame is about to be sent, not when the call is."""
    source = bytearray(b"before")
    call = PutCall(range(1), [b"k"], [[memoryview(source)]], None, 0)
    source[:] = b"after!"
    said = Header(call.opcode, 0, 0, 0, 1, 0, 6)
    assert wire.decode_put(call.metadata, said).digests == [xxh3(b"after!")]


# -- the others -------------------------------------------------------------------------------------------------------
def test_keys_call() -> None:
    call = KeysCall(Opcode.EXISTS, [4, 9], [b"a", b"b"])
    assert wire.decode_keys(call.metadata, 2) == [b"a", b"b"]
    assert call.accept(header(2, b"\1\0", opcode=Opcode.EXISTS), b"\1\0") == []
    assert call.statuses == bytes([Status.HIT, Status.MISS])


@pytest.mark.parametrize(
    ("count", "metadata", "payload_bytes"),
    [(1, b"\1", 0), (3, b"\1\1\1", 0), (2, b"\1", 0), (2, b"\1\1\1", 0), (2, b"\1\1", 1)],
)
def test_status_responses_that_do_not_fit(count: int, metadata: bytes, payload_bytes: int) -> None:
    for call in (
        KeysCall(Opcode.EXISTS, range(2), [b"a", b"b"]),
        PutCall(range(2), [b"a", b"b"], [[], []], None, 0),
    ):
        with pytest.raises(RemoteProtocolError):
            call.accept(header(count, metadata, payload_bytes), metadata)


def test_lookup_call() -> None:
    for run in (0, 2, 3):
        call = LookupCall(range(3), [b"a", b"b", b"c"])
        call.accept(header(3, bytes(4), opcode=Opcode.LOOKUP), run.to_bytes(4, "little"))
        assert call.run == run
    for count, metadata in ((3, b"\4\0\0\0"), (3, b"\xff\xff\xff\xff"), (3, b"\1"), (2, b"\1\0\0\0"), (0, b"\1\0\0\0")):
        call = LookupCall(range(3), [b"a", b"b", b"c"])
        with pytest.raises(RemoteProtocolError):
            call.accept(header(count, metadata, opcode=Opcode.LOOKUP), metadata)
