# SPDX-License-Identifier: Apache-2.0
"""Real nodes on loopback with free ports, stopped by pid; and the real command line in a process of its own."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memkv_core import Client, ClientConfig
from memkv_core.auth import admin_token
from memkv_core.license import Authority
from memkv_core.testing import conformance
from memkv_server import admin_client
from memkv_server.admin_client import Reply

# Imported before any test file takes a piece of the kit: its asserts are then rewritten, whichever files are run.
assert conformance.EngineTests.__name__

KEY = "a1" * 32
READY = re.compile(r"memkv node ready address=(\S+) admin=(\S+)")


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without anything of MemKV's."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"MEMKV_|MINIO_|AISTOR_", name)}
    return {**kept, "COLUMNS": "200", "RUNTIME_DIRECTORY": runtime_directory(), **(extra or {})}


@functools.cache
def runtime_directory() -> str:
    """For the Unix sockets of all nodes, those that are killed among them; short, as such a path has to be."""
    folder = tempfile.mkdtemp(prefix="memkv-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@pytest.fixture(autouse=True)
def no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MEMKV_"):
            monkeypatch.delenv(name)


@dataclass
class Credentials:
    """A cluster's key, license and authority, as files."""

    dir: Path
    authority: Authority

    @property
    def flags(self) -> list[str]:
        return [
            *("--auth-key-file", str(self.dir / "auth.key")),
            *("--license", str(self.dir / "minio.license")),
            *("--license-keys", str(self.authority.public_keys)),
        ]

    def client_settings(self, address: str) -> dict[str, Any]:
        return {
            "servers": [address],
            "auth_key": KEY,
            "license": str(self.dir / "minio.license"),
            "license_keys": str(self.authority.public_keys),
            "transport": "tcp",
        }


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    dir = tmp_path_factory.mktemp("credentials")
    authority = Authority.create(dir / "authority", name="test")
    (dir / "auth.key").write_text(KEY + "\n")
    (dir / "minio.license").write_text(authority.issue("tests"))
    return Credentials(dir, authority)


@dataclass
class Node:
    """A running ``memkv start``."""

    process: subprocess.Popen[bytes]
    log: Path
    address: str
    admin: str
    credentials: Credentials

    def ask(self, path: str, *, token: str | None = None) -> Reply:
        return admin_client.ask(self.admin, path, token)

    def status(self) -> dict[str, Any]:
        reply = self.ask("/v1/status", token=admin_token(bytes.fromhex(KEY)))
        assert reply.code == 200, reply
        assert reply.body is not None
        return reply.body

    def client(self, **settings: Any) -> Client:
        return Client(ClientConfig.load(**{**self.credentials.client_settings(self.address), **settings}))

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it did not come about; the node said:\n{self.log.read_text()}"
            time.sleep(0.05)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(30)


StartNode = Callable[..., Node]


@pytest.fixture
def start_node(credentials: Credentials, tmp_path: Path) -> Iterator[StartNode]:
    """Starts a node with the flags given (memory, 64 MiB, free ports) and waits until it is ready."""
    nodes: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> Node:
        log = tmp_path / f"node-{len(nodes)}.log"
        storage = () if "--path" in flags else ("--mode", "memory")
        command = [sys.executable, "-m", "memkv_server", "start", "--address", "127.0.0.1:0", "--capacity", "64MiB"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, *storage, *credentials.flags, *flags], stderr=file, cwd=tmp_path, env=clean_environment()
            )
        nodes.append(process)
        deadline = time.monotonic() + 60
        while (found := READY.search(log.read_text())) is None:
            assert process.poll() is None, f"the node ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"the node is not ready: {log.read_text()}"
            time.sleep(0.02)
        return Node(process, log, found[1], found[2], credentials)

    yield start
    for process in nodes:
        if process.poll() is None:
            process.terminate()
    for process in nodes:
        process.wait(30)


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs ``memkv`` in a process of its own, in an empty folder and a clean environment."""

    def run(
        *arguments: str, env: dict[str, str] | None = None, prefix: Sequence[str] = (), input: str | None = None
    ) -> Any:
        return subprocess.run(
            [*prefix, sys.executable, "-m", "memkv_server", *arguments],
            input=input, text=True, capture_output=True, timeout=120, check=False, cwd=tmp_path,
            env=clean_environment(env),
        )  # fmt: skip

    return run


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """Runs ``memkv``, asserts that it ends with one line on stderr and exit code 2, and returns the line."""

    def run(*arguments: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> str:
        done = cli(*arguments, env=env, prefix=prefix)
        assert (done.returncode, done.stdout) == (2, ""), (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("memkv: ")
        return str(lines[0])

    return run
