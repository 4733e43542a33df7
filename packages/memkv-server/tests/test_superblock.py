# SPDX-License-Identifier: Apache-2.0
"""Capacity to geometry, and the superblock that records it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.errors import StorageError
from memkv_core.limits import MIB
from memkv_server.engine import superblock
from memkv_server.engine.superblock import (
    SUPERBLOCK_BYTES,
    Geometry,
    decode_superblock,
    default_segment_bytes,
    encode_superblock,
    plan_geometry,
    resize_geometry,
)


@given(st.integers(32 * MIB, 1 << 45))
def test_a_store_never_exceeds_its_capacity_and_wastes_little(capacity: int) -> None:
    geometry = plan_geometry(capacity, None, 64, "here")
    assert geometry.store_bytes <= capacity
    assert capacity - geometry.store_bytes < geometry.segment_bytes
    assert geometry.segment_count >= 7
    assert geometry.segment_bytes & (geometry.segment_bytes - 1) == 0
    assert geometry.registry_bytes % 4096 == 0


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [(16 * MIB, 4 * MIB), (512 * MIB, 16 * MIB), (4096 * MIB, 128 * MIB), (1 << 42, 256 * MIB), (1, 4 * MIB)],
)
def test_default_segments(capacity: int, expected: int) -> None:
    assert default_segment_bytes(capacity) == expected


@pytest.mark.parametrize("segment_bytes", [0, 1, 65_537, 32 * 1024, 3 * MIB, 2048 * MIB])
def test_an_impossible_segment_size(segment_bytes: int) -> None:
    with pytest.raises(StorageError, match=f"here: a segment of {segment_bytes} bytes.*power of two"):
        plan_geometry(1 << 40, segment_bytes, 64, "here")


def test_a_capacity_too_small_names_the_least() -> None:
    with pytest.raises(StorageError, match="too few") as caught:
        plan_geometry(10 * MIB, None, 64, "/data")
    least = int(str(caught.value).split("at least ")[1].split(" ")[0])
    assert plan_geometry(least, None, 64, "/data").segment_count == 4
    with pytest.raises(StorageError):
        plan_geometry(least - 1, None, 64, "/data")


def test_a_capacity_too_large() -> None:
    with pytest.raises(StorageError, match="one lane"):
        plan_geometry(1 << 60, None, 64, "/data")


def test_resizing_keeps_everything_else() -> None:
    geometry = plan_geometry(128 * MIB, None, 64, "here")
    larger = resize_geometry(geometry, 512 * MIB, "here")
    assert (larger.uuid, larger.segment_bytes) == (geometry.uuid, geometry.segment_bytes)
    assert larger.segment_count == 127
    assert resize_geometry(larger, 128 * MIB, "here") == geometry


GEOMETRY = Geometry(4 * MIB, 15, 65_536, 64, bytes(range(16)), 1_700_000_000)


def test_the_superblock_is_what_was_encoded() -> None:
    block = encode_superblock(GEOMETRY)
    assert len(block) == SUPERBLOCK_BYTES
    assert decode_superblock(block, "here") == GEOMETRY


@given(st.integers(0, 72 * 8 - 1))
def test_no_flipped_bit_goes_unseen(bit: int) -> None:
    block = bytearray(encode_superblock(GEOMETRY))
    block[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StorageError, match=r"^here (is not the superblock|has format version|is damaged)"):
        decode_superblock(bytes(block), "here")


def test_a_newer_version_is_refused_by_its_number_and_an_older_one_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    block = encode_superblock(GEOMETRY)
    version = superblock.FORMAT_VERSION
    monkeypatch.setattr(superblock, "FORMAT_VERSION", version + 1)
    assert decode_superblock(block, "here") == GEOMETRY
    resized = resize_geometry(GEOMETRY, 128 * MIB, "here")
    assert (GEOMETRY.format_version, resized.format_version) == (version, version + 1)
    newer = encode_superblock(resized)
    monkeypatch.undo()
    with pytest.raises(StorageError, match=f"format version {version + 1}, and this release knows .* up to {version}"):
        decode_superblock(newer, "here")


def test_what_is_no_superblock() -> None:
    for block in (b"", b"x" * 4096, encode_superblock(GEOMETRY)[:60]):
        with pytest.raises(StorageError, match="/data/x is not the superblock of a MemKV store"):
            decode_superblock(block, "/data/x")
