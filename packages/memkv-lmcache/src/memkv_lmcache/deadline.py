# SPDX-License-Identifier: Apache-2.0
"""When a task must have ended."""

from __future__ import annotations

import time


class Deadline:
    """A point in time that everything a task does shares, its wait for a thread included."""

    def __init__(self, timeout_ms: float) -> None:
        self._end_s = time.monotonic() + timeout_ms / 1000

    def left_ms(self) -> int:
        """Milliseconds left, 0 when time is up."""
        return max(0, int((self._end_s - time.monotonic()) * 1000))
