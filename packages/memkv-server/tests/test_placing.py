# SPDX-License-Identifier: Apache-2.0
"""Records placed and published by arrays are, byte for byte, what they are one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memkv_core.digests import digest
from memkv_core.testing.engine_tests import await_barrier, get
from memkv_server.engine import Namespace, SegmentEngine, Status, heads, open_engine
from memkv_server.engine.heads import ALIKE_MIN
from memkv_server.engine.index import place_address, place_length
from memkv_server.engine.reservation import PutReservation
from memkv_server.engine.segment import (
    ENTRY,
    ENTRY_BYTES,
    STAMP_SHIFT,
    UNIT_SHIFT,
    RecordState,
    decode_record,
    encode_record,
    hash_key,
    record_layout,
)

SEGMENT = 64 << 10
EXAMPLES = count()  # gives each its own keys
ALIGNMENT = {"memory": 64, "direct": 4096}


@pytest.fixture(params=["memory", "direct"], scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SegmentEngine]:
    path: Path = tmp_path_factory.mktemp("store")
    engine = open_engine(request.param, path / "store", 16 << 20, SEGMENT)
    yield engine
    engine.close()


@pytest.fixture
def namespace(engine: SegmentEngine) -> Namespace:
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    return namespace


def check_reserved(reservation: PutReservation, keys: list[bytes], lengths: list[int], alignment: int) -> None:
    for position, key_hash, segment, offset, size, check in reservation.records:
        key, length = keys[position], lengths[position]
        assert key_hash == hash_key(key, reservation.namespace.hash)
        wanted, wanted_check = encode_record(
            reservation.namespace_hash, key, b"", reservation.digests[position], 0, length, segment.seed,
            reservation.kind_and_stamp >> STAMP_SHIFT,
        )  # fmt: skip
        payload_at, wanted_size = record_layout(len(key), 0, length, alignment)
        at = segment.origin + offset
        assert segment.memory[at : at + len(wanted)] == wanted
        assert (size, check) == (wanted_size, wanted_check)
        extent = reservation.extents[position]
        assert extent is not None
        assert len(extent) == length
        if length:
            segment.memory[at + payload_at] = 7
            assert extent[0] == 7
        assert offset + size <= segment.tail


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 6000), min_size=ALIKE_MIN, max_size=30),
    number=st.integers(0, 1 << 40),
    more=st.integers(0, 200),
    wrong=st.sets(st.integers(0, 39), max_size=3),
)
def test_random_batches(
    engine: SegmentEngine, namespace: Namespace, lengths: list[int], number: int, more: int, wrong: set[int]
) -> None:
    """Over several segments, with payloads that do not arrive as announced among them."""
    rng = random.Random(number)
    example = next(EXAMPLES)
    keys = [b"%08d-%04d" % (example, at) + b"." * more for at in range(len(lengths))]
    values = [rng.randbytes(length) for length in lengths]
    reservation = engine.reserve(namespace, keys, lengths, [digest([memoryview(v)], 0) for v in values], 0, None)
    alignment = engine.parts.pool.alignment
    records = list(reservation.records)
    assert [record[0] for record in records] == list(range(len(keys))), "every one found room, in their order"
    check_reserved(reservation, keys, lengths, alignment)
    for position, (extent, value) in enumerate(zip(reservation.extents, values, strict=True)):
        assert extent is not None
        extent[:] = value
        if position in wrong and value:
            extent[-1] ^= 1
    before = engine.parts.pool.record_sequence
    statuses = engine.commit(reservation)
    good = [at for at in range(len(keys)) if at not in wrong or not values[at]]
    assert statuses == bytes(Status.HIT if at in good else Status.BAD_DIGEST for at in range(len(keys)))
    check_published(engine, namespace, [records[at] for at in good], keys, before)
    assert get(engine, namespace, keys) == [value if at in good else None for at, value in enumerate(values)]
    await_barrier(engine)  # what is given up in mode direct is free after that
    engine.tick()


def check_published(
    engine: SegmentEngine,
    namespace: Namespace,
    records: list[tuple[int, bytes, object, int, int, int]],
    keys: list[bytes],
    before: int,
) -> None:
    """States, sequences, footer entries and places in the index."""
    index, pool = engine.parts.index, engine.parts.pool
    for sequence, (position, key_hash, _, offset, size, _) in enumerate(records, before + 1):
        place = index.get(key_hash)
        assert place is not None
        segment = pool.segments[place_address(place) >> pool.segment_shift]
        assert (place_address(place), place_length(place)) == (segment.address + offset, size)
        header = decode_record(segment.memory, segment.origin + offset, segment.origin + segment.end, segment.seed)
        assert header is not None
        assert header.committed
        assert (header.sequence, header.key, header.state) == (sequence, keys[position], RecordState.COMMITTED)
        entry = ENTRY.pack(
            key_hash, namespace.hash, sequence, offset >> UNIT_SHIFT, size >> UNIT_SHIFT, RecordState.COMMITTED
        )
        assert entry in [segment.footer_entries()[at : at + ENTRY_BYTES] for at in range(0, 1 << 16, ENTRY_BYTES)]


def test_a_key_that_stands_twice_is_stored_as_last_given(engine: SegmentEngine, namespace: Namespace) -> None:
    keys = [b"twice-%02d" % (number // 2) for number in range(2 * ALIKE_MIN)]
    values = [b"value %03d" % number for number in range(len(keys))]
    digests = [digest([memoryview(value)], 0) for value in values]
    reservation = engine.reserve(namespace, keys, [9] * len(keys), digests, 0, None)
    for extent, value in zip(reservation.extents, values, strict=True):
        assert extent is not None
        extent[:] = value
    before = engine.namespace_usage("n")["records"]
    assert set(engine.commit(reservation)) == {Status.HIT}
    assert get(engine, namespace, keys[::2]) == values[1::2]
    assert engine.namespace_usage("n")["records"] == before + ALIKE_MIN


@pytest.mark.parametrize("alike_min", [1, 1000])
def test_what_is_too_long_stands_among_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alike_min: int
) -> None:
    monkeypatch.setattr(heads, "ALIKE_MIN", alike_min)
    engine = open_engine("memory", None, 4 << 20, SEGMENT)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    lengths = [20_000, SEGMENT, 20_000, 20_000, SEGMENT, 20_000, 20_000]
    keys = [b"key-%d" % number for number in range(len(lengths))]
    value = bytes(SEGMENT)
    digests = [digest([memoryview(value)[:length]], 0) for length in lengths]
    reservation = engine.reserve(namespace, keys, lengths, digests, 0, None)
    assert [extent is None for extent in reservation.extents] == [length == SEGMENT for length in lengths]
    for extent in reservation.extents:
        if extent is not None:
            extent[:] = bytes(len(extent))
    wanted = [Status.TOO_LONG if length == SEGMENT else Status.HIT for length in lengths]
    assert list(engine.commit(reservation)) == wanted
    engine.close()
