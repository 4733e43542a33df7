# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.digests import KINDS, digest
from memkv_core.wire import DigestKind


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_parts_are_as_good_as_the_whole(parts: list[bytes]) -> None:
    views, whole = [memoryview(part) for part in parts], b"".join(parts)
    assert digest(views, DigestKind.XXH3_128) == xxhash.xxh3_128_digest(whole)
    assert digest(views, DigestKind.SHA256_128) == hashlib.sha256(whole).digest()[:16]
    assert digest(views, 0) == digest([memoryview(whole)], 0)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 10_000))
def test_a_flipped_bit_shows(value: bytes, bit: int) -> None:
    altered = bytearray(value)
    altered[bit // 8 % len(value)] ^= 1 << bit % 8
    for kind in DigestKind:
        assert digest([memoryview(value)], kind) != digest([memoryview(altered)], kind)


@pytest.mark.parametrize("kind", [2, 255, -1])
def test_unknown_kind(kind: int) -> None:
    with pytest.raises(ValueError, match="digest kind"):
        digest([memoryview(b"x")], kind)


def test_golden_digests(vectors: Callable[[str], dict[str, Any]]) -> None:
    for row in vectors("digests.json")["digests"]:
        value = bytes((7 * number + row["size"]) % 251 for number in range(row["size"]))
        for name, kind in KINDS.items():
            assert digest([memoryview(value)], kind).hex() == row[name]
