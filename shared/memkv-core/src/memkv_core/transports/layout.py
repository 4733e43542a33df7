# SPDX-License-Identifier: Apache-2.0
"""Where the blocks of a call are that a server moves: in registered memory, or in room of the staging. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from memkv_core.limits import PLACED_PARTS_MAX
from memkv_core.places import PART
from memkv_core.regions import Regions, addresses_of

Parts = list[memoryview]

_ALIGNMENT: Final = 64  # of a staged block: a cache line
_BLOCK_PARTS_MAX: Final = 0xFFFF


class Layout(NamedTuple):
    """Where the blocks of a call are. ``staged`` maps the place of a block to (its offset, its bytes) in the slots."""

    counts: npt.NDArray[np.uint16] | None  # None: every block that is not empty is staged
    parts: npt.NDArray[np.void]  # of PART; those of staged blocks are filled in when there are slots
    staged: dict[int, tuple[int, int]]
    staged_bytes: int  # room in the slots
    too_many_parts: bool


_NO_PARTS: Final = np.zeros(0, PART)


def lay_out(blocks: Sequence[Parts], regions: Regions, *, direct: bool) -> Layout:
    """Registered blocks by their regions, if ``direct``; all others staged."""
    views = list(chain.from_iterable(blocks))
    if len(views) > PLACED_PARTS_MAX or max(map(len, blocks), default=0) > _BLOCK_PARTS_MAX:
        return _staged(blocks, too_many_parts=True)
    if not direct or not regions.ranges:
        return _staged(blocks)
    count = len(blocks)
    sizes = np.fromiter(map(len, views), np.int64, len(views))
    numbers, offsets = regions.find(addresses_of(views), sizes)
    missing = numbers < 0
    if missing.all():
        return _staged(blocks)
    counts = np.fromiter(map(len, blocks), np.int64, count)
    if not missing.any():
        parts = np.empty(len(views), PART)
        parts["region"], parts["offset"], parts["bytes"] = numbers, offsets, sizes
        return Layout(counts.astype(np.uint16), parts, {}, 0, False)
    return _mixed(counts, sizes, numbers, offsets)


def _staged(blocks: Sequence[Parts], *, too_many_parts: bool = False) -> Layout:
    """A plain loop: for a few blocks a tenth of what arrays cost, for many no more."""
    staged: dict[int, tuple[int, int]] = {}
    at = 0
    for place, parts in enumerate(blocks):
        if parts:
            size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
            staged[place] = at, size
            at += -(-size // _ALIGNMENT) * _ALIGNMENT
    return Layout(None, _NO_PARTS, staged, at, too_many_parts)


def _mixed(
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.uint64],
) -> Layout:
    bounds = np.concatenate(([0], np.cumsum(counts)))
    missing = np.diff(np.concatenate(([0], np.cumsum(numbers < 0)))[bounds])
    block_bytes = np.diff(np.concatenate(([0], np.cumsum(sizes)))[bounds])
    kept = np.repeat(missing == 0, counts)
    parts = np.empty(int(kept.sum()), PART)
    parts["region"], parts["offset"], parts["bytes"] = numbers[kept], offsets[kept], sizes[kept]
    staged, staged_bytes = _room(np.flatnonzero(missing), block_bytes)
    direct_counts = np.where(missing > 0, 0, counts).astype(np.uint16)
    return Layout(direct_counts, parts, staged, staged_bytes, len(parts) + len(staged) > PLACED_PARTS_MAX)


def _room(places: npt.NDArray[np.int64], block_bytes: npt.NDArray[np.int64]) -> tuple[dict[int, tuple[int, int]], int]:
    """(place: (offset, bytes) of each block that is staged, the room that they take)."""
    held = block_bytes[places]
    ends = np.cumsum(-(-held // _ALIGNMENT) * _ALIGNMENT)
    starts = np.append(0, ends)[:-1]
    staged = dict(zip(places.tolist(), zip(starts.tolist(), held.tolist())))
    return staged, int(ends[-1]) if len(ends) else 0
