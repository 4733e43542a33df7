# SPDX-License-Identifier: Apache-2.0
"""How long a get would take now: what recent calls took, by server. Pure but for its lock; the clock is passed in.

A server is taken for a queue that drains at one speed. A call of ``b`` bytes that finds ``q`` bytes of this client's
under way takes about ::

    latency + (q + b) × seconds per byte

and each call that ends says what both were. Latency comes from calls that move next to nothing, seconds per byte from
gets, both as moving averages: a call counts for more the more bytes it moved, so that a few small ones after a long
one do not hide it. What other clients do to a server is in these averages, as far as it lasts.

An average that no get has confirmed for ``ESTIMATE_STALE_S`` is worth nothing: then the answer is None until a few gets
have been seen again. So whoever stays away from a server because it is slow finds out when it no longer is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from memkv_core import forks
from memkv_core.limits import ESTIMATE_GETS_MIN, ESTIMATE_STALE_S, KIB, MIB

_SMALL_BYTES: Final = 64 * KIB  # a call that moves less says how long the way is, not how wide
_HALF_BYTES: Final = 32 * MIB  # a get of so many bytes weighs as much as everything before it
_WEIGHT_MIN: Final = 0.05
_LATENCY_WEIGHT: Final = 0.2
_TRANSFER_SHARE_MIN: Final = 0.1  # of a get's time is taken for its bytes at least, however long the latency seemed


@dataclass(frozen=True)
class ServerEstimate:
    """What is known of one server now. None: not yet, or no longer."""

    bytes_per_s: float | None
    latency_ms: float | None
    queue_bytes: int  # of this client's calls that are under way


class Pace:
    """The moving averages of one server. Not thread-safe; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.latency_s: float | None = None
        self.seconds_per_byte: float | None = None
        self.queue_bytes = 0
        self._gets = 0
        self._get_at_s = 0.0

    def observe(self, moved_bytes: int, ahead_bytes: int, seconds: float, now_s: float) -> None:
        """A call ended at ``now_s`` that took ``seconds`` and met ``ahead_bytes`` under way when it began."""
        if moved_bytes < _SMALL_BYTES:
            self.observe_small(ahead_bytes, seconds)
            return
        if self._is_stale(now_s):
            self._gets, self.seconds_per_byte = 0, None
        transfer_s = max(seconds - (self.latency_s or 0.0), seconds * _TRANSFER_SHARE_MIN)
        weight = max(moved_bytes / (moved_bytes + _HALF_BYTES), _WEIGHT_MIN)
        self.seconds_per_byte = _moved(self.seconds_per_byte, transfer_s / (moved_bytes + ahead_bytes), weight)
        self._gets += 1
        self._get_at_s = now_s

    def observe_small(self, ahead_bytes: int, seconds: float) -> None:
        """The same of a call that moved next to nothing."""
        if not ahead_bytes:  # behind others it waited for their bytes
            self.latency_s = _moved(self.latency_s, seconds, _LATENCY_WEIGHT)

    def expected_s(self, count_bytes: int, now_s: float) -> float | None:
        """How long a get of so many bytes would take, behind what is under way; None where nothing is known."""
        if not self.is_known(now_s) or self.seconds_per_byte is None:
            return None
        return (self.latency_s or 0.0) + (self.queue_bytes + count_bytes) * self.seconds_per_byte

    def is_known(self, now_s: float) -> bool:
        return self._gets >= ESTIMATE_GETS_MIN and not self._is_stale(now_s)

    def _is_stale(self, now_s: float) -> bool:
        return now_s - self._get_at_s > ESTIMATE_STALE_S


class Estimates:
    """The paces of a client's servers. Thread-safe; most methods take one lock for some microseconds."""

    def __init__(self, servers: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._paces = {server: Pace() for server in servers}
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        for pace in self._paces.values():
            pace.queue_bytes = 0

    def begin(self, expected_bytes: Mapping[str, int]) -> dict[str, int]:
        """Calls to these servers begin, with what they will move at most; what was under way before, by server."""
        with self._lock:
            ahead = {server: self._paces[server].queue_bytes for server in expected_bytes}
            for server, count in expected_bytes.items():
                self._paces[server].queue_bytes += count
        return ahead

    def end(self, expected_bytes: Mapping[str, int]) -> None:
        """The calls that began with these numbers are over."""
        with self._lock:
            for server, count in expected_bytes.items():
                self._paces[server].queue_bytes -= count

    def observe(self, server: str, moved_bytes: int, ahead_bytes: int, seconds: float, now_s: float) -> None:
        """See ``Pace.observe``."""
        with self._lock:
            self._paces[server].observe(moved_bytes, ahead_bytes, seconds, now_s)

    def observe_small(self, server: str, seconds: float) -> None:
        """A question ended that moved nothing. Without the lock, which would cost more than it saves: where two threads
        meet, one of two latencies is left out of the average."""
        pace = self._paces[server]
        pace.observe_small(pace.queue_bytes, seconds)

    def expected_s(self, count_bytes: int, servers: Iterable[str], now_s: float) -> float | None:
        """A get of blocks that spread evenly over ``servers``, which answer side by side: the slowest one's time.

        A server that nothing is known of is taken to be no slower than the others; None where none is known.
        """
        used = list(servers)
        if not used:
            return None
        share = -(-count_bytes // len(used))
        with self._lock:
            expected = [self._paces[server].expected_s(share, now_s) for server in used]
        return max((seconds for seconds in expected if seconds is not None), default=None)

    def snapshot(self, now_s: float) -> dict[str, ServerEstimate]:
        """What is known of each server."""
        with self._lock:
            return {server: _described(pace, now_s) for server, pace in self._paces.items()}


def _described(pace: Pace, now_s: float) -> ServerEstimate:
    known = pace.is_known(now_s) and pace.seconds_per_byte is not None
    return ServerEstimate(
        bytes_per_s=1 / pace.seconds_per_byte if known and pace.seconds_per_byte else None,
        latency_ms=None if pace.latency_s is None else pace.latency_s * 1e3,
        queue_bytes=pace.queue_bytes,
    )


def _moved(average: float | None, value: float, weight: float) -> float:
    return value if average is None else average + weight * (value - average)
