# SPDX-License-Identifier: Apache-2.0
"""What survives when a segment is evicted. Pure: numbers in, numbers out; no device, no clock.

Segments go oldest first (FIFO). A record that was read since it was written gets a second chance: it is copied
forward, as far as the budget allows, those read most often first. The budget bounds what the copying costs: the
bytes copied never exceed a fixed share of the bytes that users wrote, hence neither does the write amplification.
"""

from __future__ import annotations

from collections.abc import Sequence

from memkv_server.engine.limits import REINSERT_SHARE_MAX


def reinsert_budget(user_bytes: int, reinserted_bytes: int, segment_bytes: int) -> int:
    """How many bytes of a segment may be copied forward now.

    ``user_bytes`` and ``reinserted_bytes`` count since start, so ``(user + reinserted) / user`` stays below
    ``1 + REINSERT_SHARE_MAX``. At most that share of one segment at a time: what is saved up by a quiet time is not
    spent on one segment, and room for new records is always won.
    """
    saved = int(user_bytes * REINSERT_SHARE_MAX) - reinserted_bytes
    return max(0, min(saved, int(segment_bytes * REINSERT_SHARE_MAX)))


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
