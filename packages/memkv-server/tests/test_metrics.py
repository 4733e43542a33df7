# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from memkv_server.metrics import render

OPS = {"requests": 3, "keys": 12, "hits": 10, "bytes_in": 0, "bytes_out": 4096, "seconds": 0.25}


def lane(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "index": index, "state": "serving", "restarts": 0, "connections": 4, "sessions": 3,
        "ops": {"get": OPS, "put": {**OPS, "bytes_in": 99}}, "errors": {"auth_failed": 2},
        "storage": {"capacity_bytes": 100, "used_bytes": 40, "records": 5, "evicted_records": 7,
                    "segments": {"total": 4, "free": 1}},
        "drives": [{"path": f"/srv/{index}", "mode": "file", "state": "online", "capacity_bytes": 9, "used_bytes": 4}],
        **changes,
    }  # fmt: skip


def status(*lanes: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "started_at": 1700000000.5,
        "ready": True,
        "health": {"status": "degraded"},
        "memory": {"processes": [{"name": "lane 0", "anonymous_bytes": 1, "file_bytes": 2, "shared_bytes": 3}]},
        "handshakes": {"accepted": 9, "waiting": 1, "refused": {"timeout": 2}},
        "namespace_count": 1,
        "namespaces": [{"name": 'odd "name"\n', "records": 5, "bytes": 40}],
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
    down = lane(1, state="down", restarts=2, connections=0, ops={}, errors={}, storage={})
    found = samples(status(lane(0), down))
    assert found["memkv_request_keys_total", (("lane", "0"), ("op", "get"))] == 12
    assert found["memkv_received_bytes_total", (("lane", "0"), ("op", "put"))] == 99
    assert found["memkv_request_seconds_total", (("lane", "0"), ("op", "get"))] == 0.25
    assert found["memkv_lane_serving", (("lane", "0"),)] == 1
    assert found["memkv_lane_serving", (("lane", "1"),)] == 0
    assert found["memkv_lane_restarts_total", (("lane", "1"),)] == 2
    assert found["memkv_health", (("status", "degraded"),)] == 1
    assert found["memkv_health", (("status", "healthy"),)] == 0
    assert found["memkv_session_errors_total", (("cause", "auth_failed"), ("lane", "0"))] == 2
    assert found["memkv_evicted_records_total", (("lane", "0"),)] == 7
    assert found["memkv_segments", (("lane", "0"), ("state", "free"))] == 1
    assert found["memkv_drive_state", (("lane", "0"), ("path", "/srv/0"), ("state", "online"))] == 1
    assert found["memkv_namespace_records", (("namespace", 'odd "name"\n'),)] == 5
    assert found["memkv_refused_connections_total", (("cause", "timeout"),)] == 2
    assert found["memkv_process_resident_bytes", (("kind", "file"), ("process", "lane 0"))] == 2


def test_names_have_the_prefix_and_base_units() -> None:
    for name, _labels in samples(status(lane(0))):
        assert name.startswith("memkv_"), name
        assert not {"ms", "us", "kib", "mb", "percent"}.intersection(name.split("_")), name


def test_a_node_without_lanes_yet_can_be_scraped() -> None:
    assert samples(status())["memkv_ready", ()] == 1
