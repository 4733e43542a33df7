# SPDX-License-Identifier: Apache-2.0
"""A read batch between its look-up and its end: where its records lie, and what must come into memory first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from memkv_server.engine.base import Namespace, ReadBatch
from memkv_server.engine.drive import Extent
from memkv_server.engine.evict import HEAT_BITS
from memkv_server.engine.index import ADDRESS_BITS, ADDRESS_MASK
from memkv_server.engine.pool import Segment
from memkv_server.engine.segment import UNIT_SHIFT

_NO_DIGEST = bytes(16)


@dataclass(slots=True)
class ReadPlan:
    """``places[i]`` is None where key i is not there."""

    namespace: Namespace
    keys: Sequence[bytes]
    capacities: Sequence[int]
    hashes: list[bytes]
    places: list[int | None]
    held: list[Extent]  # what the drive keeps in memory for it
    missing: list[Extent] = field(default_factory=list)  # extents that are not in memory yet
    pinned: list[Segment] = field(default_factory=list)  # until they are
    unreadable: set[int] = field(default_factory=set)  # positions


def misses(count: int) -> ReadBatch:
    """A batch in which nothing was found."""
    return ReadBatch(
        bytearray(count), [0] * count, [_NO_DIGEST] * count, bytearray(count), [b""] * count, [None] * count
    )


def runs_of(places: Sequence[int | None]) -> list[Extent]:
    """The extents of a batch's records, first byte and length, those that lie one after the other as one."""
    runs: list[Extent] = []
    start = end = 0  # in units
    for place in places:
        if place is None:
            continue
        extent = place >> HEAT_BITS
        unit = extent & ADDRESS_MASK
        if unit != end:
            if end:
                runs.append((start << UNIT_SHIFT, end - start << UNIT_SHIFT))
            start = unit
        end = unit + (extent >> ADDRESS_BITS)
    if end:
        runs.append((start << UNIT_SHIFT, end - start << UNIT_SHIFT))
    return runs
