# SPDX-License-Identifier: Apache-2.0
"""What an engine counts, since it was opened."""

from __future__ import annotations

from dataclasses import dataclass


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
