# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core import Client, ClientConfig
from memkv_server import dev_state, processes

Cli = Callable[..., Any]


@pytest.fixture
def dir(cli: Cli, tmp_path: Path) -> Iterator[Path]:
    """A place for a cluster, which is stopped at the end."""
    yield tmp_path / "cluster"
    if (tmp_path / "cluster" / dev_state.STATE_FILE).exists():
        cli("dev", "down", "--dir", str(tmp_path / "cluster"))


def up(cli: Cli, dir: Path, *flags: str) -> dict[str, Any]:
    done = cli("dev", "up", "--dir", str(dir), "--json", *flags)
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(done.stdout)
    assert set(described) == {"env", "nodes"}
    assert set(described["env"]) == {
        "MEMKV_SERVERS", "MEMKV_AUTH_KEY", "MEMKV_LICENSE", "MEMKV_LICENSE_KEYS", "MEMKV_TRANSPORT",
    }  # fmt: skip
    return described


SMALL = ("--port", "0", "--capacity", "64MiB")


def test_a_cluster_from_nothing_to_down(cli: Cli, dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = up(cli, dir, *SMALL, "--nodes", "2")
    assert len({node["address"] for node in described["nodes"]}) == 2
    for name, value in described["env"].items():
        monkeypatch.setenv(name, value)
    client = Client(ClientConfig.load())
    keys = [f"k{number}" for number in range(200)]
    assert client.put(keys, [b"v" * 100] * 200) == [True] * 200
    status = json.loads(cli("admin", "status", "--json", env=described["env"]).stdout)
    records = [node["storage"]["records"] for node in status["nodes"]]
    assert sum(records) == 200
    assert min(records) > 0

    assert up(cli, dir) == described  # up again: nothing is started anew
    shown = json.loads(cli("dev", "status", "--dir", str(dir), "--json").stdout)
    assert [node["state"] for node in shown["nodes"]] == ["healthy", "healthy"]

    victim = described["nodes"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    while processes.start_ticks(victim) is not None:
        pass
    half = cli("dev", "status", "--dir", str(dir), "--json")
    assert half.returncode == 1
    assert [node["state"] for node in json.loads(half.stdout)["nodes"]] == ["down", "healthy"]
    again = up(cli, dir)
    assert again["env"] == described["env"]
    assert again["nodes"][0]["pid"] != victim
    assert again["nodes"][1] == described["nodes"][1]
    client.close()
    client = Client(ClientConfig.load())
    assert client.exists(keys) == [True] * 200  # nothing acknowledged was lost
    client.close()

    done = cli("dev", "down", "--dir", str(dir))
    assert (done.returncode, done.stdout) == (0, "")
    assert all(processes.start_ticks(node["pid"]) is None for node in again["nodes"])
    assert cli("dev", "down", "--dir", str(dir)).returncode == 0
    assert cli("dev", "status", "--dir", str(dir)).returncode == 1


def test_the_lines_to_paste(cli: Cli, dir: Path) -> None:
    done = cli("dev", "up", "--dir", str(dir), *SMALL, "--mode", "memory")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("export MEMKV_") for line in lines)
    assert "starting 127.0.0.1:" in done.stderr


def test_everything_in_the_folder_is_its_owners(cli: Cli, dir: Path) -> None:
    up(cli, dir, *SMALL)
    assert stat.S_IMODE(dir.stat().st_mode) == 0o700
    for path in (dir / "auth.key", dir / "minio.license", dir / "dev.json", dir / "node-0" / "config.yaml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_settings_of_the_shell_do_not_reach_the_nodes(cli: Cli, dir: Path) -> None:
    env = {"MEMKV_SERVER_STORAGE__MODE": "tape", "MEMKV_LICENSE": "/none", "MEMKV_AUTH_KEY": "00"}
    assert cli("dev", "up", "--dir", str(dir), *SMALL, env=env).returncode == 0


def test_another_shape_needs_a_stopped_cluster(cli: Cli, refused: Callable[..., str], dir: Path) -> None:
    first = up(cli, dir, *SMALL)
    assert "holds a running cluster: 1 nodes" in refused("dev", "up", "--dir", str(dir), "--nodes", "2")
    cli("dev", "down", "--dir", str(dir))
    second = up(cli, dir, "--nodes", "2")
    assert len(second["nodes"]) == 2
    assert second["env"]["MEMKV_AUTH_KEY"] == first["env"]["MEMKV_AUTH_KEY"]


def test_a_port_in_use(cli: Cli, dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("dev", "up", "--dir", str(dir), "--port", str(port))
    assert done.returncode == 2
    assert f"memkv: the data port 127.0.0.1:{port} is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_node_that_cannot_start_says_why(cli: Cli, dir: Path) -> None:
    done = cli("dev", "up", "--dir", str(dir), "--port", "0", "--capacity", "1KiB", "--mode", "memory")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did not start: " in done.stderr
    assert "1024 bytes" in done.stderr


@pytest.mark.parametrize("flags", [("--nodes", "0"), ("--port", "65530"), ("--port", "-1"), ("--nodes", "5000")])
def test_numbers_out_of_bounds(refused: Callable[..., str], dir: Path, flags: tuple[str, ...]) -> None:
    assert flags[0] in refused("dev", "up", "--dir", str(dir), *flags)


def test_a_foreign_folder_is_left_alone(refused: Callable[..., str], dir: Path) -> None:
    dir.mkdir()
    (dir / "letter.txt").write_text("dear")
    assert "letter.txt" in refused("dev", "up", "--dir", str(dir))
    assert os.listdir(dir) == ["letter.txt"]
    for command in ("status", "down"):
        assert "holds no development cluster" in refused("dev", command, "--dir", str(dir))


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "nodes": []}', '{"format": 1, "nodes": [{"x": 1}]}', "\0"])
def test_a_damaged_record(refused: Callable[..., str], dir: Path, text: str) -> None:
    dir.mkdir()
    (dir / "dev.json").write_text(text)
    assert "no record of `memkv dev`" in refused("dev", "up", "--dir", str(dir))
    (dir / "dev.json").unlink()


def test_one_at_a_time(refused: Callable[..., str], dir: Path) -> None:
    dir.mkdir()
    with dev_state.locked(dir):
        assert "another `memkv dev` is at work" in refused("dev", "up", "--dir", str(dir))
