# SPDX-License-Identifier: Apache-2.0
"""What survives when a segment is evicted. Pure: numbers in, numbers out; no device, no clock.

Segments go oldest first (FIFO). A record that was read since it was written is a candidate for a second chance: it is
copied forward, those most worth it first. Three things decide:

- **Heat**, five bits a record: how often it was read since it was written, and when last. Time is counted in bytes
  written, seven epochs to one turnover of the capacity::

      bit 4 ........ 2 1 ..... 0
         | epoch mod 8 | reads  |      reads 0: nobody read it; 1, 2, 3: so many, or more
         +-------------+--------+

  What is read often and was read lately is read again; what was read long ago belongs to a conversation that is over.
- **The budget**: for every byte that a user writes a fixed share of a byte is earned, and copying spends it. That
  bounds write amplification, whatever is read. What is not spent is saved, up to a part of the capacity, since what
  is read often was mostly written together.
- **The bar**: a candidate of little worth is not taken only because there is budget at the moment. What the last
  segments held, by rank, says which rank the budget will last for.

Among equals the one written first is kept. Blocks of a prefix are written in its order, and a block is of no use to a
reader who misses the one before it.

``docs/design/0003-eviction.md`` has the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from memkv_server.engine.limits import (
    REINSERT_BAR_WINDOW_SHARE,
    REINSERT_SAVED_SHARE_MAX,
    REINSERT_SEGMENT_SHARE_MAX,
    REINSERT_SHARE_MAX,
)

HEAT_BITS: Final = 5
HEAT_MASK: Final = (1 << HEAT_BITS) - 1
READS_BITS: Final = 2
READS_MAX: Final = (1 << READS_BITS) - 1
EPOCHS: Final = 1 << (HEAT_BITS - READS_BITS)
# One less than can be told apart: a record's last read is never so old that it looks new.
EPOCHS_PER_TURNOVER: Final = EPOCHS - 1
_RANK_UNIT: Final = 12
RANK_MAX: Final = _RANK_UNIT * READS_MAX


def heat_after_read(heat: int, epoch: int) -> int:
    """The heat of a record that is read now."""
    return epoch % EPOCHS << READS_BITS | min((heat & READS_MAX) + 1, READS_MAX)


def rank_of(heat: int, epoch: int) -> int:
    """How much a record is worth keeping, 0 (not at all: nobody read it) to RANK_MAX."""
    age = (epoch - (heat >> READS_BITS)) % EPOCHS
    return _RANK_UNIT * (heat & READS_MAX) // (1 + age)


class ReinsertBudget:
    """The bytes that may be copied forward: earned by users' writes, spent by copying, saved within bounds.

    ``reinserted <= REINSERT_SHARE_MAX * written`` at any time: write amplification has the bound ``1 +`` that share.
    """

    def __init__(self, segment_bytes: int, capacity_bytes: int) -> None:
        self._segment_max = int(segment_bytes * REINSERT_SEGMENT_SHARE_MAX)
        self._saved_max = max(self._segment_max, int(capacity_bytes * REINSERT_SAVED_SHARE_MAX))
        self._saved = 0.0

    def earn(self, written_bytes: int) -> None:
        """Users wrote so many bytes."""
        self._saved = min(self._saved + written_bytes * REINSERT_SHARE_MAX, self._saved_max)

    def spend(self, copied_bytes: int) -> None:
        """So many bytes were copied forward."""
        self._saved -= copied_bytes

    @property
    def for_one_segment_bytes(self) -> int:
        """What may be copied out of the next segment: never all of it, for room must be won."""
        return max(0, min(int(self._saved), self._segment_max))


class Bar:
    """The rank that a candidate must have. What each segment held, by rank, fades as later ones are looked at."""

    def __init__(self, segment_bytes: int, segment_count: int) -> None:
        self._fade = 1 - 1 / max(2.0, segment_count * REINSERT_BAR_WINDOW_SHARE)
        # What can be copied out of one segment, in the long run: user bytes and copied bytes fill it together.
        self._affordable_bytes = segment_bytes * REINSERT_SHARE_MAX / (1 + REINSERT_SHARE_MAX)
        self._bytes_by_rank = [0.0] * (RANK_MAX + 1)
        self._segments = 0.0

    def after(self, ranks: Sequence[int], sizes: Sequence[int]) -> int:
        """Takes account of one more segment's candidates (at least 1 each; bytes) and returns the bar for them."""
        fade, by_rank = self._fade, [held * self._fade for held in self._bytes_by_rank]
        for rank, size in zip(ranks, sizes, strict=True):
            by_rank[rank] += size
        self._bytes_by_rank = by_rank
        self._segments = self._segments * fade + 1
        affordable = self._segments * self._affordable_bytes
        for rank in range(RANK_MAX, 0, -1):
            affordable -= by_rank[rank]
            if affordable <= 0:
                return rank
        return 1


def choose_survivors(ranks: Sequence[int], sizes: Sequence[int], budget_bytes: int, bar: int = 1) -> list[int]:
    """Which of a segment's candidates are copied forward: their indices, in the order they are to be copied.

    ``ranks[i]`` and ``sizes[i]`` (bytes) describe candidate i, candidates being in the order in which they were
    written. Those of the highest rank come first, among equals the older, and none below ``bar``.
    """
    chosen = []
    worthy = [index for index, rank in enumerate(ranks) if rank >= bar]
    for index in sorted(worthy, key=lambda index: -ranks[index]):
        if sizes[index] <= budget_bytes:
            budget_bytes -= sizes[index]
            chosen.append(index)
    chosen.sort()
    return chosen


class SecondChance:
    """The policy of one drive: budget, bar and time. ``touched[heat]`` is the heat of a record that is read now."""

    __slots__ = ("_bar", "_budget", "_clock_bytes", "_epoch_bytes", "_epoch_end_bytes", "epoch", "touched")

    def __init__(self, segment_bytes: int, segment_count: int) -> None:
        capacity_bytes = segment_bytes * segment_count
        self._budget = ReinsertBudget(segment_bytes, capacity_bytes)
        self._bar = Bar(segment_bytes, segment_count)
        self._epoch_bytes = capacity_bytes / EPOCHS_PER_TURNOVER
        self._clock_bytes = 0  # written and copied
        self._begin_epoch(0)

    def _begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self._epoch_end_bytes = (epoch + 1) * self._epoch_bytes
        self.touched = bytes(heat_after_read(heat, epoch) for heat in range(1 << HEAT_BITS))

    def _pass_time(self, byte_count: int) -> None:
        self._clock_bytes += byte_count
        if self._clock_bytes >= self._epoch_end_bytes:
            self._begin_epoch(int(self._clock_bytes / self._epoch_bytes))

    def written(self, user_bytes: int) -> None:
        """Users wrote so many bytes: some of what they read may be kept for it."""
        self._budget.earn(user_bytes)
        self._pass_time(user_bytes)

    def copied(self, size: int) -> None:
        """So many bytes were copied forward."""
        self._budget.spend(size)
        self._pass_time(size)

    def choose(self, heats: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """Which of the oldest segment's candidates are copied forward. To be called once for each segment.

        ``heats[i]`` (reads at least 1) and ``sizes[i]`` (bytes) as in ``choose_survivors``, which makes the choice.
        """
        ranks = [rank_of(heat, self.epoch) for heat in heats]
        return choose_survivors(ranks, sizes, self._budget.for_one_segment_bytes, self._bar.after(ranks, sizes))
