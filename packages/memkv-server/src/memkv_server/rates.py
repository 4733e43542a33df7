# SPDX-License-Identifier: Apache-2.0
"""What a node does per second: two of its statuses, one after the other, become rates, a hit ratio and latencies. Pure.

Counters are summed over lanes first. A counter that is lower than before belongs to a lane that was started again: what
it counts since then is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_MICROSECOND_S: Final = 1e-6
_LOOKED_AT: Final = ("put", "get", "exists", "lookup", "delete")


@dataclass(frozen=True)
class Activity:
    """One operation over a stretch of time. ``buckets`` as in ``memkv_core.metrics.histogram``, of microseconds."""

    requests: float = 0.0  # per second, as the rest
    keys: float = 0.0
    hits: float = 0.0
    bytes: float = 0.0
    buckets: Mapping[int, int] = field(default_factory=dict)  # counts, not per second

    def quantile_s(self, share: float) -> float | None:
        """The duration that ``share`` of the requests stayed below; None where there were none."""
        return quantile_s(self.buckets, share)


@dataclass(frozen=True)
class Rates:
    """What a node, or a cluster, did between two looks at it."""

    seconds: float
    operations: Mapping[str, Activity]

    def of(self, operation: str) -> Activity:
        return self.operations.get(operation, Activity())

    @property
    def hit_ratio(self) -> float | None:
        """Of the keys of gets; None where none was asked for."""
        got = self.of("get")
        return got.hits / got.keys if got.keys else None


def counters(status: Mapping[str, Any]) -> dict[tuple[int, str], Mapping[str, Any]]:
    """What the lanes of one node have counted, by lane and operation. ``status`` is the body of /v1/status."""
    found = {}
    for lane in status.get("lanes", ()):
        for operation, counted in lane.get("ops", {}).items():
            if operation in _LOOKED_AT:
                found[int(lane["index"]), operation] = counted
    return found


def rates(
    before: Mapping[tuple[int, str], Mapping[str, Any]],
    after: Mapping[tuple[int, str], Mapping[str, Any]],
    seconds: float,
) -> Rates:
    """What was done in the ``seconds`` between two of ``counters``."""
    operations: dict[str, Activity] = {}
    for place, now in after.items():
        done = _since(before.get(place, {}), now, max(seconds, 1e-3))
        operations[place[1]] = _sum(operations.get(place[1], Activity()), done)
    return Rates(seconds, operations)


def together(nodes: Iterable[Rates]) -> Rates:
    """The rates of a cluster."""
    operations: dict[str, Activity] = {}
    seconds = 0.0
    for node in nodes:
        seconds = max(seconds, node.seconds)
        for name, activity in node.operations.items():
            operations[name] = _sum(operations.get(name, Activity()), activity)
    return Rates(seconds, operations)


def quantile_s(buckets: Mapping[int, int], share: float) -> float | None:
    """The value below which ``share`` of a histogram lies, in seconds, by a straight line within its bucket."""
    total = sum(buckets.values())
    if not total:
        return None
    wanted = share * total
    seen = 0
    for power in sorted(buckets):
        count = buckets[power]
        if seen + count >= wanted:
            low, high = (2.0 ** (power - 1) if power else 0.0), 2.0**power
            return (low + (high - low) * max(wanted - seen, 0.0) / count) * _MICROSECOND_S
        seen += count
    return 2.0 ** max(buckets) * _MICROSECOND_S


def _since(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> Activity:
    if before and now["requests"] < before["requests"]:
        before = {}
    grown = {name: now[name] - before.get(name, 0) for name in ("requests", "keys", "hits", "bytes_in", "bytes_out")}
    old = before.get("duration", {}).get("buckets", {})
    buckets = {
        int(power): count - old.get(power, 0)
        for power, count in now["duration"]["buckets"].items()
        if count > old.get(power, 0)
    }
    return Activity(
        requests=grown["requests"] / seconds,
        keys=grown["keys"] / seconds,
        hits=grown["hits"] / seconds,
        bytes=(grown["bytes_in"] + grown["bytes_out"]) / seconds,
        buckets=buckets,
    )


def _sum(one: Activity, other: Activity) -> Activity:
    buckets = dict(one.buckets)
    for power, count in other.buckets.items():
        buckets[power] = buckets.get(power, 0) + count
    return Activity(
        one.requests + other.requests,
        one.keys + other.keys,
        one.hits + other.hits,
        one.bytes + other.bytes,
        buckets,
    )
