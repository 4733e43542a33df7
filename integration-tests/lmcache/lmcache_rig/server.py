# SPDX-License-Identifier: Apache-2.0
"""The real ``lmcache server``, MP mode, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from memkv_rig.cluster import wait_until

STARTED = "Uvicorn running"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """``adapter``: the JSON of ``--l2-adapter``; None for a server without. As a context it is up in between."""

    ADAPTER: ClassVar[dict[str, Any]] = {
        "type": "plugin",
        "module_path": "memkv_lmcache.l2_adapter",
        "class_name": "MemKVL2Adapter",
    }

    def __init__(
        self,
        log: Path,
        *,
        adapter: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        chunk_tokens: int = 64,
    ) -> None:
        self.port = free_port()
        self._log = log
        self._env = {**os.environ, "LMCACHE_LOG_LEVEL": "INFO", **(env or {})}
        flags = {
            "host": "127.0.0.1",
            "port": self.port,
            "http-host": "127.0.0.1",
            "http-port": free_port(),
            "chunk-size": chunk_tokens,
            "l1-size-gb": 0.25,
            "eviction-policy": "LRU",
            "supported-transfer-mode": "auto",
        }
        self._command = [str(Path(sys.executable).with_name("lmcache")), "server"]
        self._command += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        self._command += ["--no-l1-use-lazy", "--disable-observability"]
        if adapter is not None:
            self._command += ["--l2-adapter", json.dumps(adapter)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._env)

    def wait(self, timeout_s: float = 60.0) -> int | None:
        """The exit status, once it has ended; 0 once it serves."""
        assert self._process is not None
        process = self._process
        assert wait_until(lambda: process.poll() is not None or STARTED in self.log(), timeout_s), self.log()
        return process.poll() or 0

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """SIGTERM, as in a tidy shutdown."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)

    def __enter__(self) -> Server:
        self.start()
        if self.wait() != 0 or STARTED not in self.log():
            raise RuntimeError(self.log()[-4000:])
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
