# SPDX-License-Identifier: Apache-2.0
"""Time that passes only when it is told to, so that a test of deadlines takes none and decides nothing by luck."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any


class VirtualClock:
    """Stands in for the ``time`` module where code says ``time.monotonic()`` and ``time.sleep()``. Thread-safe.

    ::

        clock = VirtualClock()
        clock.install(monkeypatch, memkv_core.client, memkv_core.dispatch)   # their module-level name ``time``
    """

    def __init__(self, now_s: float = 1_000.0) -> None:
        self._lock = threading.Lock()
        self._now_s = now_s

    def __call__(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        with self._lock:
            return self._now_s

    time = perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Moves the clock forward; it never goes back."""
        with self._lock:
            self._now_s += max(0.0, seconds)

    def advance_to(self, when_s: float) -> None:
        with self._lock:
            self._now_s = max(self._now_s, when_s)

    def install(self, monkeypatch: Any, *modules: ModuleType) -> None:
        """Replaces ``time`` in each module for the length of a test (``monkeypatch`` is pytest's)."""
        for module in modules:
            monkeypatch.setattr(module, "time", self)
