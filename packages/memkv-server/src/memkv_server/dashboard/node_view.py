# SPDX-License-Identifier: Apache-2.0
"""What this node shows of itself on the dashboard, JSON-able: its status, and what its lanes say when looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from memkv_core.errors import StorageError
from memkv_core.metrics.histogram import MICROSECOND_S
from memkv_server import node_status
from memkv_server.dashboard.history import Sample, point
from memkv_server.dashboard.remedies import with_remedy
from memkv_server.lane_look import LOOK
from memkv_server.limits import SHOWN_CLIENTS_MAX, SHOWN_NAMESPACES_MAX, SHOWN_PROBLEMS_MAX
from memkv_server.problems import PROBLEMS
from memkv_server.rates import quantile_s

if TYPE_CHECKING:
    from memkv_server.lane_process import LaneProcess
    from memkv_server.supervisor import Supervisor

LOOK_TIMEOUT_S: Final = 1.0
_STATUS: Final = (
    "version", "uptime_seconds", "address", "admin_address", "ready", "draining", "license", "connections", "sessions",
    "namespace_count",
)  # fmt: skip
_LANE: Final = ("index", "state", "pid", "restarts", "error", "connections", "by_transport", "pending_answers")
_DRIVE: Final = (
    "path", "mode", "state", "failure", "durability", "capacity_bytes", "used_bytes", "records", "read_errors",
    "write_errors",
)  # fmt: skip
_EVICTION: Final = (
    "evicted_segments", "evicted_records", "evicted_bytes", "reinserted_records", "reinserted_bytes",
    "corrupt_records", "unreadable_records", "crowded_out_records",
)  # fmt: skip
_BOUNDS: Final = ("expired_records", "over_quota_records")


async def node_view(node: Supervisor, start: str, last: Sample | None) -> dict[str, Any]:
    """The view of one node. ``start`` names this run of it; ``last`` is the newest sample of its history."""
    status = await node.status()
    names = [row["name"] for row in _largest(status["namespaces"])]
    looks = await asyncio.gather(*(_look(lane, names) for lane in node.lanes))
    lanes = [_lane(lane, looked) for lane, looked in zip(status["lanes"], looks, strict=True)]
    storage = status["storage"]
    return {
        "start": start,
        **{name: status[name] for name in _STATUS},
        "health": status["health"],
        "reason": node.not_ready(),
        "memory_bytes": status["memory"]["rss_bytes"],
        "storage": {name: storage[name] for name in ("mode", "capacity_bytes", "used_bytes", "live_bytes", "records")},
        "eviction": eviction_of([node_status.engine_of(lane) for lane in node.lanes], status["namespaces"]),
        "errors": _sums(lane["errors"] for lane in status["lanes"]),
        "handshakes": status["handshakes"],
        "lanes": lanes,
        "rails": rails_of(node.config.rdma.devices, lanes),
        "namespaces": namespaces_of(status["namespaces"], looks),
        "clients": clients_of(looks),
        "problems": problems_of([PROBLEMS.latest(), *(looked.get("problems", []) for looked in looks)]),
        "now": point([last]) if last is not None else None,
    }


async def _look(lane: LaneProcess, names: Sequence[str]) -> dict[str, Any]:
    """What a lane says; nothing where it does not serve or answer, which its state tells."""
    if not lane.serving or lane.stalled:
        return {}
    try:
        return await lane.call(LOOK, {"names": list(names)}, LOOK_TIMEOUT_S)
    except StorageError:
        return {}


def _lane(lane: Mapping[str, Any], looked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: lane[name] for name in _LANE},
        "drives": [{name: drive.get(name) for name in _DRIVE} for drive in lane["drives"]],
        "rails": looked.get("rails", []),
    }


def eviction_of(engines: Iterable[Mapping[str, Any]], namespaces: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What has made room, since the lanes' start: for capacity, by TTL, by quota; and how old it had become."""
    buckets: dict[int, int] = {}
    sums = dict.fromkeys((*_EVICTION, *_BOUNDS), 0)
    for engine in engines:
        for name in _EVICTION:
            sums[name] += int(engine.get(name, 0))
        for power, count in engine.get("eviction_age", {}).get("buckets", {}).items():
            buckets[int(power)] = buckets.get(int(power), 0) + count
    for row in namespaces:
        for name in _BOUNDS:
            sums[name] += int(row.get(name) or 0)
    return {**sums, "age_buckets": {str(power): count for power, count in buckets.items()}}


def median_age_s(buckets: Mapping[str, int]) -> float | None:
    """Of ``age_buckets``, which are of seconds."""
    found = quantile_s({int(power): count for power, count in buckets.items()}, 0.5)
    return None if found is None else round(found / MICROSECOND_S, 1)


def rails_of(configured: Sequence[str], lanes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The RDMA devices of the settings, with what the lanes have open on each; none open: ``active`` is False."""
    rails = {
        text.split(":")[0]: {"device": text.split(":")[0], "active": False, "lanes": 0, "endpoints": 0}
        for text in configured
    }
    for lane in lanes:
        for said in lane["rails"]:
            rail = rails.setdefault(
                said["device"], {"device": said["device"], "active": False, "lanes": 0, "endpoints": 0}
            )
            rail["active"] = bool(rail["active"]) or bool(said["active"])
            rail["lanes"] = int(str(rail["lanes"])) + 1
            rail["endpoints"] = int(str(rail["endpoints"])) + int(said["endpoints"])
    return list(rails.values())


def namespaces_of(rows: Iterable[Mapping[str, Any]], looks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The largest, each with its identity where a lane told it."""
    identities: dict[str, str] = {}
    for looked in looks:
        identities.update(looked.get("identities", {}))
    return [{**row, "identity": identities.get(row["name"])} for row in _largest(rows)]


def clients_of(looks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of all lanes, or of all nodes: of one client, namespace and transport a row."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for looked in looks:
        for said in looked.get("clients", ()):
            place = (str(said["client"]), str(said["namespace"]), str(said["transport"]))
            row = rows.get(place)
            if row is None:
                rows[place] = dict(said)
                continue
            row["connections"] += said["connections"]
            row["idle_seconds"] = min(row["idle_seconds"], said["idle_seconds"])
    order = sorted(rows.values(), key=lambda row: (-int(row["connections"]), str(row["client"])))
    return order[:SHOWN_CLIENTS_MAX]


def problems_of(parts: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Those of all processes, the latest first, with their remedies."""
    found = [with_remedy(problem) for part in parts for problem in part]
    return sorted(found, key=lambda problem: -float(problem["at"]))[:SHOWN_PROBLEMS_MAX]


def _largest(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: -int(row["bytes"]))[:SHOWN_NAMESPACES_MAX]


def _sums(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            sums[name] = sums.get(name, 0) + count
    return sums
