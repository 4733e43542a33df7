# SPDX-License-Identifier: Apache-2.0
"""How old a record is: a clock that never goes back, and marks that tie sequence numbers to it. Pure but for clocks.

A record carries no time. It carries its sequence number, which it keeps when it is copied forward; and from time to
time the registry is told which number was the newest then, as a *mark*. After a restart a record counts as written at
the last mark before it, so that it is never taken for younger than it is::

    marks    10:00, 700           10:10, 950          10:20, 951
    records            701 ... 950            951                952 ...
    count as           10:00                  10:10              10:20

The clock follows the system's where that is ahead, and goes on at its own pace where that has been set back. A mark
also says how far the clock may run until the next one (``until``): a start begins no earlier, so that what was
expired stays so. The first marks of a life reach a second ahead, and each twice as far as the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from memkv_server.engine.limits import MARK_ACCURACY, MARK_COUNT_MAX, MARK_INTERVAL_S_MAX, MARK_TTL_SHARE

SECONDS_MAX: Final = (1 << 32) - 1


class Mark(NamedTuple):
    """At ``seconds``, ``sequence`` was the newest; the clock may run to ``until`` before there is another mark."""

    seconds: int
    sequence: int
    until: int


def thinned(marks: Sequence[Mark], count_max: int = MARK_COUNT_MAX) -> list[Mark]:
    """As many as are needed to tell ages to a share of MARK_ACCURACY; those of long ago lie far apart."""
    kept: list[Mark] = []
    for position in range(len(marks) - 1, -1, -1):
        mark = marks[position]
        near = kept and (kept[-1].seconds - mark.seconds) * MARK_ACCURACY < kept[0].seconds - kept[-1].seconds
        if near and position:  # before the first there is nothing to go by
            continue
        kept.append(mark)
        if len(kept) >= count_max:
            break
    return kept[::-1]


class AgeClock:
    """The clock of one drive, in whole seconds of unix time. ``ttl_s_min`` is the shortest TTL there is, if any."""

    def __init__(
        self,
        marks: Sequence[Mark],
        ttl_s_min: int | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._needed = ttl_s_min is not None
        share = ttl_s_min // MARK_TTL_SHARE if ttl_s_min is not None else MARK_INTERVAL_S_MAX
        self._interval_s = max(1, min(share, MARK_INTERVAL_S_MAX))
        self._lease_s = 1 if self._needed else self._interval_s
        self._marks = list(marks)
        last = marks[-1] if marks else Mark(0, 0, 0)
        self._base_s = max(wall(), float(last.until))
        self._base_at = monotonic()
        self._mark_at_s = self._base_s if self._needed else self._base_s + self._interval_s

    def now(self) -> int:
        """Never less than at any time before, in any life of the drive that had a TTL to keep."""
        at = self._monotonic()
        now_s = self._base_s + at - self._base_at
        wall_s = self._wall()
        if wall_s > now_s:
            self._base_s, self._base_at = wall_s, at
            now_s = wall_s
        return min(int(now_s), SECONDS_MAX)

    @property
    def newest_sequence(self) -> int:
        """That is known to have been given."""
        return max((mark.sequence for mark in self._marks), default=0)

    def next_mark(self, sequence: int) -> Mark | None:
        """The mark that is to be recorded now, ``sequence`` being the newest; None: none is due."""
        now_s = self.now()
        if now_s < self._mark_at_s:
            return None
        if not self._needed and sequence <= self.newest_sequence:
            self._mark_at_s = now_s + self._interval_s
            return None
        return Mark(now_s, sequence, min(now_s + self._lease_s, SECONDS_MAX) if self._needed else now_s)

    def marked(self, mark: Mark) -> None:
        """It is recorded durably."""
        self._marks.append(mark)
        if len(self._marks) > 2 * MARK_COUNT_MAX:
            self._marks = thinned(self._marks)
        self._mark_at_s = mark.seconds + self._lease_s
        self._lease_s = min(2 * self._lease_s, self._interval_s)

    def written_at(self, sequences: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """For records with these sequence numbers the second that they count as written in; 0: long ago."""
        known = np.array([mark.sequence for mark in self._marks], dtype=np.uint64)
        seconds = np.array([0, *(mark.seconds for mark in self._marks)], dtype=np.int64)
        return seconds[np.searchsorted(known, sequences, side="left")]
