# SPDX-License-Identifier: Apache-2.0
"""What an engine counts, since it was opened."""

from __future__ import annotations

from dataclasses import dataclass, field

from memkv_core.metrics.histogram import BUCKETS


@dataclass(slots=True)
class Counters:
    """Bytes are of whole records, headers and padding included."""

    user_bytes: int = 0  # committed by puts
    evicted_segments: int = 0
    evicted_records: int = 0
    evicted_bytes: int = 0
    reinserted_records: int = 0
    reinserted_bytes: int = 0
    corrupt_records: int = 0
    unreadable_records: int = 0
    crowded_out_records: int = 0  # misses, since the memory of the drive was in use
    recovery_seconds: float = 0.0
    # Of each evicted segment, since it was begun: seconds, over powers of two.
    eviction_age_seconds: float = 0.0
    eviction_ages: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def evicted(self, age_s: float) -> None:
        """A segment was given up, so many seconds after it was begun."""
        self.evicted_segments += 1
        self.eviction_age_seconds += max(0.0, age_s)
        self.eviction_ages[int(max(0.0, age_s)).bit_length()] += 1
