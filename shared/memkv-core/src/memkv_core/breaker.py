# SPDX-License-Identifier: Apache-2.0
"""Whether a server is worth a try: a circuit breaker per server. Pure but for its lock; the clock is passed in.

    CLOSED ──a spent deadline, or BREAKER_FAILURES failures in a row──► OPEN ──probe answered──► CLOSED
                                                                        │ ▲
                                                                        └─┘ probe failed: the next one later, jittered

While it is OPEN calls do not touch the server: they miss at once. A probe is made by the client's own thread, never by
an engine's call, so that a dead server costs its callers one deadline and then nothing.
"""

from __future__ import annotations

import random
import threading

from memkv_core.limits import BREAKER_FAILURES, BREAKER_PROBE_MS_MAX, BREAKER_PROBE_MS_MIN


class Breaker:
    """Thread-safe. Times are seconds of one monotonic clock."""

    def __init__(self, *, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._failures = 0
        self._delay_s = 0.0
        self._probe_at_s = 0.0
        self.open = False
        self.opened_count = 0

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def success(self) -> None:
        if self._failures or self.open:
            with self._lock:
                self._failures = 0
                self._delay_s = 0.0
                self.open = False

    def failure(self, now_s: float, *, deadline_spent: bool = False) -> bool:
        """Counts a failure; True when this one opened the breaker."""
        with self._lock:
            self._failures += 1
            if self.open or not (deadline_spent or self._failures >= BREAKER_FAILURES):
                return False
            self.open = True
            self.opened_count += 1
            self._schedule(now_s)
            return True

    def probe_due(self, now_s: float) -> bool:
        return self.open and now_s >= self._probe_at_s

    def probe_failed(self, now_s: float) -> None:
        with self._lock:
            self._schedule(now_s)

    def _schedule(self, now_s: float) -> None:
        bounds = BREAKER_PROBE_MS_MIN / 1000, BREAKER_PROBE_MS_MAX / 1000
        self._delay_s = min(max(2 * self._delay_s, bounds[0]), bounds[1])
        self._probe_at_s = now_s + self._delay_s * self._random.uniform(0.5, 1.0)
