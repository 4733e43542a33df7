# SPDX-License-Identifier: Apache-2.0
"""``python -m sglang.launch_server`` with the words of the guide, and what a CPU needs added to them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from sglang_rig.checkpoint import PAGE_TOKENS
from sglang_rig.engine import GUIDE_CONFIG, START_S, EngineFailed, engine_environment

ON_A_CPU = [
    "--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch", "--grammar-backend",
    "none", "--skip-tokenizer-init", "--disable-overlap-schedule", "--disable-cuda-graph", "--max-total-tokens", "8192",
    "--page-size", str(PAGE_TOKENS), "--enable-cache-report",
]  # fmt: skip


class HttpServer:
    """A running server; ``extra_config`` is added to the guide's."""

    def __init__(self, model: Path, extra_config: Mapping[str, Any], env: Mapping[str, str], log: Path) -> None:
        self.log_path = log
        self.url = f"http://127.0.0.1:{_free_port()}"
        guide = [
            "--model-path", str(model), "--host", "127.0.0.1", "--port", self.url.rsplit(":", 1)[1], "--tp", "1",
            "--trust-remote-code", "--enable-hierarchical-cache", "--hicache-storage-backend", "dynamic",
            "--hicache-storage-backend-extra-config", json.dumps({**GUIDE_CONFIG, **extra_config}),
        ]  # fmt: skip
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sglang.launch_server", *guide, *ON_A_CPU],
                stdout=output, stderr=subprocess.STDOUT, env=engine_environment(env),
            )  # fmt: skip
        self._wait_ready()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def flush(self) -> None:
        """Empties the server's own caches, once its backups are done."""
        for _ in range(40):
            time.sleep(0.5)
            if httpx.post(f"{self.url}/flush_cache", timeout=30).status_code == 200:
                return
        raise EngineFailed("the server did not flush its cache")

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        processes = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=15)
        for process in alive:
            process.kill()
        self._process.kill()
        self._process.wait()

    def _wait_ready(self) -> None:
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # not there yet
            time.sleep(0.5)
        self.stop()
        raise EngineFailed(f"the server did not start; its log ends:\n{self.log()[-6000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
