# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from memkv_server.dashboard.cluster import NodeState, cluster_state, worst
from memkv_server.dashboard.node_view import eviction_of, median_age_s, rails_of
from memkv_server.dashboard.remedies import REMEDIES, with_remedy
from memkv_server.events import EVENTS


def view(health: str = "healthy", **more: Any) -> dict[str, Any]:
    """What a node says of itself, of which a namespace holds ten records."""
    namespace = {"name": "ns", "identity_digest": "ab", "records": 10, "bytes": 100, "hits": 3, "misses": 1}
    return {
        "version": "1.0",
        "draining": False,
        "health": {"status": health},
        "storage": {"mode": "file", "capacity_bytes": 1000, "used_bytes": 400, "live_bytes": 100, "records": 10},
        "eviction": {"evicted_bytes": 50, "evicted_records": 5, "age_buckets": {"6": 4}},
        "connections": 2,
        "sessions": 1,
        "namespace_count": 1,
        "namespaces": [{**namespace, "identity": '{"model":"m"}'}],
        "clients": [{"client": "c", "namespace": "ns", "transport": "tcp", "connections": 2, "idle_seconds": 1.0}],
        "problems": [{"at": 5.0, "text": "t"}],
        **more,
    }


def test_two_nodes_are_one_cluster() -> None:
    state = cluster_state([NodeState("a", view(), own=True), NodeState("b", view(version="1.1"))], 10.0)
    assert (state["health"], state["versions"], state["connections"]) == ("healthy", ["1.0", "1.1"], 4)
    assert (state["storage"]["used_bytes"], state["eviction"]["evicted_bytes"]) == (800, 100)
    (namespace,) = state["namespaces"]
    assert (namespace["records"], namespace["hits"], namespace["identity"]) == (20, 6, '{"model":"m"}')
    (client,) = state["clients"]
    assert (client["connections"], client["idle_seconds"]) == (4, 1.0)
    assert [problem["node"] for problem in state["problems"]] == ["a", "b"]
    assert [(node["name"], node["status"], node["own"]) for node in state["nodes"]] == [
        ("a", "healthy", True),
        ("b", "healthy", False),
    ]
    assert 32 <= state["eviction"]["median_age_seconds"] <= 64


def test_a_node_that_is_down_counts_for_nothing_and_is_shown() -> None:
    state = cluster_state([NodeState("a", view()), NodeState("b", view(), "no answer", 9.0), NodeState("c", None)], 1.0)
    assert (state["health"], state["storage"]["records"], state["connections"]) == ("degraded", 10, 2)
    assert [(node["status"], node["error"]) for node in state["nodes"]][1:] == [("down", "no answer"), ("down", None)]


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (["healthy", "healthy"], "healthy"),
        (["healthy", "degraded"], "degraded"),
        (["healthy", "unhealthy"], "degraded"),
        (["unhealthy", "unhealthy"], "unhealthy"),
    ],
)
def test_health_of_the_whole(states: list[str], whole: str) -> None:
    assert worst([NodeState("n", view(state)) for state in states]) == whole
    assert cluster_state([NodeState("n", view(draining=True))], 0.0)["nodes"][0]["status"] == "draining"


def test_what_evicts_is_told_apart() -> None:
    ages = [{"eviction_age": {"buckets": {"6": count}}} for count in (1, 2)]
    engines: list[dict[str, Any]] = [{"evicted_records": 3, **ages[0]}, ages[1]]
    told = eviction_of(engines, [{"expired_records": 2, "over_quota_records": 7}, {"expired_records": None}])
    assert (told["evicted_records"], told["expired_records"], told["over_quota_records"]) == (3, 2, 7)
    assert told["age_buckets"] == {"6": 3}
    assert median_age_s({}) is None


def test_a_device_that_no_lane_has_open_is_not_active() -> None:
    said = {"device": "mlx5_0", "port": 1, "active": True, "endpoints": 3, "direct_bytes": 0}
    assert rails_of(["mlx5_0:1", "mlx5_1"], [{"rails": [said]}, {"rails": [said]}]) == [
        {"device": "mlx5_0", "active": True, "lanes": 2, "endpoints": 6},
        {"device": "mlx5_1", "active": False, "lanes": 0, "endpoints": 0},
    ]


def test_every_problem_has_a_remedy() -> None:
    assert {name for name, _ in REMEDIES} <= set(EVENTS)
    refused = with_remedy({"event": "session_refused", "cause": "auth_failed", "text": "refused"})
    assert "auth_key" in refused["remedy"]
    assert with_remedy({"event": "session_refused", "cause": "new", "text": "t"})["remedy"]
    own = with_remedy({"event": None, "text": "the disk is full; make room"})
    assert (own["text"], own["remedy"]) == ("the disk is full", "make room")
    assert "node's log" in with_remedy({"event": None, "text": "something"})["remedy"]
