# SPDX-License-Identifier: Apache-2.0
"""The format: what is encoded is decoded, what is damaged or of another life is not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.digests import digest
from memkv_server.engine.segment import (
    DIGESTS,
    ENTRY,
    ENTRY_BYTES,
    ENTRY_DTYPE,
    RECORD_COMMIT,
    RECORD_COMMIT_AT,
    RECORD_HEADER_BYTES,
    RECORD_STATE_AT,
    SEGMENT_STATE_AT,
    TRAILER_BYTES,
    UNIT_SHIFT,
    RecordState,
    SegmentState,
    commit_check,
    decode_footer,
    decode_record,
    decode_segment_header,
    encode_record,
    encode_segment_header,
    encode_trailer,
    record_layout,
    segment_seed,
)

UUID = bytes(range(16))
U64 = st.integers(0, 2**64 - 1)


@given(
    namespace_hash=U64,
    key=st.binary(min_size=1, max_size=512),
    meta=st.binary(max_size=4096),
    value_bytes=st.integers(0, 2**32 - 1),
    kind=st.sampled_from([0, 1]),
    seed=U64,
    before=st.integers(0, 200),
)
def test_a_record_is_what_was_encoded(
    namespace_hash: int, key: bytes, meta: bytes, value_bytes: int, kind: int, seed: int, before: int
) -> None:
    encoded, check = encode_record(namespace_hash, key, meta, b"d" * 16, kind, value_bytes, seed)
    assert len(encoded) == RECORD_HEADER_BYTES + len(key) + len(meta)
    memory = bytes(before) + encoded + bytes(64)
    header = decode_record(memory, before, len(memory), seed)
    assert header is not None
    assert (header.namespace_hash, header.key, header.meta) == (namespace_hash, key, meta)
    assert (header.digest, header.digest_kind, header.value_bytes) == (b"d" * 16, kind, value_bytes)
    assert (header.state, header.committed, header.header_check) == (RecordState.RESERVED, False, check)
    assert decode_record(memory, before, before + len(encoded) - 1, seed) is None, "it does not fit"
    assert decode_record(memory, before, len(memory), seed ^ 1) is None, "it is of another life"


def test_a_stamp_stands_where_there_were_zeros() -> None:
    """The bytes of a record of the first release, and of the same record with a stamp."""
    encoded, _ = encode_record(1, b"key", b"", b"d" * 16, 0, 1000, 7)
    plain = "024d4b520f000000" + "00" * 16 + "4c26256f9846384e" + "0100000000000000" + "64" * 16 + "e803000000000300"
    assert encoded.hex() == plain + "0000000000000000" + b"key".hex()
    stamped, _ = encode_record(1, b"key", b"", b"d" * 16, 1, 1000, 7, stamp=(1 << 56) - 1)
    assert stamped[64:72] == b"\x01" + b"\xff" * 7
    assert [header.stamp for header in (decode_record(each, 0, 75, 7) for each in (encoded, stamped)) if header] == [
        0,
        (1 << 56) - 1,
    ]


@given(key=st.binary(min_size=1, max_size=100), meta=st.binary(max_size=100), bit=st.integers(0, 10_000), seed=U64)
def test_no_flipped_bit_of_a_header_goes_unseen(key: bytes, meta: bytes, bit: int, seed: int) -> None:
    encoded, check = encode_record(1, key, meta, b"d" * 16, 0, 1000, seed)
    record = bytearray(encoded)
    RECORD_COMMIT.pack_into(record, RECORD_COMMIT_AT, 77, commit_check(check, 77, RecordState.COMMITTED))
    record[RECORD_STATE_AT] = RecordState.COMMITTED
    whole = decode_record(bytes(record), 0, len(record), seed)
    assert whole is not None
    assert whole.committed
    bit %= len(record) * 8
    if 5 <= bit // 8 < 8:
        return  # zeros that mean nothing
    record[bit // 8] ^= 1 << bit % 8
    damaged = decode_record(bytes(record), 0, len(record), seed)
    assert damaged is None or not damaged.committed


@given(check=U64, sequence=st.integers(1, 2**63), other=st.integers(1, 2**63))
def test_a_commit_check_ties_sequence_and_state(check: int, sequence: int, other: int) -> None:
    ours = commit_check(check, sequence, RecordState.COMMITTED)
    assert (commit_check(check, other, RecordState.COMMITTED) == ours) == (other == sequence)
    assert commit_check(check, sequence, RecordState.TOMBSTONE) != ours
    assert commit_check(check ^ 1, sequence, RecordState.COMMITTED) != ours


@pytest.mark.parametrize("alignment", [64, 4096])
@given(key=st.integers(1, 512), meta=st.integers(0, 4096), value=st.integers(0, 1 << 28))
def test_layout(alignment: int, key: int, meta: int, value: int) -> None:
    payload_at, size = record_layout(key, meta, value, alignment)
    assert payload_at % alignment == size % alignment == 0
    assert 0 <= payload_at - (RECORD_HEADER_BYTES + key + meta) < alignment
    assert 0 <= size - payload_at - value < alignment


def test_a_segment_header_through_its_life() -> None:
    memory = bytearray(8192)
    never = decode_segment_header(bytes(memory), 4096, UUID)
    assert never is not None
    assert never.state == SegmentState.NEVER_USED
    memory[4096:4160] = encode_segment_header(7, 3, 1_700_000_000, UUID)
    free = decode_segment_header(bytes(memory), 4096, UUID)
    assert free is not None
    assert free.state == SegmentState.FREE, "until the state is flipped"
    for state in (SegmentState.OPEN, SegmentState.SEALED):
        memory[4096 + SEGMENT_STATE_AT] = state
        header = decode_segment_header(bytes(memory), 4096, UUID)
        assert header is not None
        assert (header.state, header.sequence, header.oldest_sequence, header.opened_at) == (state, 7, 3, 1_700_000_000)
    assert decode_segment_header(bytes(memory), 4096, bytes(16)) is None, "of another store"
    for at in (4096, 4104, 4112, 4120, 4130, 4140):
        damaged = bytearray(memory)
        damaged[at] ^= 0x10
        assert decode_segment_header(bytes(damaged), 4096, UUID) is None


def test_a_half_written_segment_header_is_free() -> None:
    old = bytearray(encode_segment_header(7, 3, 1, UUID))
    new = encode_segment_header(9, 8, 2, UUID)
    for written in range(len(new) + 1):
        for before in (old, bytes(64)):
            header = decode_segment_header(bytes(new[:written] + before[written:]), 0, UUID)
            if before is old or written == 0 or written >= 8:
                assert header is not None
                assert header.state in (SegmentState.FREE, SegmentState.NEVER_USED)


@given(count=st.integers(0, 50), tail=st.integers(64, 100), flip=st.integers(0))
def test_a_footer_is_whole_or_nothing(count: int, tail: int, flip: int) -> None:
    seed = segment_seed(UUID, 5)
    entries = b"".join(
        ENTRY.pack(bytes([number]) * 16, 3, number, number, 2, RecordState.COMMITTED) for number in range(count)
    )
    end = 16_384
    footer = entries + encode_trailer(5, tail, entries, seed)
    memory = bytearray(end - len(footer)) + footer
    assert decode_footer(bytes(memory), 0, end, 5, seed) == (entries, tail)
    assert decode_footer(bytes(memory), 0, end, 6, segment_seed(UUID, 6)) is None
    table = np.frombuffer(entries, dtype=ENTRY_DTYPE)
    assert table["sequence"].tolist() == list(range(count))
    assert table["offset"].tolist() == list(range(count))
    at = end - len(footer) + flip % (len(entries) + TRAILER_BYTES - 24)
    memory[at] ^= 1
    assert decode_footer(bytes(memory), 0, end, 5, seed) is None


def test_a_footer_that_reaches_into_the_records_is_refused() -> None:
    seed = segment_seed(UUID, 5)
    entries = bytes(ENTRY_BYTES) * 4
    memory = (
        bytes(4096 - ENTRY_BYTES * 4 - TRAILER_BYTES) + entries + encode_trailer(5, 4096 >> UNIT_SHIFT, entries, seed)
    )
    assert decode_footer(memory, 0, 4096, 5, seed) is None


def test_digests_are_those_of_the_wire() -> None:
    payload = memoryview(b"payload" * 100)
    for kind, function in DIGESTS.items():
        assert function(payload) == digest([payload], kind)
        assert len(function(payload)) == 16
    assert DIGESTS[1](payload) == hashlib.sha256(payload).digest()[:16]
