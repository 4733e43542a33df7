# SPDX-License-Identifier: Apache-2.0
"""A cluster of two real nodes, by ``memkv dev up``; its nodes can be frozen, killed, stopped and brought back."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

READY_S = 60.0


class Cluster:
    """``env``: the MEMKV_* variables of a client. ``nodes``: address, admin address and pid of each node."""

    def __init__(self, folder: Path, *, nodes: int = 2) -> None:
        self.folder = folder
        self._flags = ["--nodes", str(nodes), "--port", "0", "--capacity", "1GiB", "--mode", "file"]
        self.env: dict[str, str] = {}
        self.nodes: list[dict[str, Any]] = []
        self.up()

    def up(self) -> None:
        """Starts the nodes that do not run, where they were."""
        described = json.loads(self._memkv("dev", "up", "--dir", str(self.folder), "--json", *self._flags))
        self.env, self.nodes = described["env"], described["nodes"]
        self._flags = []

    def down(self) -> None:
        self._memkv("dev", "down", "--dir", str(self.folder))

    def processes(self, node: int) -> list[psutil.Process]:
        """A node's supervisor and its lanes."""
        supervisor = psutil.Process(self.nodes[node]["pid"])
        return [supervisor, *supervisor.children(recursive=True)]

    def end(self, node: int, number: signal.Signals) -> None:
        """SIGKILL of a whole node at once, or SIGTERM of its supervisor; waits until all of it is gone."""
        processes = self.processes(node)
        for process in processes if number == signal.SIGKILL else processes[:1]:
            process.send_signal(number)
        _, alive = psutil.wait_procs(processes, timeout=READY_S)
        assert not alive

    @contextmanager
    def frozen(self, node: int) -> Iterator[None]:
        """SIGSTOP now, SIGCONT at the end: connections stay, nothing answers."""
        processes = self.processes(node)
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def _memkv(self, *arguments: str) -> str:
        ran = subprocess.run(["memkv", *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout
