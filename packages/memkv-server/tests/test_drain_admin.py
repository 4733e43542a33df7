# SPDX-License-Identifier: Apache-2.0
"""A node that is drained at its admin endpoint; under load it is in integration-tests/cluster/test_drain.py."""

from __future__ import annotations

import os
import signal
import urllib.request
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from memkv_core.auth import admin_token
from memkv_server import admin_client

if TYPE_CHECKING:
    from conftest import Node, StartNode

TOKEN = admin_token(bytes.fromhex("a1" * 32))  # of the key in conftest


def drain(node: Node, method: str, token: str | None = TOKEN) -> admin_client.Reply:
    return admin_client.ask(node.admin, "/v1/drain", token, 30, method)


def gauge(node: Node, name: str) -> float:
    request = urllib.request.Request(f"http://{node.admin}/v1/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        text = reply.read().decode()
    return next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


def test_only_who_holds_the_key_drains_a_node(start_node: StartNode) -> None:
    node = start_node()
    for token in (None, "nonsense", admin_token(b"x" * 32)):
        refused = drain(node, "POST", token)
        assert refused.code == 401
        assert refused.error
    assert drain(node, "GET").code == 405
    assert node.ask("/v1/ready").code == 200


def test_it_lets_go_stays_so_through_the_death_of_a_lane_and_serves_again(start_node: StartNode) -> None:
    node = start_node()
    with node.client(timeout_ms=2000) as client:
        assert client.put(["k"], [b"value"]) == [True]
        assert drain(node, "POST").body is not None
        node.wait_for(lambda: (drain(node, "POST").body or {}) == {"draining": True, "connections": 0, "sessions": 0})
        ready = node.ask("/v1/ready")
        assert (ready.code, ready.error) == (503, "the node is draining")
        assert gauge(node, "memkv_draining") == 1
        assert gauge(node, "memkv_ready") == 0
        assert client.exists(["k"]) == [False]
        assert "the node is going down" in next(iter(client.servers_down().values()))

        os.kill(node.status()["lanes"][0]["pid"], signal.SIGKILL)
        node.wait_for(lambda: node.status()["lanes"][0]["restarts"] == 1)
        node.wait_for(lambda: bool(node.status()["lanes"][0]["state"] == "serving"))
        with node.client(timeout_ms=2000) as other:
            assert other.put(["k"], [b"value"]) == [False], "the new lane takes no clients either"

        assert (drain(node, "DELETE").body or {})["draining"] is False
        assert node.ask("/v1/ready").code == 200
        node.wait_for(lambda: client.put(["k"], [b"value"]) == [True])
