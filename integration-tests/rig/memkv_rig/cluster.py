# SPDX-License-Identifier: Apache-2.0
"""A cluster of real nodes, by ``memkv dev up``; its nodes can be frozen, killed, stopped and brought back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

READY_S = 60.0
CHUNK_BYTES = 1024 * 1024


class Cluster:
    """``env``: the MEMKV_* variables of a client. ``nodes``: address, admin address and pid of each node."""

    def __init__(self, folder: Path, *, nodes: int = 1, capacity: str = "512MiB", mode: str = "file") -> None:
        self.folder = folder
        self._flags = ["--nodes", str(nodes), "--port", "0", "--capacity", capacity, "--mode", mode]
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

    def record_count(self) -> int:
        """How many values the nodes hold."""
        nodes = json.loads(self._memkv("admin", "status", "--json"))["nodes"]
        return sum(int(node["storage"]["records"]) for node in nodes)

    def requests(self, operation: str) -> list[int]:
        """How many frames of an operation (``exists``, ``put``, ...) each node has answered."""
        nodes = json.loads(self._memkv("admin", "status", "--json"))["nodes"]
        return [sum(int(lane["ops"][operation]["requests"]) for lane in node["lanes"]) for node in nodes]

    def processes(self, node: int = 0) -> list[psutil.Process]:
        """A node's supervisor and its lanes."""
        supervisor = psutil.Process(self.nodes[node]["pid"])
        return [supervisor, *supervisor.children(recursive=True)]

    def kill(self, node: int = 0) -> None:
        """kill -9 of a whole node."""
        self.end(node, signal.SIGKILL)

    def end(self, node: int, number: signal.Signals) -> None:
        """SIGKILL of a whole node at once, or SIGTERM of its supervisor; waits until all of it is gone."""
        processes = self.processes(node)
        for process in processes if number == signal.SIGKILL else processes[:1]:
            process.send_signal(number)
        _, alive = psutil.wait_procs(processes, timeout=READY_S)
        assert not alive

    @contextmanager
    def frozen(self, node: int = 0) -> Iterator[None]:
        """SIGSTOP now, SIGCONT at the end: connections stay, nothing answers."""
        processes = self.processes(node)
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def flip_stored_bytes(self, node: int = 0, *, every: int = 512) -> int:
        """Flips one byte in each ``every`` bytes of what the node's segments hold; the number of flipped bytes."""
        path = self.folder / f"node-{node}" / "data" / "memkv.segments"
        flipped = 0
        with path.open("r+b") as file:
            fd = file.fileno()
            for start, end in _data_ranges(fd, path.stat().st_size):
                for offset in range(start, end, CHUNK_BYTES):
                    chunk = bytearray(os.pread(fd, min(CHUNK_BYTES, end - offset), offset))
                    touched = [at for at in range(0, len(chunk), every) if chunk[at]]  # unused space is zeros
                    for at in touched:
                        chunk[at] ^= 0xFF
                    os.pwrite(fd, chunk, offset)
                    flipped += len(touched)
        return flipped

    def _memkv(self, *words: str) -> str:
        memkv = Path(sys.executable).with_name("memkv")
        environment = {**os.environ, **self.env}
        ran = subprocess.run([memkv, *words], capture_output=True, text=True, timeout=120, check=False, env=environment)
        if ran.returncode:
            raise RuntimeError(f"memkv {' '.join(words)}: {ran.stderr.strip()}")
        return ran.stdout


def wait_until(condition: Callable[[], bool], timeout_s: float = READY_S) -> bool:
    """Whether ``condition()`` came true in time."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def _data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that hold data."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: holes to the end
            return
        offset = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, offset
