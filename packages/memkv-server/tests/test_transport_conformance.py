# SPDX-License-Identifier: Apache-2.0
"""TCP and shm against real nodes of two lanes: core's conformance kit, looking into the lanes by raw sockets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from memkv_core.authority import Authority
from memkv_core.testing.conformance import TransportTests
from memkv_core.testing.node_hooks import WireHooks
from memkv_core.testing.transport_tests import KEY, SessionFactory, in_time
from memkv_core.transports.base import Transport
from memkv_core.transports.shm import ShmTransport
from memkv_core.transports.tcp import TCPTransport

_READY = re.compile(r"memkv node ready address=127\.0\.0\.1:(\d+)")


class RealNode:
    """``memkv start`` on its own folder and, once it has one, always the same port."""

    def __init__(self, path: Path, lanes: int) -> None:
        self.path = path
        self.lanes = lanes
        self.port = 0
        authority = Authority.create(path / "authority")
        (path / "minio.license").write_text(authority.issue("tests"))
        (path / "auth.key").write_text(KEY.hex())
        (path / "auth.key").chmod(0o600)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        drives = [flag for lane in range(self.lanes) for flag in ("--path", str(self.path / f"drive-{lane}"))]
        log = self.path / f"log-{time.monotonic_ns()}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "memkv_server", "start", "--address", f"127.0.0.1:{self.port}"),
                    *("--capacity", f"{256 * self.lanes}MiB", "--segment-size", "32MiB", *drives),
                    *("--auth-key-file", str(self.path / "auth.key"), "--license", str(self.path / "minio.license")),
                    *("--license-keys", str(self.path / "authority/license-keys")),
                ],
                stdout=file,
                stderr=file,
            )
        while (found := _READY.search(log.read_text())) is None:
            if process.poll() is not None:
                raise AssertionError(f"the node ended: {log.read_text()}")
            time.sleep(0.02)
        self.port = int(found[1])
        return process

    def signal(self, number: signal.Signals) -> None:
        """To the supervisor and to its lanes, which are in sessions of their own."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            os.kill(pid, number)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()


class TestTCPToARealNode(WireHooks, TransportTests):
    lanes = 2

    def start(self, path: Path) -> Any:
        return RealNode(path, self.lanes)

    def stop(self, server: Any) -> None:
        server.kill()

    def address(self, server: Any) -> str:
        return f"127.0.0.1:{server.port}"

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        return TCPTransport(new_session)

    def freeze(self, server: Any) -> None:
        server.signal(signal.SIGSTOP)

    def thaw(self, server: Any) -> None:
        server.signal(signal.SIGCONT)

    def kill(self, server: Any) -> None:
        server.kill()

    def revive(self, server: Any) -> None:
        server.process = server.start()


class TestShmToARealNode(TestTCPToARealNode):
    """Every block that a real node takes or gives goes through shared memory."""

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        self.made = ShmTransport(new_session)
        self.made.lane_counts([self.address(server)], in_time(5))  # as a client does before its first call
        return self.made

    def stop(self, server: Any) -> None:
        super().stop(server)
        fallbacks = self.made.moves.fallbacks
        assert fallbacks.keys() <= {"no path"}, fallbacks
        assert fallbacks["no path"] <= 1, "once, where the node was started again"
