# SPDX-License-Identifier: Apache-2.0
"""One real node, started with `memkv start` and ended by SIGKILL of every process it has."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from memkv_core import Client, ClientConfig
from memkv_core.license import Authority

KEY = "a1" * 32
READY = re.compile(r"memkv node ready address=(\S+) admin=(\S+)")
START_S_MAX = 60.0
END_S_MAX = 30.0


class Credentials:
    """A cluster's key and license, made for this run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority.create(folder / "authority", name="torture")
        self.key_file, self.license = folder / "auth.key", folder / "minio.license"
        self.keys = authority.public_keys
        self.key_file.write_text(KEY + "\n")
        self.license.write_text(authority.issue("torture"))

    @property
    def flags(self) -> list[str]:
        """Of `memkv start`."""
        names = {"--auth-key-file": self.key_file, "--license": self.license, "--license-keys": self.keys}
        return [str(part) for pair in names.items() for part in pair]

    def client(self, address: str) -> Client:
        """One for the node at this address."""
        return Client(
            ClientConfig.load(
                servers=[address], auth_key=KEY, license=str(self.license), license_keys=str(self.keys), transport="tcp"
            )
        )


def clean_environment() -> dict[str, str]:
    """This process's environment without anything of MemKV's."""
    return {name: value for name, value in os.environ.items() if not re.match(r"MEMKV_|MINIO_|AISTOR_", name)}


class Node:
    """A running node on a store of its own; ready when this returns."""

    def __init__(self, store: Path, credentials: Credentials, flags: list[str]) -> None:
        self._log = store.with_suffix(".log")
        self._credentials = credentials
        command = [sys.executable, "-m", "memkv_server", "start", "--address", "127.0.0.1:0", "--path", str(store)]
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, *credentials.flags, *flags], stderr=file, env=clean_environment()
            )
        self.address, self.admin = self._wait_ready()

    def _wait_ready(self) -> tuple[str, str]:
        deadline_s = time.monotonic() + START_S_MAX
        while (found := READY.search(self._log.read_text())) is None:
            assert self.process.poll() is None, f"the node ended: {self._log.read_text()}"
            assert time.monotonic() < deadline_s, f"the node is not ready: {self._log.read_text()}"
            time.sleep(0.005)
        return found[1], found[2]

    def client(self) -> Client:
        """A new one."""
        return self._credentials.client(self.address)

    def pids(self) -> list[int]:
        """The supervisor's and then its lanes'."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        return [pid, *(int(child) for file in children for child in file.read_text().split())]

    def kill(self, pids: list[int]) -> None:
        """SIGKILL of all of them at once: nobody has the time to tidy up."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(END_S_MAX)
        deadline_s = time.monotonic() + END_S_MAX
        while any(map(_runs, pids)):
            assert time.monotonic() < deadline_s, f"one of {pids} survived SIGKILL"
            time.sleep(0.002)

    def stop(self) -> None:
        """SIGTERM, and waits."""
        self.process.terminate()
        self.process.wait(END_S_MAX)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
