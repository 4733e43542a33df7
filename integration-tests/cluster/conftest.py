# SPDX-License-Identifier: Apache-2.0
"""Real nodes for the tests of a whole cluster: started by ``memkv dev up``, stopped, killed and frozen by pid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core import Client, ClientConfig

READY_S = 60.0


class Cluster:
    """A development cluster under one folder. Nodes are numbered as their addresses are listed."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        capacity: str = "512MiB",
        mode: str = "file",
        durability: str = "relaxed",
    ) -> None:
        self.folder = folder
        self._flags = ["--nodes", str(nodes), "--port", "0", "--capacity", capacity, "--mode", mode]
        self._flags += ["--durability", durability]
        self.up()

    def up(self) -> None:
        """Starts the nodes that do not run, on the addresses they had."""
        said = self._memkv("dev", "up", "--dir", str(self.folder), "--json", *self._flags)
        described = json.loads(said)
        self.env: dict[str, str] = described["env"]
        self.nodes: list[dict[str, Any]] = described["nodes"]
        self._flags = []

    def down(self) -> None:
        self._memkv("dev", "down", "--dir", str(self.folder))

    def client(self, **overrides: Any) -> Client:
        settings = {name.removeprefix("MEMKV_").lower(): value for name, value in self.env.items()}
        return Client(ClientConfig.load(**{**settings, **overrides}))

    def status(self, node: int) -> dict[str, Any]:
        """What the node's admin endpoint says of it."""
        nodes = json.loads(self._memkv("admin", "status", "--json"))["nodes"]
        found: dict[str, Any] = next(each for each in nodes if each["address"] == self.nodes[node]["address"])
        return found

    def pids(self, node: int) -> list[int]:
        """The supervisor's and then its lanes'."""
        return [self.nodes[node]["pid"], *(lane["pid"] for lane in self.status(node)["lanes"])]

    def kill(self, node: int, pids: list[int] | None = None) -> None:
        """kill -9 of every process of a node at once: nobody has the time to tidy up."""
        pids = pids or self.pids(node)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            _wait_gone(pid)

    @contextlib.contextmanager
    def frozen(self, node: int) -> Iterator[None]:
        pids = self.pids(node)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def segments(self, node: int) -> Path:
        """The file of a node's segments."""
        return self.folder / f"node-{node}" / "data" / "memkv.segments"

    @staticmethod
    def wait_until(condition: Callable[[], bool], timeout_s: float = READY_S) -> None:
        """Polls until ``condition()`` holds; fails the test when it does not in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, "it did not come true in time"
            time.sleep(0.05)

    def log(self, node: int) -> str:
        return (self.folder / f"node-{node}" / "log").read_text()

    def _memkv(self, *words: str) -> str:
        ran = subprocess.run(
            ["memkv", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **getattr(self, "env", {})},
        )
        assert ran.returncode == 0, f"memkv {' '.join(words)}: {ran.stderr}"
        return ran.stdout


def _wait_gone(pid: int) -> None:
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} survived SIGKILL")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes in mode file."""
    made = Cluster(tmp_path, nodes=2)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Cluster]:
    """One node in mode file."""
    made = Cluster(tmp_path, nodes=1)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture
def strict_node(tmp_path: Path) -> Iterator[Cluster]:
    """One node in mode file, durability strict."""
    made = Cluster(tmp_path, nodes=1, durability="strict")
    try:
        yield made
    finally:
        made.down()
