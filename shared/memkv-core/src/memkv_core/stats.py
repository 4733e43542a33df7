# SPDX-License-Identifier: Apache-2.0
"""What a client counted since it started: cheap to count, cheap to read."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from memkv_core import forks
from memkv_core.transports.base import MoveCounts

OPERATIONS: Final = ("put", "get", "exists", "lookup", "delete")
_BUCKETS: Final = 32  # powers of two of a microsecond: 1 us to 71 min


@dataclass(frozen=True)
class Latency:
    """Call latencies of one operation, as a histogram over powers of two of a microsecond."""

    call_count: int = 0
    total_us: float = 0.0
    buckets: tuple[int, ...] = (0,) * _BUCKETS

    def quantile_us(self, q: float) -> float:
        """An upper bound of the ``q`` quantile (0 to 1), within a factor of two; 0.0 before the first call."""
        wanted, seen = q * self.call_count, 0
        for power, count in enumerate(self.buckets):
            seen += count
            if count and seen >= wanted:
                return float(2**power)
        return 0.0


@dataclass(frozen=True)
class ClientStats:
    """A snapshot. ``misses`` is by cause: absent, too_long, corrupt, timeout, unreachable, refused, declined.

    Declined blocks are no misses of the cluster's: the caller did not want them (``Client.count_declined``).
    """

    keys: dict[str, int] = field(default_factory=dict)  # by operation
    hits: dict[str, int] = field(default_factory=dict)  # by operation: found, stored, deleted
    misses: dict[str, int] = field(default_factory=dict)  # by cause, of every operation
    sent_bytes: int = 0  # payload of puts
    received_bytes: int = 0  # payload of gets
    retries: int = 0
    breaker_opened: int = 0
    latencies: dict[str, Latency] = field(default_factory=dict)  # by operation
    # Where servers move the payload themselves (shm, rdma); zeros over tcp.
    moved_registered_bytes: int = 0  # from or to registered memory, with no copy here
    moved_staged_bytes: int = 0  # through the staging, with one
    moved_fallbacks: dict[str, int] = field(default_factory=dict)  # calls whose payload went by TCP, by cause


class Recorder:
    """Where a client counts. Thread-safe; one lock, taken once a call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()
        self._sent_bytes = self._received_bytes = self._retries = 0
        self._calls: Counter[str] = Counter()
        self._total_us: Counter[str] = Counter()
        self._buckets = {operation: [0] * _BUCKETS for operation in OPERATIONS}
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def call(
        self,
        operation: str,
        elapsed_s: float,
        keys: int,
        hits: int,
        misses: dict[str, int],
        *,
        sent_bytes: int = 0,
        received_bytes: int = 0,
        retries: int = 0,
    ) -> None:
        elapsed_us = elapsed_s * 1e6
        with self._lock:
            self._keys[operation] += keys
            self._hits[operation] += hits
            for cause, count in misses.items():
                self._misses[cause] += count
            self._sent_bytes += sent_bytes
            self._received_bytes += received_bytes
            self._retries += retries
            self._calls[operation] += 1
            self._total_us[operation] += int(elapsed_us)
            self._buckets[operation][min(int(elapsed_us).bit_length(), _BUCKETS - 1)] += 1

    def misses(self, misses: dict[str, int]) -> None:
        """Misses outside of any call."""
        with self._lock:
            for cause, count in misses.items():
                self._misses[cause] += count

    def snapshot(self, breaker_opened: int, moves: MoveCounts | None = None) -> ClientStats:
        moves = moves or MoveCounts()
        with self._lock:
            latencies = {
                operation: Latency(self._calls[operation], self._total_us[operation], tuple(self._buckets[operation]))
                for operation in OPERATIONS
            }
            return ClientStats(
                dict(self._keys),
                dict(self._hits),
                dict(self._misses),
                self._sent_bytes,
                self._received_bytes,
                self._retries,
                breaker_opened,
                latencies,
                moves.registered_bytes,
                moves.staged_bytes,
                dict(moves.fallbacks),
            )
