# SPDX-License-Identifier: Apache-2.0
"""What the clients and guards of this process count, as samples of ``client_table``.

Clients are watched weakly. What one has counted is kept when it is closed: a counter never goes back.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

from memkv_core import forks
from memkv_core._version import __version__
from memkv_core.stats import ClientStats
from memkv_core.transports.base import FALLBACK_CAUSES

# Of a key that was no hit. Those that never were are exported as zero, or the first would not count as an increase.
CAUSES: Final = ("absent", "too_long", "corrupt", "timeout", "unreachable", "refused", "error")


class Sample(NamedTuple):
    """One number of a metric. A histogram's value is its (sum in seconds, buckets)."""

    name: str
    labels: tuple[str, ...]
    value: Any


class Source(Protocol):
    """A client, as far as it is measured."""

    namespace: str
    servers: list[str]

    def stats(self) -> ClientStats:
        """Its counters since it was made."""

    def servers_down(self) -> dict[str, str]:
        """The servers that are not used for now."""


class CountingGuard(Protocol):
    """A guard, as far as it is measured."""

    name: str

    def counts(self) -> dict[str, int]:
        """What it caught, by cause."""


class ClientCounts:
    """The clients and guards of one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._guards: weakref.WeakSet[Any] = weakref.WeakSet()
        self._ended: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._ended_buckets: dict[tuple[str, ...], tuple[float, list[int]]] = {}
        self._rank = ""
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    @property
    def rank(self) -> str:
        """Which process of an engine this is: as an adapter said, or RANK or LOCAL_RANK in the environment, or 0."""
        return self._rank or os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"

    @rank.setter
    def rank(self, rank: str) -> None:
        self._rank = rank

    def add(self, client: Source) -> None:
        """Watches a client from now on."""
        with self._lock:
            self._clients.add(client)

    def add_guard(self, guard: CountingGuard) -> None:
        """Watches a guard from now on."""
        with self._lock:
            self._guards.add(guard)

    def end(self, client: Source) -> None:
        """Keeps what a client has counted; to be called once, when it is closed."""
        with self._lock:
            if client in self._clients:
                self._clients.discard(client)
                self._gather(client, self._ended, self._ended_buckets)

    def samples(self) -> Iterator[Sample]:
        """Every number; clients of the same namespace are added up."""
        with self._lock:
            counters, clients, guards = self._ended.copy(), list(self._clients), list(self._guards)
            buckets = {labels: (total, list(counts)) for labels, (total, counts) in self._ended_buckets.items()}
        open_breakers: dict[tuple[str, ...], bool] = {}
        rank = self.rank
        for client in clients:
            self._gather(client, counters, buckets)
            transport = getattr(getattr(client, "config", None), "transport", "")
            yield Sample("memkv_client_info", (client.namespace, rank, __version__, transport), 1)
            down = client.servers_down()
            for server in client.servers:
                place = (client.namespace, rank, server)
                open_breakers[place] = open_breakers.get(place, False) or server in down
        for (name, labels), count in counters.items():
            yield Sample(name, labels, count)
        for labels, value in buckets.items():
            yield Sample("memkv_client_request_duration_seconds", labels, value)
        for labels, is_open in open_breakers.items():
            yield Sample("memkv_client_breaker_open", labels, float(is_open))
        for guard in guards:
            for cause, count in guard.counts().items():
                yield Sample("memkv_guard_caught_total", (rank, guard.name, cause), count)

    def _gather(
        self,
        client: Source,
        counters: Counter[tuple[str, tuple[str, ...]]],
        buckets: dict[tuple[str, ...], tuple[float, list[int]]],
    ) -> None:
        stats, common = client.stats(), (client.namespace, self.rank)
        for op, latency in stats.latencies.items():
            labels = (*common, op)
            counters["memkv_client_requests_total", labels] += latency.call_count
            counters["memkv_client_request_keys_total", labels] += stats.keys.get(op, 0)
            counters["memkv_client_request_hits_total", labels] += stats.hits.get(op, 0)
            total, counts = buckets.get(labels, (0.0, [0] * len(latency.buckets)))
            buckets[labels] = (
                total + latency.total_us / 1e6,
                [one + other for one, other in zip(counts, latency.buckets)],
            )
        for cause in CAUSES:
            counters["memkv_client_misses_total", (*common, cause)] += stats.misses.get(cause, 0)
        counters["memkv_client_sent_bytes_total", common] += stats.sent_bytes
        counters["memkv_client_received_bytes_total", common] += stats.received_bytes
        counters["memkv_client_moved_bytes_total", (*common, "registered")] += stats.moved_registered_bytes
        counters["memkv_client_moved_bytes_total", (*common, "staged")] += stats.moved_staged_bytes
        for cause in FALLBACK_CAUSES:
            counters["memkv_client_move_fallbacks_total", (*common, cause)] += stats.moved_fallbacks.get(cause, 0)
        counters["memkv_client_retries_total", common] += stats.retries
        counters["memkv_client_breaker_opened_total", common] += stats.breaker_opened


COUNTS = ClientCounts()
