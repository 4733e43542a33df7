# SPDX-License-Identifier: Apache-2.0
"""Namespaces of a real node with two lanes: listed and dropped over HTTP and by the command line, killed after it."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from memkv_core import Client
from memkv_core.auth import admin_token
from memkv_server import admin_client

if TYPE_CHECKING:
    from conftest import Cli, Node, StartNode

KEY = "a1" * 32  # as in conftest
TOKEN = admin_token(bytes.fromhex(KEY))
KEYS = [f"k{number}" for number in range(200)]


def value(key: str) -> bytes:
    return key.encode() * 200


def fill(client: Client) -> None:
    assert client.put(KEYS, [value(key) for key in KEYS]) == [True] * len(KEYS)


def found(client: Client) -> int:
    """How many are there, by each of the ways to ask."""
    targets = [bytearray(1000) for _ in KEYS]
    got = sum(size is not None for size in client.get(KEYS, targets))
    assert got == sum(client.exists(KEYS))
    assert client.lookup(KEYS) in (0, got)
    return got


def ask(node: Node, method: str, path: str, token: str | None = TOKEN) -> admin_client.Reply:
    return admin_client.ask(node.admin, path, token, 30, method)


def kill(node: Node) -> None:
    """kill -9 of every process of the node at once."""
    lanes = [lane["pid"] for lane in node.status()["lanes"]]
    for pid in (node.process.pid, *lanes):
        os.kill(pid, signal.SIGKILL)
    node.process.wait(30)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """The flags of a node of two lanes with a drive each."""
    return ["--path", str(tmp_path / "d0"), "--path", str(tmp_path / "d1")]


def test_dropped_and_killed_it_stays_dropped(start_node: StartNode, paths: list[str], cli: Cli) -> None:
    node = start_node(*paths)
    env = {"MEMKV_SERVERS": node.address, "MEMKV_AUTH_KEY": KEY}
    with (
        node.client(namespace="doomed/by name") as doomed,
        node.client(namespace="kept") as kept,
        node.client(namespace="other") as other,
    ):
        for client in (doomed, kept, other):
            fill(client)
            assert found(client) == len(KEYS)
        assert all(lane["storage"]["records"] > 200 for lane in node.status()["lanes"]), "in both lanes"

        # By the command line, which asks first.
        asked = cli("admin", "drop", "doomed/by name", "--server", node.admin, env=env)
        assert asked.returncode == 2
        assert "give --yes" in asked.stderr
        assert found(doomed) == len(KEYS)
        done = cli("admin", "drop", "doomed/by name", "--yes", "--json", "--server", node.admin, env=env)
        assert done.returncode == 0, done.stderr
        (said,) = json.loads(done.stdout)["nodes"]
        assert (said["records"], said["lanes"], said["away"]) == (200, {"dropped": 2, "total": 2}, [])
        assert found(doomed) == 0, "to the session that is open"
        assert ask(node, "DELETE", "/v1/namespaces/other").code == 200
        assert found(kept) == len(KEYS)

    kill(node)
    node = start_node(*paths)
    with node.client(namespace="doomed/by name") as doomed, node.client(namespace="kept") as kept:
        assert found(doomed) == 0, "opened again with the identity it had"
        assert found(kept) == len(KEYS)
        fill(doomed)
        kill(node)
    node = start_node(*paths)
    with node.client(namespace="doomed/by name") as doomed:
        assert found(doomed) == len(KEYS), "what was put after the drop is not dropped"
    listed = ask(node, "GET", "/v1/namespaces").body
    assert listed is not None
    assert [(row["name"], row["records"]) for row in listed["namespaces"]] == [("doomed/by name", 200), ("kept", 200)]


def test_usage_in_status_metrics_and_tables(start_node: StartNode, paths: list[str], cli: Cli) -> None:
    node = start_node(*paths)
    env = {"MEMKV_SERVERS": node.address, "MEMKV_AUTH_KEY": KEY}
    with node.client(namespace="tenant [a]") as client:
        fill(client)
        client.get([*KEYS, "absent"], [bytearray(1000) for _ in range(len(KEYS) + 1)])
    (row,) = node.status()["namespaces"]
    assert (row["name"], row["records"], row["hits"], row["misses"]) == ("tenant [a]", 200, 200, 1)
    assert len(row["identity_digest"]) == 64
    listed = ask(node, "GET", "/v1/namespaces").body
    assert listed == {"namespaces": [row], "lanes": {"serving": 2, "total": 2}}
    table = cli("admin", "namespaces", "--server", node.admin, env=env)
    assert table.returncode == 0, table.stderr
    assert "tenant [a]" in table.stdout
    as_json = json.loads(cli("admin", "namespaces", "--json", "--server", node.admin, env=env).stdout)
    assert as_json["nodes"][0]["namespaces"] == [row]
    metrics = metrics_of(node)
    assert metrics["memkv_namespace_records"] == {"tenant [a]": 200}
    assert metrics["memkv_namespace_bytes"] == {"tenant [a]": row["bytes"]}
    assert metrics["memkv_namespace_hits_total"] == {"tenant [a]": 200}
    assert metrics["memkv_namespace_misses_total"] == {"tenant [a]": 1}


def metrics_of(node: Node) -> dict[str, dict[str, float]]:
    """The samples that have a namespace: metric -> namespace -> value."""
    text = cli_text(node, "/v1/metrics")
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "namespace" in sample.labels:
                found.setdefault(sample.name, {})[sample.labels["namespace"]] = sample.value
    return found


def cli_text(node: Node, path: str) -> str:
    request = urllib.request.Request(f"http://{node.admin}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        text: str = response.read().decode()
        return text


def test_refusals(start_node: StartNode, paths: list[str], refused: Any) -> None:
    node = start_node(*paths)
    for method, path in (("GET", "/v1/namespaces"), ("DELETE", "/v1/namespaces/n")):
        for token in (None, "wrong"):
            assert ask(node, method, path, token).code == 401
    assert ask(node, "POST", "/v1/namespaces").code == 405
    assert ask(node, "PUT", "/v1/namespaces/n").code == 405
    reply = ask(node, "DELETE", "/v1/namespaces/n")
    assert (reply.code, reply.error) == (404, "no namespace 'n' here")
    env = {"MEMKV_AUTH_KEY": KEY}
    line = refused("admin", "drop", "n", "--yes", "--server", node.admin, env=env)
    assert line == "memkv: no node knows a namespace 'n'; `memkv admin namespaces` lists them"


def test_a_lane_that_cannot_record_a_drop_is_named_and_the_drop_asked_again(
    start_node: StartNode, paths: list[str], cli: Cli
) -> None:
    node = start_node(*paths)
    with node.client(namespace="n") as client:
        fill(client)
        victim = node.status()["lanes"][1]["pid"]
        os.kill(victim, signal.SIGSTOP)  # it does not answer, and is not down
        os.kill(victim, signal.SIGKILL)
        replies = [ask(node, "DELETE", "/v1/namespaces/n")]
        while replies[-1].code == 503:
            replies.append(ask(node, "DELETE", "/v1/namespaces/n"))
        assert replies[-1].code == 200
        if len(replies) > 1:
            assert replies[0].error is not None
            assert "not dropped everywhere: lane 1: " in replies[0].error
        node.wait_for(lambda: node.status()["health"]["status"] == "healthy")
        assert found(client) == 0
    done = cli("admin", "namespaces", "--server", "127.0.0.1:1", env={"MEMKV_AUTH_KEY": KEY})
    assert done.returncode == 1
    assert "connection refused" in done.stderr


def test_quota_and_ttl_from_the_settings(start_node: StartNode, paths: list[str], tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text(
        "namespaces:\n"
        "  - {match: exempt, ttl: null}\n"
        "  - {match: 'tenant-*', quota: 100KB}\n"
        "  - {match: '*', ttl: 3s}\n"
    )
    node = start_node(*paths, "--config", str(tmp_path / "node.yaml"))
    with (
        node.client(namespace="tenant-a") as tenant,
        node.client(namespace="exempt") as exempt,
        node.client(namespace="else") as other,
    ):
        for client in (tenant, exempt, other):
            fill(client)
        assert 50 < found(tenant) < 100_000 / 700
        assert found(exempt) == 200
        node.wait_for(lambda: found(other) == 0)
        assert found(exempt) == 200
        rows = {row["name"]: row for row in node.status()["namespaces"]}
        assert rows["tenant-a"]["bytes"] <= rows["tenant-a"]["quota_bytes"] <= 100_000
        assert rows["tenant-a"]["over_quota_records"] == 200 - rows["tenant-a"]["records"]
        assert (rows["exempt"]["quota_bytes"], rows["exempt"]["ttl_seconds"]) == (None, None)
        assert (rows["else"]["ttl_seconds"], rows["else"]["expired_records"], rows["else"]["records"]) == (3, 200, 0)
        metrics = metrics_of(node)
        assert metrics["memkv_namespace_quota_bytes"] == {"tenant-a": rows["tenant-a"]["quota_bytes"]}
        assert metrics["memkv_namespace_ttl_seconds"] == {"else": 3}
        assert metrics["memkv_namespace_expired_records_total"]["else"] == 200
        assert metrics["memkv_namespace_over_quota_records_total"]["tenant-a"] > 0
    kill(node)
    node = start_node(*paths, "--config", str(tmp_path / "node.yaml"))
    rows = {row["name"]: row for row in node.status()["namespaces"]}
    assert (rows["exempt"]["records"], rows["else"]["records"]) == (200, 0)
    assert rows["tenant-a"]["bytes"] <= 100_000
