# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics, made at scrape time from the node's status: base units, ``memkv_`` first, per lane and op."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

_OP_COUNTERS: Final = {
    "requests": ("memkv_requests", "Frames handled, by operation"),
    "keys": ("memkv_request_keys", "Keys in these frames"),
    "hits": ("memkv_request_hits", "Keys found (get, exists, delete) or stored (put)"),
    "bytes_in": ("memkv_received_bytes", "Payload bytes received"),
    "bytes_out": ("memkv_sent_bytes", "Payload bytes sent"),
    "seconds": ("memkv_request_seconds", "Time spent handling these frames"),
}
_STORAGE_GAUGES: Final = {
    "capacity_bytes": ("memkv_storage_capacity_bytes", "Hard bound of what the lane may hold"),
    "used_bytes": ("memkv_storage_used_bytes", "Bytes taken, records that are no longer live included"),
    "live_bytes": ("memkv_storage_live_bytes", "Bytes of live records"),
    "records": ("memkv_storage_records", "Live records"),
    "index_bytes": ("memkv_storage_index_bytes", "Memory of the index"),
    "recovery_seconds": ("memkv_storage_recovery_seconds", "Time the last start took to rebuild the index"),
}
_STORAGE_COUNTERS: Final = {
    "evicted_segments": ("memkv_evicted_segments", "Segments evicted to make room"),
    "evicted_records": ("memkv_evicted_records", "Records evicted"),
    "evicted_bytes": ("memkv_evicted_bytes", "Bytes evicted"),
    "reinserted_records": ("memkv_reinserted_records", "Records copied forward because they had been read"),
    "corrupt_records": ("memkv_corrupt_records", "Records dropped because their bytes did not match their digest"),
    "unreadable_records": ("memkv_unreadable_records", "Records dropped because the drive did not give them back"),
    "syncs": ("memkv_syncs", "Syncs that puts and deletes waited for (group commit)"),
    "sync_requests": ("memkv_sync_requests", "Puts and deletes that waited for a sync; divided by syncs: the group"),
    "sync_seconds": ("memkv_sync_seconds", "Time in these syncs"),
}
# Of the largest namespaces of each lane.
_NAMESPACE_GAUGES: Final = {
    "records": ("memkv_namespace_records", "Live records of a namespace"),
    "bytes": ("memkv_namespace_bytes", "Live bytes of a namespace"),
    "quota_bytes": ("memkv_namespace_quota_bytes", "Hard bound of a namespace's live bytes, where it has one"),
    "ttl_seconds": (
        "memkv_namespace_ttl_seconds",
        "How long a record of a namespace is served, where there is a bound",
    ),
}
_NAMESPACE_COUNTERS: Final = {
    "hits": ("memkv_namespace_hits", "Keys that gets found in a namespace"),
    "misses": ("memkv_namespace_misses", "Keys that gets did not find in a namespace"),
    "expired_records": ("memkv_namespace_expired_records", "Records that outlived the TTL of their namespace"),
    "over_quota_records": (
        "memkv_namespace_over_quota_records",
        "Oldest records given up for the quota of a namespace",
    ),
}
_STATES: Final = ("online", "read-only", "offline")


def render(status: Mapping[str, Any]) -> tuple[bytes, str]:
    """(Prometheus text, content type) of a node's status, as ``node_status.status`` makes it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class StatusCollector(Collector):
    """Yields the metrics of one status."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status
        yield from _node(status)
        yield from _handshakes(status["handshakes"])
        lanes = status["lanes"]
        yield from _lanes(lanes)
        yield from _operations(lanes)
        yield from _storage(lanes)
        yield from _drives(lanes)
        yield _gauge("memkv_namespaces", "Namespaces known", status["namespace_count"])
        yield from _namespaces(status["namespaces"])


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _node(status: Mapping[str, Any]) -> Iterator[Metric]:
    build = GaugeMetricFamily("memkv_build_info", "Version of the node", labels=["version"])
    build.add_metric([status["version"]], 1)
    yield build
    yield _gauge("memkv_start_time_seconds", "When the node started, seconds since the epoch", status["started_at"])
    yield _gauge("memkv_ready", "1 while the node takes data connections", float(status["ready"]))
    health = GaugeMetricFamily("memkv_health", "1 for the state the node is in", labels=["status"])
    for name in ("healthy", "degraded", "unhealthy"):
        health.add_metric([name], float(status["health"]["status"] == name))
    yield health
    memory = GaugeMetricFamily("memkv_process_resident_bytes", "Resident memory", labels=["process", "kind"])
    for process in status["memory"]["processes"]:
        for kind in ("anonymous", "file", "shared"):
            memory.add_metric([process["name"], kind], process[f"{kind}_bytes"])
    yield memory


