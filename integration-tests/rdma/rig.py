# SPDX-License-Identifier: Apache-2.0
"""A node in a process of its own and a client in this one, on the same device: RDMA in software does not cross."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from memkv_core import Client, ClientConfig
from memkv_core.authority import Authority
from memkv_core.transports.rdma import RdmaTransport

KEY = "a1" * 32
MIB = 1 << 20
LONG_S = 120  # a bound that only a hang reaches: the machine is emulated
_READY = re.compile(r"memkv node ready address=127\.0\.0\.1:(\d+)")


class Node:
    """A lane in a process of its own, or all of ``memkv start``. Start and stop it as often as you like: it keeps its
    port and its store."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: str = "memory",
        devices: str = "rxe0",
        whole: bool = False,
        key_of: Node | None = None,
    ) -> None:
        self.folder, self.mode, self.devices, self.whole = folder, mode, devices, whole
        self.port = 0
        self.credentials: Path = folder if key_of is None else key_of.credentials
        if key_of is None:
            authority = Authority.create(folder / "authority")
            (folder / "minio.license").write_text(authority.issue("tests"))
            (folder / "auth.key").write_text(KEY)
            (folder / "auth.key").chmod(0o600)
        self.start()

    def start(self) -> None:
        self.log = self.folder / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *(self._node() if self.whole else self._lane())],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={**os.environ, "MEMKV_RDMA_DEVICES": self.devices, "MEMKV_SERVER_RDMA__BOUNCE_SIZE": "8MiB"},
            )
        while (found := _READY.search(self.log.read_text())) is None:
            assert self.process.poll() is None, f"the node ended: {self.log.read_text()}"
            time.sleep(0.05)
        self.port = int(found[1])

    def _lane(self) -> list[str]:
        script = str(Path(__file__).with_name("lane_alone.py"))
        return [script, str(self.folder / "store"), str(self.port), self.mode, self.devices]

    def _node(self) -> list[str]:
        storage = ["--mode", "memory"] if self.mode == "memory" else ["--path", str(self.folder / "store")]
        return [
            *("-m", "memkv_server", "start", "--address", f"127.0.0.1:{self.port}", *storage, "--socket", "none"),
            *("--capacity", "256MiB", "--segment-size", "32MiB"),
            *("--auth-key-file", str(self.credentials / "auth.key")),
            *("--license", str(self.credentials / "minio.license")),
            *("--license-keys", str(self.credentials / "authority/license-keys")),
        ]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        """To the process, and to the lane of a whole node."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            os.kill(pid, number)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def client(self, **settings: Any) -> Client:
        given = {
            "servers": [self.address],
            "auth_key": KEY,
            "license": str(self.credentials / "minio.license"),
            "license_keys": str(self.credentials / "authority/license-keys"),
            "transport": "rdma",
            "rdma_devices": "rxe0",
            "staging_size_mb": 32,
            "staging_slot_mb": 4,
            "timeout_ms": 1000 * LONG_S,
            "connections": 2,
            **settings,
        }
        return Client(ClientConfig.load(**given))


def transport_of(client: Client) -> RdmaTransport:
    """What the client moves its blocks by."""
    transport = client._transport
    assert isinstance(transport, RdmaTransport)
    return transport


def link(number: int, state: str) -> None:
    """Takes the interface of a device down or up."""
    subprocess.run(["ip", "link", "set", f"wire{number}", state], check=True)


def wait_for_rdma(client: Client) -> None:
    """Until no server is a suspect any more."""
    deadline = time.monotonic() + LONG_S
    while transport_of(client)._suspects:
        assert time.monotonic() < deadline, "it does not come back"
        time.sleep(0.05)
