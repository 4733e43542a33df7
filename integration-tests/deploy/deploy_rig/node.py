# SPDX-License-Identifier: Apache-2.0
"""Starts ``memkv`` as a deployment would, its fixed paths moved into a folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from memkv_core.authority import Authority

MEMKV = str(Path(sys.executable).with_name("memkv"))
READY = re.compile(r"memkv node ready address=(\S+?) admin=(\S+?) ")
KEY = "b2" * 32


def credentials(folder: Path) -> None:
    """``auth-key``, ``license`` and ``license-keys/`` in a folder."""
    authority = Authority.create(folder / "authority", name="deploy-tests")
    (folder / "auth-key").write_text(KEY + "\n")
    (folder / "license").write_text(authority.issue("deploy-tests"))
    (folder / "license-keys").symlink_to(authority.public_keys)


class DeployedNode:
    """``arguments`` after ``memkv``; ``moved`` says where fixed paths and addresses lie instead."""

    def __init__(self, folder: Path, arguments: Sequence[str], moved: Mapping[str, str]) -> None:
        self._moved = moved
        self.log = folder / "node.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMKV_")}
        self._environment = kept
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([MEMKV, *map(self.move, arguments)], stderr=log, env=kept, cwd=folder)
        deadline_s = time.monotonic() + 60
        while (found := READY.search(self.log.read_text())) is None:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.05)
        self.address, self.admin = found[1], found[2]

    def move(self, text: str) -> str:
        for fixed, place in self._moved.items():
            text = text.replace(fixed, place)
        return text

    def get(self, path: str) -> int:
        """The status code of a probe."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=10) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return int(error.code)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command beside the node, such as a probe's or a hook's; the first word is ``memkv``."""
        words = [self.move(word).replace("127.0.0.1:9901", self.admin) for word in command[1:]]
        assert command[0] == "memkv"
        return subprocess.run(
            [MEMKV, *words], capture_output=True, text=True, timeout=60, check=False, env=self._environment
        )

    def stop(self, seconds: float) -> int:
        """SIGTERM; its exit code. Fails where it takes longer than it is given."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
