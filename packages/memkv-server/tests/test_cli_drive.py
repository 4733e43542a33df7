# SPDX-License-Identifier: Apache-2.0
"""``memkv drive`` as an operator meets it: tables, exit codes, and one line for every refusal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkv_core.testing.engine_tests import block, put
from memkv_server.engine import open_engine
from memkv_server.engine.drive import SEGMENTS_FILE

Cli = Callable[..., Any]
Refused = Callable[..., str]
KEY = "a1" * 32
SEGMENT = 64 << 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2 MiB with 100 records."""
    path = tmp_path_factory.mktemp("whole") / "d0"
    engine = open_engine("file", path, 2 << 20, SEGMENT)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    for number in range(100):
        put(engine, namespace, {b"k%d" % number: block(number, 5000)})
    engine.close()
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "d0"))


def flip(store: Path, number: int) -> int:
    """Flips a bit in the value of a record; returns where."""
    content = (store / SEGMENTS_FILE).read_bytes()
    at = content.index(block(number, 5000)) + 1000
    fd = os.open(store / SEGMENTS_FILE, os.O_WRONLY)
    os.pwrite(fd, bytes([content[at] ^ 1]), at)
    os.close(fd)
    return at


def test_check_finds_and_repair_mends(cli: Cli, store: Path) -> None:
    done = cli("drive", "check", "--data", str(store))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{store}: clean, 100 records (506.2 KiB) in 10 of 30 segments\n"
    at = flip(store, 7)
    assert cli("drive", "check", str(store)).stdout.endswith("values were not read (--data does)\n")
    done = cli("drive", "check", "--data", str(store))
    assert done.returncode == 1
    finding, verdict = done.stdout.splitlines()
    assert finding.startswith(f"{store}/{SEGMENTS_FILE}: offset ")
    assert finding.endswith("does not match its digest; run `memkv drive check --repair` on it")
    assert verdict.startswith(f"{store}: DAMAGED (payload 1), 1 record lost; well are 99 records")
    as_json = json.loads(cli("drive", "check", "--data", "--json", str(store)).stdout)["drives"][0]
    assert (as_json["clean"], as_json["by_damage"]) == (False, {"payload": 1})
    assert at - 2000 < as_json["findings"][0]["offset"] < at
    done = cli("drive", "check", "--data", "--repair", str(store))
    assert done.returncode == 0
    assert "1 damaged dropped" in done.stderr
    assert "clean, 99 records" in done.stdout
    again = json.loads(cli("drive", "check", "--repair", "--json", str(store)).stdout)["drives"][0]
    assert (again["clean"], "repaired" in again) == (True, False)


def test_many_findings_are_cut_short(cli: Cli, store: Path) -> None:
    for number in range(30):
        flip(store, number)
    lines = cli("drive", "check", "--data", str(store)).stdout.splitlines()
    assert (len(lines), lines[20]) == (22, "... and 10 more (--json has the first ones in full)")
    repaired = json.loads(cli("drive", "check", "--data", "--repair", "--json", str(store)).stdout)["drives"][0]
    assert (repaired["count"], len(repaired["findings"]), repaired["after"]["clean"]) == (30, 30, True)


def test_list_of_this_machine(cli: Cli, store: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    (tmp_path / "node.yaml").write_text(f"storage: {{drives: [{{path: {store}, capacity: 2MiB}}]}}\n")
    done = cli("drive", "list", "--config", "node.yaml", "--json")
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)["drives"]
    assert (row["state"], row["mode"], row["format_version"]) == ("idle", "file", 2)
    assert (row["segments"], row["used_bytes"]) == ({"total": 30, "used": 10, "damaged": 0}, 10 * SEGMENT)
    assert len(row["uuid"]) == 32
    done = cli("drive", "list", str(store), "photos", "nowhere")
    assert done.returncode == 1
    table = done.stdout.splitlines()
    assert table[0].split() == ["path", "mode", "state", "capacity", "used", "segments", "fmt", "uuid"]
    assert table[1].split() == [str(store), "file", "idle", "1.9", "MiB", "640.0", "KiB", "10/30", "2", row["uuid"][:8]]
    assert f"{tmp_path}/photos holds no MemKV store; name the folder or device of a drive" in table
    assert any(line.startswith(f"{tmp_path}/nowhere: No such file") for line in table)


def test_list_beside_a_running_node(cli: Cli, start_node: Any, tmp_path: Path) -> None:
    node = start_node("--path", str(tmp_path / "a"), "--path", str(tmp_path / "b"), "--lanes", "1")
    env = {"MEMKV_AUTH_KEY": KEY}
    done = cli("drive", "list", "--server", node.admin, "--json", env=env)
    assert done.returncode == 0
    online = json.loads(done.stdout)["drives"]
    assert [(row["path"], row["state"], row["mode"]) for row in online] == [
        (str(tmp_path / name), "online", "file") for name in ("a", "b")
    ]
    offline = json.loads(cli("drive", "list", "a", "b", "--json").stdout)["drives"]
    for before, after in zip(online, offline, strict=True):
        assert before["uuid"] == after["uuid"]
        assert before["capacity_bytes"] == after["capacity_bytes"]
        assert before["segments"]["total"] == after["segments"]["total"]
        assert after["state"] == "in use"
    pid = node.status()["lanes"][0]["pid"]
    assert offline[0]["holder"] == f"process {pid}, of the node with process {node.process.pid}"
    assert f"open in process {pid}" in cli("drive", "list", "a").stdout


def test_list_of_a_node_that_does_not_answer(cli: Cli) -> None:
    done = cli("drive", "list", "--server", "127.0.0.1:1", env={"MEMKV_AUTH_KEY": KEY})
    assert done.returncode == 1
    assert "127.0.0.1:1: connection refused" in done.stdout


def test_refusals_are_one_line(refused: Refused, start_node: Any, tmp_path: Path) -> None:
    node = start_node("--path", str(tmp_path / "a"))
    line = refused("drive", "check", "a")
    assert f"{tmp_path}/a is open in a running node (process " in line
    assert line.endswith(f", of the node with process {node.process.pid}); stop that node first")
    assert "nowhere: No such file or directory; check the owner" in refused("drive", "check", "nowhere")
    assert "no drive is named; give its path, or --config FILE" in refused("drive", "check")
    assert "paths and --config are both given" in refused("drive", "check", "a", "--config", "x")
    assert "no node is named; give --server" in refused("drive", "list")


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal(cli: Cli, whole: Path, store: Path, columns: int) -> None:
    """A pseudo-terminal of this width: no line is longer, and no column but the path is broken."""
    command = ("script", "-qec")
    if shutil.which("script") is None:
        pytest.skip("script(1), which makes a pseudo-terminal, is not installed")

    inner = f"stty cols {columns} rows 40; exec {sys.executable} -m memkv_server drive list {whole} {store} /nowhere"
    shown = subprocess.run(
        [*command, inner, "/dev/null"], capture_output=True, text=True, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"NO_COLOR": "1"},
    ).stdout  # fmt: skip
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip("\r\n") for line in shown.splitlines()]
    table = lines[: next(place for place, line in enumerate(lines) if line.startswith("/nowhere: "))]
    assert max(map(len, table)) <= columns
    assert "segments" in table[0]
    assert sum("10/30" in line for line in table) == 2
