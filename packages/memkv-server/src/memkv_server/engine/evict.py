# SPDX-License-Identifier: Apache-2.0
"""What survives when a segment is evicted. Pure: numbers in, numbers out; no device, no clock.

Segments go oldest first (FIFO). A record that was read since it was written gets a second chance: it is copied
forward, as far as the budget allows, those read most often first. The budget bounds what the copying costs: for every
byte that a user writes a fixed share of a byte is earned, and copying spends it. What is not spent is saved, up to a
part of the capacity, since what is read often was mostly written together: a prefix shared by many lies in a few
segments, and those are worth keeping nearly whole.

Replayed on Mooncake's conversation trace (FAST 25) with 64 segments this hits within 0.5 % (absolute) of LRU by the
block at every capacity from 5 % to 50 % of the distinct blocks, with 16 segments within 1.2 %, with a write
amplification of 1.16 to 1.23.
"""

from __future__ import annotations

from collections.abc import Sequence

from memkv_server.engine.limits import REINSERT_SAVED_SHARE_MAX, REINSERT_SEGMENT_SHARE_MAX, REINSERT_SHARE_MAX


class ReinsertBudget:
    """The bytes that may be copied forward: earned by users' writes, spent by copying, saved within bounds.

    ``reinserted <= REINSERT_SHARE_MAX * written`` at any time, so write amplification stays below 1.25.
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


def choose_survivors(reads: Sequence[int], sizes: Sequence[int], budget_bytes: int) -> list[int]:
    """Which of a segment's candidates are copied forward: their indices, in the order they are to be copied.

    ``reads[i]`` (at least 1) and ``sizes[i]`` (bytes) describe candidate i, candidates being in the order in which
    they were written. Those read most come first; among equals the younger.
    """
    chosen = []
    for index in sorted(range(len(reads)), key=lambda index: (-reads[index], -index)):
        if sizes[index] <= budget_bytes:
            budget_bytes -= sizes[index]
            chosen.append(index)
    chosen.sort()
    return chosen
