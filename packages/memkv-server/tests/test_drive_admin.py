# SPDX-License-Identifier: Apache-2.0
"""The drives of a running node over admin HTTP, and ``memkv drive scrub`` on top of it."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from memkv_core.auth import admin_token
from memkv_core.testing.engine_tests import block
from memkv_server import admin_client
from memkv_server.engine.drive import SEGMENTS_FILE

KEY = "a1" * 32
TOKEN = admin_token(bytes.fromhex(KEY))
SIZE = 50_000
Cli = Callable[..., Any]


@pytest.fixture
def node(start_node: Any, tmp_path: Path) -> Any:
    """Two drives in two lanes, with 400 records."""
    node = start_node("--path", str(tmp_path / "a"), "--path", str(tmp_path / "b"), "--segment-size", "1MiB")
    client = node.client()
    keys = [b"k%d" % number for number in range(400)]
    assert client.put(keys, [block(number, SIZE) for number in range(400)]) == [True] * 400
    client.close()
    return node


def post(node: Any, action: str, token: str | None = TOKEN, **arguments: Any) -> Any:
    query = "&".join(f"{name}={quote(str(value))}" for name, value in arguments.items())
    return admin_client.ask(node.admin, f"/v1/drives/{action}?{query}", token, method="POST")


def flip_first(folder: Path) -> int:
    """Flips a bit in a value of the first segment, beneath the node; returns how many values there are."""
    content = (folder / SEGMENTS_FILE).read_bytes()
    number = next(number for number in range(400) if 0 <= content.find(block(number, SIZE)) < 1 << 20)
    at = content.find(block(number, SIZE)) + 77
    fd = os.open(folder / SEGMENTS_FILE, os.O_WRONLY)
    os.pwrite(fd, bytes([content[at] ^ 2]), at)
    os.close(fd)
    return number


def test_every_endpoint_needs_the_token(node: Any, tmp_path: Path) -> None:
    for token in (None, "00" * 32):
        assert node.ask("/v1/drives", token=token).code == 401
        for action in ("scrub", "stop", "evacuate"):
            assert post(node, action, token, path=tmp_path / "a").code in (401, 404)
    assert node.ask("/v1/drives/scrub", token=TOKEN).code == 405
    assert all("job" not in drive for drive in node.ask("/v1/drives", token=TOKEN).body["drives"])


def test_what_is_refused_says_why(node: Any, tmp_path: Path) -> None:
    assert (reply := post(node, "scrub", path="/elsewhere")).code == 404
    assert "has no drive '/elsewhere'; see `memkv drive list`" in str(reply.error)
    for rate in ("fast", "0", "1", "9" * 30, "-5"):
        assert (reply := post(node, "scrub", path=tmp_path / "a", rate=rate)).code == 400
        assert f"rate {rate!r}" in str(reply.error)
    assert (reply := post(node, "stop", path=tmp_path / "a")).code == 409
    assert "nothing is running" in str(reply.error)
    assert post(node, "scrub", path=tmp_path / "a", rate=65536).code == 200
    assert (reply := post(node, "scrub", path=tmp_path / "a")).code == 409
    assert "a scrub is running; stop it" in str(reply.error)
    assert post(node, "stop", path=tmp_path / "a").body["job"]["state"] == "stopped"


def test_scrub_of_a_running_node(cli: Cli, node: Any, tmp_path: Path) -> None:
    env = {"MEMKV_AUTH_KEY": KEY}
    done = cli("drive", "scrub", "--server", node.admin, "--json", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)["drives"]
    assert [row["path"] for row in rows] == [str(tmp_path / name) for name in ("a", "b")]
    assert {row["job"]["state"] for row in rows} == {"done"}
    assert sum(row["job"]["records"] for row in rows) > 300
    flip_first(tmp_path / "a")
    done = cli("drive", "scrub", str(tmp_path / "a"), "-s", node.admin, "--rate", "1GiB/s", env=env)
    assert done.returncode == 1
    header, line = done.stdout.splitlines()
    assert header.split() == ["path", "job", "state", "done", "records", "damaged", "unreadable"]
    assert line.split()[:3] == [str(tmp_path / "a"), "scrub", "done"]
    assert line.split()[-2:] == ["1", "0"]
    assert node.status()["storage"]["corrupt_records"] == 1
    assert "is dropped (payload)" in node.log.read_text()
    metrics = admin_metrics(node)
    assert 'memkv_corrupt_records_total{lane="0"} 1.0' in metrics
    assert f'memkv_drive_job_running{{job="scrub",lane="0",path="{tmp_path}/a"}} 0.0' in metrics
    node.stop()
    offline = cli("drive", "scrub", str(tmp_path / "a"), str(tmp_path / "b"))
    assert offline.returncode == 1, "it is still on the medium"
    assert "1 damaged dropped" in offline.stderr
    assert cli("drive", "scrub", "a", "b", "--rate", "1GiB/s", "--json").returncode == 0


def admin_metrics(node: Any) -> str:
    request = urllib.request.Request(f"http://{node.admin}/v1/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(response.read().decode())


def test_scrub_in_the_background(cli: Cli, refused: Any, node: Any, tmp_path: Path) -> None:
    env = {"MEMKV_AUTH_KEY": KEY, "MEMKV_SERVERS": node.address}
    done = cli("drive", "scrub", "--rate", "100KiB/s", "--detach", env=env)
    assert (done.returncode, done.stdout.count("running")) == (0, 2)
    rows = json.loads(cli("drive", "list", "--json", env=env).stdout)["drives"]
    assert [row["job"]["state"] for row in rows] == ["running"] * 2
    assert {row["job"]["rate_bytes_s"] for row in rows} == {100 << 10}
    client = node.client()
    assert client.exists([b"k1", b"k2"]) == [True, True]
    client.close()
    assert "a scrub is running; stop it" in refused("drive", "scrub", env=env)
    stopped = cli("drive", "scrub", "--stop", env=env)
    assert (stopped.returncode, stopped.stdout.count("stopped")) == (0, 2)
    assert "--rate 'fast' is no rate; write it as 100MiB/s" in refused("drive", "scrub", "--rate", "fast", env=env)
    assert "/no is no drive of" in refused("drive", "scrub", "/no", "--server", node.admin, env=env)
    gone = refused("drive", "scrub", "-s", "127.0.0.1:1", env=env)
    assert "127.0.0.1:1: connection refused" in gone
    assert gone.endswith("start the node, or work on its drives offline")
