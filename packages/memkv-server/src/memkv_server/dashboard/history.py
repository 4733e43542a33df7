# SPDX-License-Identifier: Apache-2.0
"""What a node did in the last hour: a sample every HISTORY_STEP_S, in a ring, made of what the lanes have said anyway.

A sample's time is a whole multiple of the step since the epoch, so that those of several nodes can be laid over one
another. It is a few hundred bytes, and HISTORY_SAMPLES_MAX of them are kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from memkv_server.limits import HISTORY_SAMPLES_MAX, HISTORY_STEP_S
from memkv_server.node_status import engine_of, operations_of
from memkv_server.rates import Activity, Rates, rates, together

if TYPE_CHECKING:
    from memkv_server.lane_process import LaneProcess

OPERATIONS: Final = ("get", "put", "exists", "lookup", "delete")
_EVICTED: Final = "evicted_bytes"


@dataclass(frozen=True)
class Sample:
    """What was done in a step that ended at ``at_s``: per second, but for what a histogram counts."""

    at_s: int
    rates: Rates
    evicted_bytes: float = 0.0
    used_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """What one node tells another; see ``sample_of``."""
        return {
            "t": self.at_s,
            "seconds": round(self.rates.seconds, 3),
            "ops": {name: _activity_as_json(each) for name, each in self.rates.operations.items() if each.requests},
            "evicted_bytes": round(self.evicted_bytes),
            "used_bytes": self.used_bytes,
        }


def sample_of(value: Mapping[str, Any]) -> Sample:
    """The inverse of ``as_json``. Raises ValueError, TypeError, KeyError or AttributeError for what is none."""
    operations = {
        name: Activity(
            requests=float(each["requests"]),
            keys=float(each["keys"]),
            hits=float(each["hits"]),
            bytes=float(each["bytes"]),
            buckets={int(power): int(count) for power, count in each["buckets"].items()},
        )
        for name, each in value["ops"].items()
        if name in OPERATIONS
    }
    done = Rates(float(value["seconds"]), operations)
    return Sample(int(value["t"]), done, float(value["evicted_bytes"]), int(value["used_bytes"]))


def point(samples: Sequence[Sample]) -> dict[str, Any]:
    """What is drawn of one moment: the samples of all nodes at it, added up. Latencies are None where nothing came."""
    done = together(sample.rates for sample in samples)
    got, put = done.of("get"), done.of("put")
    small = [done.of(name).keys for name in ("exists", "lookup")]
    return {
        "t": samples[0].at_s,
        "nodes": len(samples),
        "hit_ratio": _rounded(done.hit_ratio, 4),
        "get_bytes": round(got.bytes),
        "put_bytes": round(put.bytes),
        "get_keys": round(got.keys, 1),
        "put_keys": round(put.keys, 1),
        "lookup_keys": round(sum(small), 1),
        "get_p50": _rounded(got.quantile_s(0.5), 7),
        "get_p99": _rounded(got.quantile_s(0.99), 7),
        "put_p50": _rounded(put.quantile_s(0.5), 7),
        "put_p99": _rounded(put.quantile_s(0.99), 7),
        "evicted_bytes": round(sum(sample.evicted_bytes for sample in samples)),
        "used_bytes": sum(sample.used_bytes for sample in samples),
    }


class History:
    """The ring of one node. Used by the supervisor's loop only."""

    def __init__(self, count_max: int = HISTORY_SAMPLES_MAX) -> None:
        self._samples: deque[Sample] = deque(maxlen=count_max)
        self._before: dict[int, LaneCount] = {}

    def observe(self, at_s: int, lanes: Mapping[int, LaneCount]) -> None:
        """Compares with the last look. A lane that has said nothing new since is left out: it is away or stalled."""
        done, evicted = [], 0.0
        for index, now in lanes.items():
            before = self._before.get(index)
            if before is None or now.said_s <= before.said_s:
                continue
            seconds = now.said_s - before.said_s
            done.append(rates(before.counted, now.counted, seconds))
            grown = now.evicted_bytes - before.evicted_bytes
            evicted += (grown if grown >= 0 else now.evicted_bytes) / seconds
        first = not self._before
        self._before = {**self._before, **lanes}
        if not first:
            used = sum(lane.used_bytes for lane in lanes.values())
            self._samples.append(Sample(at_s, together(done), evicted, used))

    def since(self, at_s: int) -> list[Sample]:
        """The samples later than ``at_s``, oldest first."""
        return [sample for sample in self._samples if sample.at_s > at_s]

    @property
    def last(self) -> Sample | None:
        """The newest one."""
        return self._samples[-1] if self._samples else None


@dataclass(frozen=True)
class LaneCount:
    """What a lane had counted when it last said so, at ``said_s`` of the monotonic clock."""

    said_s: float
    counted: Mapping[tuple[int, str], Mapping[str, Any]]
    evicted_bytes: int = 0
    used_bytes: int = 0


def counts_of(lanes: Sequence[LaneProcess]) -> dict[int, LaneCount]:
    """For ``History.observe``, of the lanes that serve. Costs microseconds: the statuses are there."""
    found = {}
    for lane in lanes:
        if not lane.serving:
            continue
        counted = operations_of(lane.status.get("transports", {}))
        engine = engine_of(lane)
        found[lane.index] = LaneCount(
            lane.status_at_s,
            {(lane.index, name): each for name, each in counted.items() if name in OPERATIONS},
            int(engine.get(_EVICTED, 0)),
            int(engine.get("used_bytes", 0)),
        )
    return found


def seconds_to_next(step_s: int = HISTORY_STEP_S) -> tuple[int, float]:
    """The time of the next sample, and how long it is until then."""
    now_s = time.time()
    at_s = (int(now_s) // step_s + 1) * step_s
    return at_s, at_s - now_s


def _activity_as_json(activity: Activity) -> dict[str, Any]:
    return {
        "requests": round(activity.requests, 3),
        "keys": round(activity.keys, 3),
        "hits": round(activity.hits, 3),
        "bytes": round(activity.bytes),
        "buckets": {str(power): count for power, count in activity.buckets.items()},
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
