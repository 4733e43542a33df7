# SPDX-License-Identifier: Apache-2.0
"""Which drive of a lane a key lives on: each gets keys in proportion to its capacity. Pure.

By the key alone (weighted rendezvous hashing over a table), not by where there happens to be room. A cache is always
full, so free space is the same share of every drive a minute after the start; and a key that has one home has one
copy: no index above the drives' own, no tombstone that one drive would have to keep for another, and a drive that was
away comes back without values that were replaced or deleted elsewhere meanwhile. When a drive is added or taken away
only the keys move that it gains or loses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import xxhash

SLOT_BITS: Final = 12
SLOT_COUNT: Final = 1 << SLOT_BITS


def homes(names: Sequence[str], weights: Sequence[int]) -> list[int]:
    """For each of ``SLOT_COUNT`` slots the position of its drive. ``names`` are what a drive keeps for its life."""
    return [_home(slot, names, weights) for slot in range(SLOT_COUNT)]


def slot_of(key_hash: bytes) -> int:
    """The slot of a key, by the end of its hash: the index goes by the beginning."""
    return (key_hash[15] << 8 | key_hash[14]) & (SLOT_COUNT - 1)


def _home(slot: int, names: Sequence[str], weights: Sequence[int]) -> int:
    scores = [
        weight / -math.log((xxhash.xxh3_64_intdigest(name.encode(), slot) + 1) / (2**64 + 2))
        for name, weight in zip(names, weights, strict=True)
    ]
    return scores.index(max(scores))
