# SPDX-License-Identifier: Apache-2.0
"""Prometheus text of a node, made at scrape time from its status: the numbers for ``metric_table``, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from memkv_core.metrics.catalogue import Metric
from memkv_core.metrics.histogram import AGE_POWERS, LATENCY_POWERS, MICROSECOND_S, cumulative
from memkv_server.metric_table import TABLE

# Fields of the status that are a metric as they are.
_OPERATION: Final = {
    "requests": "memkv_requests_total",
    "keys": "memkv_request_keys_total",
    "hits": "memkv_request_hits_total",
    "bytes_in": "memkv_received_bytes_total",
    "bytes_out": "memkv_sent_bytes_total",
    "seconds": "memkv_request_busy_seconds_total",
}
_STORAGE: Final = {
    **{
        field: f"memkv_storage_{field}"
        for field in ("capacity_bytes", "used_bytes", "live_bytes", "records", "index_bytes", "recovery_seconds")
    },
    "user_bytes": "memkv_written_bytes_total",
    **{
        field: f"memkv_{field}_total"
        for field in (
            "evicted_segments", "evicted_records", "evicted_bytes", "reinserted_records", "reinserted_bytes",
            "corrupt_records", "unreadable_records", "crowded_out_records", "syncs", "sync_requests", "sync_seconds",
        )
    },
}  # fmt: skip
_NAMESPACE: Final = {
    **{field: f"memkv_namespace_{field}" for field in ("records", "bytes", "quota_bytes", "ttl_seconds")},
    **{
        field: f"memkv_namespace_{field}_total" for field in ("hits", "misses", "expired_records", "over_quota_records")
    },
}
_NO_MISSES: Final = dict.fromkeys(("absent", "too_long", "corrupt", "no_space", "read_only"), 0)
_STATES: Final = ("online", "read-only", "offline")


class Sample(NamedTuple):
    """One number of a metric of the table. A histogram's value is its ``{"sum", "buckets"}``."""

    name: str
    labels: tuple[str, ...]
    value: Any


def render(status: Mapping[str, Any]) -> tuple[bytes, str]:
    """(Prometheus text, content type) of a node's status, as ``node_status.status`` makes it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class StatusCollector(Collector):
    """Yields the metrics of one status, in the order of the table."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterable[Family]:
        families = {name: _family(metric) for name, metric in TABLE.items()}
        for name, labels, value in samples(self._status):
            _add(families[name], TABLE[name], labels, value)
        return families.values()


def _family(metric: Metric) -> Family:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    family: Family = kinds[metric.kind](metric.stem, metric.text, labels=metric.labels)
    return family


def _add(family: Any, metric: Metric, labels: tuple[str, ...], value: Any) -> None:
    assert len(labels) == len(metric.labels), metric.name
    if metric.kind != "histogram":
        family.add_metric(labels, float(value))
        return
    age = metric.name == "memkv_eviction_age_seconds"
    powers, unit = (AGE_POWERS, 1.0) if age else (LATENCY_POWERS, MICROSECOND_S)
    buckets = cumulative(value["buckets"], powers, unit)
    family.add_metric(
        labels, [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in buckets], value["sum"]
    )


def samples(status: Mapping[str, Any]) -> Iterator[Sample]:
    """Every number of a status that is a metric."""
    yield from _node(status)
    for lane in status["lanes"]:
        label = str(lane["index"])
        yield from _lane(label, lane)
        yield from _operations(label, lane["transports"])
        yield from _storage(label, lane["storage"])
        for drive in lane["drives"]:
            yield from _drive((label, drive["path"] or drive["mode"]), drive)
    yield Sample("memkv_namespaces", (), status["namespace_count"])
    for namespace in status["namespaces"]:
        yield from _namespace(namespace)


