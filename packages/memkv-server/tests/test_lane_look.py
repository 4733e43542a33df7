# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from memkv_server.connection import Connection
from memkv_server.lane_look import clients_of, rails_of, within
from memkv_server.limits import CONTROL_BYTES_MAX, LOOK_BYTES_MAX


@dataclass
class Named:
    name: str


@dataclass
class Standing:
    """What is looked at of a connection."""

    agent: str
    namespace: Named | None
    moves_by: str
    progress_s: float


def looked(*connections: Standing, now_s: float = 100.0) -> list[dict[str, Any]]:
    return clients_of(cast("list[Connection]", list(connections)), now_s)


def test_connections_of_one_client_are_one_row() -> None:
    ns = Named("ns")
    rows = looked(
        Standing("b", ns, "tcp", 99.0),
        Standing("a", ns, "tcp", 90.0),
        Standing("a", ns, "tcp", 95.0),
        Standing("a", ns, "rdma", 100.5),
        Standing("", None, "tcp", 99.0),
    )
    assert rows[0] == {"client": "a", "namespace": "ns", "transport": "tcp", "connections": 2, "idle_seconds": 5.0}
    assert [(row["client"], row["transport"], row["idle_seconds"]) for row in rows[1:]] == [
        ("b", "tcp", 1.0),
        ("a", "rdma", 0.0),
    ]


@given(st.lists(st.text(max_size=600), max_size=200))
def test_what_a_lane_says_fits_its_message(texts: list[str]) -> None:
    kept = within([{"text": text} for text in texts])
    assert len(json.dumps(kept)) <= LOOK_BYTES_MAX + 2
    assert [row["text"] for row in kept] == texts[: len(kept)]
    if len(kept) < len(texts):
        assert len(json.dumps([*kept, {"text": texts[len(kept)]}])) > LOOK_BYTES_MAX - 2


def test_all_parts_together_fit_a_control_message() -> None:
    assert 3 * LOOK_BYTES_MAX + 8192 <= CONTROL_BYTES_MAX


def test_a_lane_without_devices_has_no_rails() -> None:
    assert rails_of(None) == []
