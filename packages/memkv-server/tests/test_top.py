# SPDX-License-Identifier: Apache-2.0
"""``memkv top`` on live nodes under load, and beside one that is dead."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING, Any

from rich.console import Console

from memkv_core.auth import admin_token
from memkv_server.cli.top import look, screen

if TYPE_CHECKING:
    from conftest import Cli, Node, StartNode

KEY = "a1" * 32  # as in conftest
TOKEN = admin_token(bytes.fromhex(KEY))


def load(node: Node, keys: list[str]) -> None:
    """A put and a get of every key, and a get of as many that are not there."""
    blocks = [bytes([index]) * 4096 for index in range(len(keys))]
    targets = [bytearray(4096) for _ in keys]
    with node.client() as client:
        assert client.put(keys, blocks) == [True] * len(keys)
        assert client.get(keys, targets) == [4096] * len(keys)
        assert client.get([f"no {key}" for key in keys], targets) == [None] * len(keys)


def shown(*arguments: Any) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    console.print(*arguments)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_what_a_node_did_between_two_looks(start_node: StartNode) -> None:
    node = start_node()
    first = look([node.admin], TOKEN, {})
    load(node, [f"key {index}" for index in range(32)])
    node.wait_for(lambda: node.status()["lanes"][0]["ops"]["get"]["keys"] == 64)
    second = look([node.admin], TOKEN, first)
    done = second[node.admin].rates
    assert round(done.of("get").keys * done.seconds, 6) == 64
    assert done.hit_ratio == 0.5
    assert round(done.of("get").bytes * done.seconds, 6) == 32 * 4096
    assert round(done.of("put").bytes * done.seconds, 6) == 32 * 4096
    assert done.of("get").quantile_s(0.99) is not None
    text = shown(screen(list(second.values())))
    assert "50.0 %" in text
    assert "healthy" in text
    assert "1/1 nodes" in text


def test_a_dead_node_is_a_line_and_the_other_goes_on(start_node: StartNode) -> None:
    node, dead = start_node(), start_node()
    nodes = [node.admin, dead.admin]
    first = look(nodes, TOKEN, {})
    dead.stop()
    second = look(nodes, TOKEN, first)
    text = shown(screen(list(second.values())))
    assert "1/2 nodes" in text
    assert "refused" in text


def test_once_as_json(cli: Cli, start_node: StartNode) -> None:
    node = start_node()
    stop = threading.Event()

    def work() -> None:
        with node.client() as client:
            while not stop.is_set():
                client.exists(["key"])

    worker = threading.Thread(target=work)
    worker.start()
    try:
        done = cli("top", "--server", node.admin, "--json", "--interval", "1", env={"MEMKV_AUTH_KEY": KEY})
    finally:
        stop.set()
        worker.join()
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cluster"]["per_second"]["exists"]["requests"] > 0
    assert report["nodes"][0]["health"]["status"] == "healthy"


def test_once_of_a_dead_node(cli: Cli, start_node: StartNode) -> None:
    node = start_node()
    node.stop()
    done = cli("top", "--server", node.admin, "--once", "--interval", "0.2", env={"MEMKV_AUTH_KEY": KEY})
    assert done.returncode == 1
    assert "refused" in done.stdout
