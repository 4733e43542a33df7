# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from memkv_server import metrics
from memkv_server.metric_table import TABLE
from memkv_server.metrics import render

OPS: dict[str, Any] = {
    "requests": 3, "keys": 12, "hits": 10, "bytes_in": 0, "bytes_out": 4096, "seconds": 0.25,
    "misses": {"absent": 2}, "refused": {"storage": 1}, "duration": {"sum": 0.5, "buckets": {"5": 1, "10": 2}},
}  # fmt: skip
STORAGE: dict[str, Any] = {
    **dict.fromkeys(metrics._STORAGE, 1), "evicted_records": 7, "segments": {"total": 4, "free": 1, "bytes": 1 << 20},
    "eviction_age": {"sum": 700.0, "buckets": {"9": 1, "8": 1}},
}  # fmt: skip
NAMESPACE: dict[str, Any] = {**dict.fromkeys(metrics._NAMESPACE, 1), "name": 'odd "name"\n', "records": 5}
DRIVE = {"mode": "direct", "state": "online", "capacity_bytes": 9, "used_bytes": 4,
         "job": {"name": "scrub", "state": "running"}, "memory_max_bytes": 8, "memory_used_bytes": 7,
         "memory_unwritten_bytes": 6, "memory_loaded_bytes": 5, "memory_evicted_bytes": 4}  # fmt: skip


def lane(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "index": index, "state": "serving", "restarts": 0, "connections": 4, "sessions": 3, "pending_answers": 2,
        "by_transport": {"tcp": 3, "shm": 1}, "activity": {"idle": 4}, "errors": {"auth": 2},
        "transports": {"tcp": {"get": OPS, "put": {**OPS, "bytes_in": 99}}}, "storage": STORAGE,
        "drives": [{"path": f"/srv/{index}", **DRIVE}],
        **changes,
    }  # fmt: skip


def status(*lanes: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "started_at": 1700000000.5,
        "ready": True,
        "draining": False,
        "health": {"status": "degraded"},
        "license": {"expires_at": "2030-01-01T00:00:00+00:00"},
        "memory": {"processes": [{"name": "lane 0", "anonymous_bytes": 1, "file_bytes": 2, "shared_bytes": 3}]},
        "handshakes": {"accepted": 9, "waiting": 1, "refused": {"timeout": 2}},
        "namespace_count": 1,
        "namespaces": [NAMESPACE],
        "lanes": list(lanes),
    }


def samples(described: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text, content_type = render(described)
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_every_number_of_a_status_is_there() -> None:
    down = lane(1, state="down", restarts=2, by_transport={}, transports={}, errors={}, storage={})
    found = samples(status(lane(0), down))
    get, put = (
        (("lane", "0"), ("op", "get"), ("transport", "tcp")),
        (("lane", "0"), ("op", "put"), ("transport", "tcp")),
    )
    assert found["memkv_request_keys_total", get] == 12
    assert found["memkv_received_bytes_total", put] == 99
    assert found["memkv_request_busy_seconds_total", get] == 0.25
    assert found["memkv_request_misses_total", (("cause", "absent"), *get)] == 2
    assert found["memkv_request_errors_total", (("code", "storage"), *get)] == 1
    assert found["memkv_request_duration_seconds_count", get] == 3
    assert found["memkv_request_duration_seconds_sum", get] == 0.5
    assert found["memkv_request_duration_seconds_bucket", (("lane", "0"), ("le", "3.2e-05"), *get[1:])] == 1
    assert found["memkv_request_duration_seconds_bucket", (("lane", "0"), ("le", "0.001024"), *get[1:])] == 3
    assert found["memkv_eviction_age_seconds_bucket", (("lane", "0"), ("le", "256.0"))] == 1
    assert found["memkv_eviction_age_seconds_bucket", (("lane", "0"), ("le", "+Inf"))] == 2
    assert found["memkv_lane_serving", (("lane", "0"),)] == 1
    assert found["memkv_lane_serving", (("lane", "1"),)] == 0
    assert found["memkv_lane_restarts_total", (("lane", "1"),)] == 2
    assert found["memkv_connections", (("lane", "0"), ("transport", "shm"))] == 1
    assert found["memkv_health", (("status", "degraded"),)] == 1
    assert found["memkv_health", (("status", "healthy"),)] == 0
    assert found["memkv_license_expiry_seconds", ()] == 1893456000
    assert found["memkv_session_errors_total", (("cause", "auth"), ("lane", "0"))] == 2
    assert found["memkv_evicted_records_total", (("lane", "0"),)] == 7
    assert found["memkv_segments", (("lane", "0"), ("state", "free"))] == 1
    assert found["memkv_drive_state", (("lane", "0"), ("path", "/srv/0"), ("state", "online"))] == 1
    assert found["memkv_namespace_records", (("namespace", 'odd "name"\n'),)] == 5
    assert found["memkv_refused_connections_total", (("cause", "timeout"),)] == 2
    assert found["memkv_process_resident_bytes", (("kind", "file"), ("process", "lane 0"))] == 2


def test_every_metric_of_the_table_is_filled_in_and_no_other() -> None:
    named = {sample.name for sample in metrics.samples(status(lane(0)))}
    assert named == set(TABLE)
    exposed = {name for name, _labels in samples(status(lane(0)))}
    assert exposed == {name for metric in TABLE.values() for name in metric.exposed}


def test_names_have_the_prefix_and_base_units() -> None:
    for name, _labels in samples(status(lane(0))):
        assert name.startswith("memkv_"), name
        assert not {"ms", "us", "kib", "mb", "percent"}.intersection(name.split("_")), name


def test_a_node_without_lanes_yet_can_be_scraped() -> None:
    assert samples(status())["memkv_ready", ()] == 1