def _handshakes(handshakes: Mapping[str, Any]) -> Iterator[Metric]:
    yield CounterMetricFamily("memkv_accepted_connections", "Connections accepted", value=handshakes["accepted"])
    yield _gauge("memkv_waiting_connections", "Connections that have not said HELLO", handshakes["waiting"])
    refused = CounterMetricFamily("memkv_refused_connections", "Closed before a session", labels=["cause"])
    for cause, count in handshakes["refused"].items():
        refused.add_metric([cause], count)
    yield refused


def _lanes(lanes: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    serving = GaugeMetricFamily("memkv_lane_serving", "1 while the lane serves", labels=["lane"])
    restarts = CounterMetricFamily("memkv_lane_restarts", "Times the lane was started again", labels=["lane"])
    connections = GaugeMetricFamily("memkv_connections", "Open client connections", labels=["lane"])
    sessions = GaugeMetricFamily("memkv_sessions", "Authenticated sessions", labels=["lane"])
    errors = CounterMetricFamily("memkv_session_errors", "Sessions ended by an error", labels=["lane", "cause"])
    for lane in lanes:
        label = [str(lane["index"])]
        serving.add_metric(label, float(lane["state"] == "serving"))
        restarts.add_metric(label, lane["restarts"])
        connections.add_metric(label, lane["connections"])
        sessions.add_metric(label, lane["sessions"])
        for cause, count in lane["errors"].items():
            errors.add_metric([*label, cause], count)
    yield from (serving, restarts, connections, sessions, errors)


def _operations(lanes: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    families = {
        field: CounterMetricFamily(name, text, labels=["lane", "op"]) for field, (name, text) in _OP_COUNTERS.items()
    }
    for lane in lanes:
        for op, counters in lane["ops"].items():
            for field, family in families.items():
                if field in counters:
                    family.add_metric([str(lane["index"]), op], counters[field])
    yield from families.values()


def _storage(lanes: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    lanes = list(lanes)
    for field, (name, text) in _STORAGE_GAUGES.items():
        yield _of_lanes(GaugeMetricFamily(name, text, labels=["lane"]), field, lanes)
    for field, (name, text) in _STORAGE_COUNTERS.items():
        yield _of_lanes(CounterMetricFamily(name, text, labels=["lane"]), field, lanes)
    segments = GaugeMetricFamily("memkv_segments", "Segments by state", labels=["lane", "state"])
    for lane in lanes:
        for state, count in lane["storage"].get("segments", {}).items():
            segments.add_metric([str(lane["index"]), state], count)
    yield segments


def _of_lanes(
    family: GaugeMetricFamily | CounterMetricFamily, field: str, lanes: Iterable[Mapping[str, Any]]
) -> Metric:
    for lane in lanes:
        if field in lane["storage"]:
            family.add_metric([str(lane["index"])], lane["storage"][field])
    return family


def _drives(lanes: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    labels = ["lane", "path"]
    state = GaugeMetricFamily("memkv_drive_state", "1 for the state the drive is in", labels=[*labels, "state"])
    capacity = GaugeMetricFamily("memkv_drive_capacity_bytes", "Hard bound of the drive", labels=labels)
    used = GaugeMetricFamily("memkv_drive_used_bytes", "Bytes taken on the drive", labels=labels)
    errors = CounterMetricFamily("memkv_drive_errors", "Reads and writes that failed", labels=[*labels, "kind"])
    running = GaugeMetricFamily("memkv_drive_job_running", "1 while work is done on it", labels=[*labels, "job"])
    for lane in lanes:
        for drive in lane["drives"]:
            label = [str(lane["index"]), drive["path"] or drive["mode"]]
            for name in _STATES:
                state.add_metric([*label, name], float(drive["state"] == name))
            capacity.add_metric(label, drive["capacity_bytes"])
            used.add_metric(label, drive["used_bytes"])
            for kind in ("read", "write"):
                errors.add_metric([*label, kind], drive.get(f"{kind}_errors", 0))
            if (job := drive.get("job")) is not None:
                running.add_metric([*label, job["name"]], float(job["state"] == "running"))
    yield from (state, capacity, used, errors, running)


def _namespaces(namespaces: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    label = ["namespace"]
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for field, (name, text) in _NAMESPACE_GAUGES.items():
        families[field] = GaugeMetricFamily(name, text, labels=label)
    for field, (name, text) in _NAMESPACE_COUNTERS.items():
        families[field] = CounterMetricFamily(name, text, labels=label)
    identity = GaugeMetricFamily("memkv_namespace_info", "Identity of a namespace", labels=["namespace", "identity"])
    for namespace in namespaces:
        for field, family in families.items():
            if namespace.get(field) is not None:
                family.add_metric([namespace["name"]], namespace[field])
        identity.add_metric([namespace["name"], namespace.get("identity_digest", "")], 1)
    yield from (*families.values(), identity)
