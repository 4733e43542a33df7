# SPDX-License-Identifier: Apache-2.0
"""What a node says of itself: pure functions from the supervisor's and the lanes' state to JSON-able values."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memkv_server import __version__
from memkv_server.engine.usage import add_usage, join_namespaces

if TYPE_CHECKING:
    from memkv_server.lane_process import LaneProcess
    from memkv_server.supervisor import Supervisor

_RSS: Final = re.compile(r"^(VmRSS|RssAnon|RssFile|RssShmem):\s+(\d+) kB", re.MULTILINE)
_STORAGE_SUMS: Final = (
    "capacity_bytes", "used_bytes", "live_bytes", "records", "evicted_segments", "evicted_records", "evicted_bytes",
    "reinserted_records", "corrupt_records", "unreadable_records", "index_bytes",
)  # fmt: skip


def health(node: Supervisor) -> dict[str, Any]:
    """``healthy``: all lanes serve and all drives are online; ``degraded``: some; ``unhealthy``: none.

    ``rdma_active``: a lane that serves has an RDMA device whose port is up, and offers it to clients.
    """
    drives = [drive for lane in node.lanes for drive in drives_of(lane, node)]
    online = sum(drive["state"] in ("online", "read-only") for drive in drives)
    serving = sum(lane.serving and not lane.stalled for lane in node.lanes)
    if not serving or (drives and not online):
        status = "unhealthy"
    elif serving < len(node.lanes) or any(drive["state"] != "online" for drive in drives):
        status = "degraded"
    else:
        status = "healthy"
    return {
        "status": status,
        "drives_online": online,
        "drives_offline": len(drives) - online,
        "drives_total": len(drives),
        "rdma_active": any(lane.serving and bool(lane.status.get("rdma_active")) for lane in node.lanes),
        "lanes": {"serving": serving, "total": len(node.lanes)},
    }


def status(node: Supervisor) -> dict[str, Any]:
    """The whole state of the node."""
    processes = [{"name": "supervisor", "pid": os.getpid(), **memory_of(os.getpid())}]
    processes += [
        {"name": f"lane {lane.index}", "pid": lane.pid, **memory_of(lane.pid)}
        for lane in node.lanes
        if lane.pid is not None
    ]
    lanes = [_lane(lane, node) for lane in node.lanes]
    engines = [engine_of(lane) for lane in node.lanes]
    license = node.license
    return {
        "version": __version__,
        "uptime_seconds": round(time.time() - node.started_at, 3),
        "started_at": round(node.started_at, 3),
        "address": str(node.data_address),
        "admin_address": str(node.admin_address),
        "health": health(node),
        "ready": node.not_ready() is None,
        "draining": node.draining or node.held,
        "license": {
            "plan": license.plan,
            "licensee": license.licensee,
            "expires_at": _json_time(license.expires_at),
            "max_servers": license.max_servers,
        },
        "memory": {
            "rss_bytes": sum(process["rss_bytes"] for process in processes),
            "anonymous_bytes": sum(process["anonymous_bytes"] for process in processes),
            "processes": processes,
        },
        "storage": {
            "mode": node.config.storage.mode,
            **{name: sum(int(engine.get(name, 0)) for engine in engines) for name in _STORAGE_SUMS},
            "drives": [drive for lane in node.lanes for drive in drives_of(lane, node)],
        },
        "connections": sum(lane["connections"] for lane in lanes),
        "sessions": sum(lane["sessions"] for lane in lanes),
        "handshakes": _handshakes(node),
        "namespace_count": max((int(engine.get("namespace_count", 0)) for engine in engines), default=0),
        "namespaces": _namespaces(engines),  # the largest of each lane
        "lanes": lanes,
    }


def memory_of(pid: int | None) -> dict[str, int]:
    """Resident bytes of a process. ``file_bytes`` are mapped segments in the page cache, which the kernel can drop."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""  # the process has just gone
    found = {name: int(kib) * 1024 for name, kib in _RSS.findall(text)}
    return {
        "rss_bytes": found.get("VmRSS", 0),
        "anonymous_bytes": found.get("RssAnon", 0),
        "file_bytes": found.get("RssFile", 0),
        "shared_bytes": found.get("RssShmem", 0),
    }


def drives_of(lane: LaneProcess, node: Supervisor) -> list[dict[str, Any]]:
    """The drives as the lane reports them; those of a lane that does not serve are offline."""
    reported = engine_of(lane).get("drives")
    if lane.serving and isinstance(reported, list):
        return [dict(drive) for drive in reported]
    state = "starting" if lane.state.value == "starting" and not lane.restarts else "offline"
    return [
        {**drive, "mode": node.config.storage.mode, "state": state, "used_bytes": 0}
        for drive in node.config.drives_of(lane.index)
    ]


def _lane(lane: LaneProcess, node: Supervisor) -> dict[str, Any]:
    said = lane.status if lane.serving else {}
    transports = said.get("transports", {})
    return {
        "index": lane.index,
        "state": "stalled" if lane.stalled else lane.state.value,
        "pid": lane.pid,
        "restarts": lane.restarts,
        "error": lane.error,
        "connections": int(said.get("connections", 0)),
        "sessions": int(said.get("sessions", 0)),
        "ops": operations_of(transports),
        "transports": transports,
        "by_transport": said.get("by_transport", {}),
        "activity": said.get("activity", {}),
        "pending_answers": int(said.get("pending_answers", 0)),
        "errors": said.get("errors", {}),
        "storage": {
            key: value
            for key, value in engine_of(lane).items()
            if key not in ("namespaces", "namespace_count", "drives")
        },
        "drives": drives_of(lane, node),
    }


def operations_of(transports: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What was counted by operation, over all transports."""
    summed: dict[str, dict[str, Any]] = {}
    for operations in transports.values():
        for name, counters in operations.items():
            add_usage(summed.setdefault(name, {}), counters)
    return summed


def engine_of(lane: LaneProcess) -> Mapping[str, Any]:
    """What the lane's engine last said of itself; empty where it does not serve."""
    engine = lane.status.get("engine") if lane.serving else None
    return engine if isinstance(engine, Mapping) else {}


def _handshakes(node: Supervisor) -> dict[str, Any]:
    acceptor = node.acceptor
    if acceptor is None:
        return {"accepted": 0, "waiting": 0, "refused": {}}
    return {"accepted": acceptor.accepted, "waiting": acceptor.waiting, "refused": dict(acceptor.refused)}


def _namespaces(engines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Namespaces over all lanes, by name; counts are added up."""
    merged: list[dict[str, Any]] = []
    for engine in engines:
        merged = join_namespaces(merged, list(engine.get("namespaces", ())))
    return sorted(merged, key=lambda namespace: str(namespace["name"]))


def _json_time(moment: Any) -> Any:
    return moment.isoformat() if hasattr(moment, "isoformat") else moment
