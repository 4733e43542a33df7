# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from memkv_server import node_status
from memkv_server.lane_process import LaneState
from memkv_server.supervisor import Supervisor

DRIVES = [{"path": "/a", "capacity_bytes": 10}]


def lane(state: LaneState = LaneState.SERVING, *drives: str, stalled: bool = False) -> Any:
    reported = [{"path": "/a", "mode": "file", "state": name, "capacity_bytes": 10, "used_bytes": 0} for name in drives]
    return SimpleNamespace(
        index=0, state=state, serving=state is LaneState.SERVING, stalled=stalled, restarts=0,
        status={"engine": {"drives": reported}} if reported else {},
    )  # fmt: skip


def node(*lanes: Any) -> Supervisor:
    config = SimpleNamespace(drives_of=lambda _lane: DRIVES, storage=SimpleNamespace(mode="file"))
    return cast("Supervisor", SimpleNamespace(lanes=list(lanes), config=config))


UP, READ_ONLY, DOWN = lane(LaneState.SERVING, "online"), lane(LaneState.SERVING, "read-only"), lane(LaneState.DOWN)


@pytest.mark.parametrize(
    ("lanes", "status", "online", "offline"),
    [
        ([UP], "healthy", 1, 0),
        ([UP, UP], "healthy", 2, 0),
        ([UP, DOWN], "degraded", 1, 1),
        ([UP, READ_ONLY], "degraded", 2, 0),
        ([lane(LaneState.SERVING, "online", stalled=True), UP], "degraded", 2, 0),
        ([lane(LaneState.SERVING, "online", stalled=True)], "unhealthy", 1, 0),
        ([lane(LaneState.SERVING, "online", "offline")], "degraded", 1, 1),
        ([lane(LaneState.SERVING, "offline")], "unhealthy", 0, 1),
        ([DOWN, DOWN], "unhealthy", 0, 2),
        ([lane(LaneState.STARTING)], "unhealthy", 0, 1),
        ([], "unhealthy", 0, 0),
    ],
)
def test_health(lanes: list[Any], status: str, online: int, offline: int) -> None:
    health = node_status.health(node(*lanes))
    found = (health["status"], health["drives_online"], health["drives_offline"], health["drives_total"])
    assert found == (status, online, offline, online + offline)


@pytest.mark.parametrize(("states", "active"), [("", False), ("no", False), ("no yes", True), ("away", False)])
def test_rdma_is_active_where_a_lane_that_serves_says_so(states: str, active: bool) -> None:
    lanes = []
    for state in states.split():
        lanes.append(lane(LaneState.DOWN if state == "away" else LaneState.SERVING, "online"))
        lanes[-1].status["rdma_active"] = state in ("yes", "away")
    assert node_status.health(node(*lanes))["rdma_active"] is active


def test_memory_of_this_process_and_of_none() -> None:
    memory = node_status.memory_of(os.getpid())
    assert memory["rss_bytes"] >= memory["anonymous_bytes"] > 0
    assert node_status.memory_of(2**22 + 1)["rss_bytes"] == 0
