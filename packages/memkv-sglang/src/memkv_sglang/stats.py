# SPDX-License-Identifier: Apache-2.0
"""Transfers since sglang last asked, in the shape of its ``StorageMetrics``."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from memkv_sglang.limits import STATS_TRANSFERS_COUNT


class Transfer:
    """One call that moves pages; its pages and bytes are set before it ends."""

    __slots__ = ("bytes", "pages")

    def __init__(self) -> None:
        self.pages = 0
        self.bytes = 0


class TransferStats:
    """Counts page reads and writes, and gives them away once. Thread-safe; ``drain`` never waits for a transfer.

    Disabled (the engine runs without ``--enable-metrics``) it keeps nothing and ``drain`` returns None.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._lock = threading.Lock()
        self._reads: deque[tuple[int, float]] = deque(maxlen=STATS_TRANSFERS_COUNT)  # pages, GB/s
        self._writes: deque[tuple[int, float]] = deque(maxlen=STATS_TRANSFERS_COUNT)

    @contextmanager
    def read(self) -> Iterator[Transfer]:
        """Times one batch of pages read from the cluster."""
        yield from self._timed(self._reads)

    @contextmanager
    def write(self) -> Iterator[Transfer]:
        """Times one batch of pages written to the cluster."""
        yield from self._timed(self._writes)

    def _timed(self, transfers: deque[tuple[int, float]]) -> Iterator[Transfer]:
        transfer = Transfer()
        begun = time.perf_counter()
        yield transfer
        elapsed_s = max(time.perf_counter() - begun, 1e-9)
        if self._enabled and transfer.pages:
            with self._lock:
                transfers.append((transfer.pages, transfer.bytes / elapsed_s / 1e9))

    def drain(self, make: Callable[..., Any] | None) -> Any:
        """The transfers since the last call as ``make(prefetch_pgs=…, …)``; None where nothing is kept.

        ``make`` is sglang's StorageMetrics. The scheduler asserts its type on every event poll, so None it is where
        the class cannot be had.
        """
        if not self._enabled or make is None:
            return None
        with self._lock:
            reads, writes = list(self._reads), list(self._writes)
            self._reads.clear()
            self._writes.clear()
        return make(
            prefetch_pgs=[pages for pages, _ in reads],
            backup_pgs=[pages for pages, _ in writes],
            prefetch_bandwidth=[speed for _, speed in reads],
            backup_bandwidth=[speed for _, speed in writes],
        )
