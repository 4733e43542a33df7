# SPDX-License-Identifier: Apache-2.0
"""A batch that is dealt out over the drives of a lane, and put together again in the order of its keys."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from memkv_server.engine.base import ReadBatch, Reading, Reservation, Status
from memkv_server.engine.engine import SegmentEngine
from memkv_server.engine.plan import misses


class SetReservation:
    """Space on several drives; see ``Reservation``."""

    __slots__ = ("extents", "parts", "statuses")

    def __init__(self, count: int) -> None:
        self.extents: list[memoryview | None] = [None] * count
        self.statuses = bytearray([Status.READ_ONLY]) * count  # where no drive takes it
        self.parts: list[tuple[SegmentEngine, Reservation, Sequence[int]]] = []

    def landed(self, count: int) -> None:
        """See ``Reservation``."""
        for _, part, places in self.parts:
            part.landed(bisect_left(places, count))


class SetReading:
    """Reads on several drives as one."""

    __slots__ = ("_count", "_parts")

    def __init__(self, count: int, parts: Sequence[tuple[SegmentEngine, Reading, Sequence[int]]]) -> None:
        self._count = count
        self._parts = parts

    @property
    def settled(self) -> bool:
        """See ``Reading``."""
        return all(reading.settled for _, reading, _ in self._parts)

    def finish(self) -> ReadBatch:
        """See ``Reading``."""
        return whole_batch(self._count, [(engine, reading.finish(), places) for engine, reading, places in self._parts])

    def abandon(self) -> None:
        """See ``Reading``."""
        for _, reading, _ in self._parts:
            reading.abandon()


def whole_batch(count: int, parts: Sequence[tuple[SegmentEngine, ReadBatch, Sequence[int]]]) -> ReadBatch:
    """The batches of the drives as one, in the order of the keys."""
    if len(parts) == 1 and len(parts[0][2]) == count:
        engine, whole, _ = parts[0]
        whole.pins = [(engine, ReadBatch(bytearray(), [], [], bytearray(), [], [], whole.pins))]
        return whole
    whole = misses(count)
    for engine, part, places in parts:
        for at, place in enumerate(places):
            whole.statuses[place] = part.statuses[at]
            whole.lengths[place] = part.lengths[at]
            whole.digests[place] = part.digests[at]
            whole.digest_kinds[place] = part.digest_kinds[at]
            whole.metas[place] = part.metas[at]
            whole.views[place] = part.views[at]
        whole.pins.append((engine, part))
    return whole


def pick(values: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
    """``values`` at these positions; the batch itself where that is all of it."""
    return values if len(places) == len(values) else [values[place] for place in places]