def _node(status: Mapping[str, Any]) -> Iterator[Sample]:
    yield Sample("memkv_build_info", (status["version"],), 1)
    yield Sample("memkv_start_time_seconds", (), status["started_at"])
    yield Sample("memkv_ready", (), status["ready"])
    yield Sample("memkv_draining", (), status["draining"])
    for name in ("healthy", "degraded", "unhealthy"):
        yield Sample("memkv_health", (name,), status["health"]["status"] == name)
    if expires_at := status["license"]["expires_at"]:
        yield Sample("memkv_license_expiry_seconds", (), datetime.fromisoformat(expires_at).timestamp())
    for process in status["memory"]["processes"]:
        for kind in ("anonymous", "file", "shared"):
            yield Sample("memkv_process_resident_bytes", (process["name"], kind), process[f"{kind}_bytes"])
    handshakes = status["handshakes"]
    yield Sample("memkv_accepted_connections_total", (), handshakes["accepted"])
    yield Sample("memkv_waiting_connections", (), handshakes["waiting"])
    for cause, count in handshakes["refused"].items():
        yield Sample("memkv_refused_connections_total", (cause,), count)


def _lane(label: str, lane: Mapping[str, Any]) -> Iterator[Sample]:
    yield Sample("memkv_lane_serving", (label,), lane["state"] == "serving")
    yield Sample("memkv_lane_restarts_total", (label,), lane["restarts"])
    yield Sample("memkv_sessions", (label,), lane["sessions"])
    yield Sample("memkv_lane_pending_answers", (label,), lane["pending_answers"])
    for transport, count in {"tcp": 0, **lane["by_transport"]}.items():
        yield Sample("memkv_connections", (label, transport), count)
    for activity, count in {
        **dict.fromkeys(("idle", "receiving", "sending", "waiting"), 0), **lane["activity"]
    }.items():  # fmt: skip
        yield Sample("memkv_lane_activity_connections", (label, activity), count)
    for cause, count in lane["errors"].items():
        yield Sample("memkv_session_errors_total", (label, cause), count)


def _operations(label: str, transports: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[Sample]:
    for transport, operations in transports.items():
        for op, counters in operations.items():
            labels = (label, transport, op)
            for field, name in _OPERATION.items():
                yield Sample(name, labels, counters[field])
            yield Sample("memkv_request_duration_seconds", labels, counters["duration"])
            zeros = _NO_MISSES if op in ("get", "put") else {}  # or the first would not count as an increase
            for cause, count in {**zeros, **counters["misses"]}.items():
                yield Sample("memkv_request_misses_total", (*labels, cause), count)
            for code, count in {"storage": 0, **counters["refused"]}.items():
                yield Sample("memkv_request_errors_total", (*labels, code), count)


def _storage(label: str, storage: Mapping[str, Any]) -> Iterator[Sample]:
    for field, name in _STORAGE.items():
        if field in storage:
            yield Sample(name, (label,), storage[field])
    if "eviction_age" in storage:
        yield Sample("memkv_eviction_age_seconds", (label,), storage["eviction_age"])
    for state, count in storage.get("segments", {}).items():
        if state != "bytes":  # of one segment
            yield Sample("memkv_segments", (label, state), count)


def _drive(labels: tuple[str, str], drive: Mapping[str, Any]) -> Iterator[Sample]:
    for name in _STATES:
        yield Sample("memkv_drive_state", (*labels, name), drive["state"] == name)
    yield Sample("memkv_drive_capacity_bytes", labels, drive["capacity_bytes"])
    yield Sample("memkv_drive_used_bytes", labels, drive["used_bytes"])
    yield Sample("memkv_drive_records", labels, drive.get("records", 0))
    for kind in ("read", "write"):
        yield Sample("memkv_drive_errors_total", (*labels, kind), drive.get(f"{kind}_errors", 0))
    if (job := drive.get("job")) is not None:
        yield Sample("memkv_drive_job_running", (*labels, job["name"]), job["state"] == "running")
    if "memory_max_bytes" in drive:
        for kind in ("max", "used", "unwritten"):
            yield Sample("memkv_drive_pool_bytes", (*labels, kind), drive[f"memory_{kind}_bytes"])
        for kind in ("loaded", "evicted"):
            yield Sample(f"memkv_drive_pool_{kind}_bytes_total", labels, drive[f"memory_{kind}_bytes"])


def _namespace(namespace: Mapping[str, Any]) -> Iterator[Sample]:
    label = (namespace["name"],)
    for field, name in _NAMESPACE.items():
        if namespace.get(field) is not None:
            yield Sample(name, label, namespace[field])
    yield Sample("memkv_namespace_info", (*label, namespace.get("identity_digest", "")), 1)
