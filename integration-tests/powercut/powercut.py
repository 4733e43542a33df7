# SPDX-License-Identifier: Apache-2.0
"""Pulls the plug of a machine that runs a node with durability strict, over and over.

    nox -s powercut -- [--cuts 20] [--durability strict] [--mode file] [--seed N] [--cache DIR] [--install]

The node runs in a virtual machine, on ext4 on a drive that loses, at the cut, a random part of what was not flushed
(``plug.py``). Clients on this machine put, replace, delete and get, and remember what was acknowledged
(``memkv_core.testing.witness``). Every boot looks at every key first. A fifth of the cuts strike before the node is
ready, in the middle of a start. Prints a table; exit status 1 where anything was lost, a phantom or corrupt.

With ``--durability relaxed`` it shows that the plug is worth its name: there something is lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from plug import Plug
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from memkv_core import Client, ClientConfig
from memkv_core.license import Authority
from memkv_core.testing.witness import Verdict, Witness

sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
from memkv_rig import vm

KEY = "a1" * 32
IMAGE_BYTES = 640 << 20
CAPACITY_BYTES = 384 << 20
SEGMENT_BYTES = 4 << 20
VALUE_BYTES_MAX = 32 << 10
KEPT_FREE_BYTES = 6 * SEGMENT_BYTES
ROOM_BYTES_MIN = 64 << 20  # for one boot; where less is left the drive is formatted, before anything has to be evicted
READY_S_MAX = 180.0
LOAD_S = (1.0, 4.0)
EARLY_SHARE = 0.2
PACKAGES = (*vm.PACKAGES, "e2fsprogs")
MODULES = ("virtio_blk", "crc32c_generic", "ext4", "virtio_net")
KEPT = (
    *("drivers/block", "drivers/net/virtio_net", "drivers/net/net_failover", "net/core/failover"),
    *("fs/ext4", "fs/jbd2", "fs/mbcache", "lib/crc16", "lib/libcrc32c"),
    *("crypto/crc32c_generic", "arch/x86/crypto/crc32c-intel"),
)
INIT = r"""
$B mkdir -p /new/data
$B mount -t ext4 /new/dev/vda /new/data || { echo "VM: no data drive"; $B poweroff -f; }
$B ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
exec $B chroot /new /bin/sh -c 'COMMAND'
"""


@dataclass
class Tally:
    """What was done."""

    cuts: int = 0
    early: int = 0  # of them, before the node was ready
    drives: int = 0  # formatted
    lost_sectors: int = 0
    ready_s: list[float] = field(default_factory=list)
    found: Verdict = field(default_factory=Verdict)


class Node(vm.Machine):
    """A machine that runs one command, with the data drive (an NBD export) at ``/data``; port 9900 is forwarded.

    ``log`` is its console.
    """

    def __init__(self, kernel: vm.Kernel, folder: Path, command: list[str], nbd: Path, port: int) -> None:
        self.log = folder / "console.log"
        quoted = shlex.join(command).replace("'", "'\\''")
        flags = ["-blockdev", f"driver=nbd,node-name=data,server.type=unix,server.path={nbd}"]
        flags += ["-device", "virtio-blk-pci,drive=data,write-cache=on"]
        flags += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:9900"]
        flags += ["-device", "virtio-net-pci,netdev=net,romfile="]
        with self.log.open("wb") as console:
            super().__init__(kernel, folder, vm.init_script(INIT.replace("COMMAND", quoted)), flags, console=console)


class PowerCut:
    """One machine, one drive, one witness; boot after boot."""

    def __init__(self, folder: Path, kernel: vm.Kernel, mode: str, durability: str, rng: random.Random) -> None:
        self.tally = Tally()
        self._folder, self._kernel, self._rng = folder, kernel, rng
        self._mode, self._durability = mode, durability
        authority = Authority.create(folder / "authority", name="powercut")
        (folder / "auth.key").write_text(KEY + "\n")
        (folder / "minio.license").write_text(authority.issue("powercut"))
        self._keys = authority.public_keys
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._plug: Plug | None = None
        self._format()

    def _format(self) -> None:
        """A new drive, and with it a new history."""
        self.close()
        self.tally.drives += 1
        image, self._socket = self._folder / "drive.img", self._folder / f"nbd-{self.tally.drives}"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-F", str(image)], check=True)
        self._plug = Plug(image, self._socket)
        self._witness = Witness(
            self._client,
            self._rng.getrandbits(32),
            room_bytes=CAPACITY_BYTES - KEPT_FREE_BYTES,
            value_bytes_max=32 << 10,
        )

    def close(self) -> None:
        """Puts the drive away."""
        if self._plug is not None:
            self.tally.lost_sectors += self._plug.counts["lost sectors"]
            self._plug.close()
            self._plug = None

    def _client(self) -> Client:
        return Client(
            ClientConfig.load(
                servers=[f"127.0.0.1:{self._port}"],
                auth_key=KEY,
                license=str(self._folder / "minio.license"),
                license_keys=str(self._keys),
                transport="tcp",
                timeout_ms=60_000,
            )
        )

    def _command(self) -> list[str]:
        shown = ("PATH", "PYTHONPATH", "VIRTUAL_ENV")
        environment = [f"{name}={os.environ[name]}" for name in shown if name in os.environ]
        flags = ["--address", "0.0.0.0:9900", "--path", "/data/store", "--mode", self._mode]
        flags += ["--durability", self._durability]
        flags += ["--capacity", str(CAPACITY_BYTES), "--segment-size", str(SEGMENT_BYTES)]
        flags += ["--auth-key-file", f"{self._folder}/auth.key", "--license", f"{self._folder}/minio.license"]
        flags += ["--license-keys", str(self._keys)]
        python = [sys.executable, "-m", "memkv_server", "start", *flags]
        return ["env", "-i", "HOME=/root", "PYTHONDONTWRITEBYTECODE=1", *environment, *python]

    def boot_and_cut(self) -> None:
        """Boots, looks at every key, loads the node, and pulls the plug; or pulls it during the start."""
        if self._witness.room_bytes < ROOM_BYTES_MIN:
            self._format()
        assert self._plug is not None
        started_s = time.monotonic()
        machine = Node(self._kernel, self._folder, self._command(), self._socket, self._port)
        early = bool(self.tally.ready_s) and self._rng.random() < EARLY_SHARE
        try:
            if early:
                usual_s = sorted(self.tally.ready_s)[len(self.tally.ready_s) // 2]
                _wait_ready(machine, self._rng.uniform(0.5, 1.0) * usual_s, must=False)
            else:
                _wait_ready(machine, READY_S_MAX, must=True)
                self.tally.ready_s.append(time.monotonic() - started_s)
                self.look()
                self.tally.found += self._witness.run(lambda: self._load_and_cut(machine))
        finally:
            self._cut(machine)
        self.tally.cuts += 1
        self.tally.early += early

    def _load_and_cut(self, machine: Node) -> None:
        time.sleep(self._rng.uniform(*LOAD_S))
        self._cut(machine)

    def _cut(self, machine: Node) -> None:
        """The drive first: what it is asked for by a machine without power never happens. A second one does nothing."""
        assert self._plug is not None
        if machine.runs:
            self._plug.pull(self._rng)
            machine.kill()

    def look(self) -> None:
        """At every key."""
        self.tally.found += self._witness.sweep()

    def boot_and_look(self) -> None:
        """After the last cut."""
        machine = Node(self._kernel, self._folder, self._command(), self._socket, self._port)
        try:
            _wait_ready(machine, READY_S_MAX, must=True)
            self.look()
        finally:
            machine.kill()


def _wait_ready(machine: Node, seconds: float, *, must: bool) -> None:
    """Until the node says so; ``must``: an error where it does not in time, or where the machine ends."""
    deadline_s = time.monotonic() + seconds
    while re.search(r"memkv node ready", machine.log.read_text(errors="replace")) is None:
        assert machine.runs, f"the machine ended: {machine.log.read_text(errors='replace')}"
        if time.monotonic() > deadline_s:
            assert not must, f"the node is not ready: {machine.log.read_text(errors='replace')}"
            return
        time.sleep(0.05)


def table_of(tally: Tally, mode: str, durability: str) -> Table:
    """What was done and found."""
    table = Table(title="power cuts under load")
    found = tally.found
    ready_s = sorted(tally.ready_s)[len(tally.ready_s) // 2] if tally.ready_s else 0.0
    columns: dict[str, str | int] = {
        "mode": mode,
        "durability": durability,
        "cuts": tally.cuts,
        "in a start": tally.early,
        "drives": tally.drives,
        "sectors lost": tally.lost_sectors,
        "acknowledged": found.acknowledged,
        "checked": found.checked,
        "lost": found.lost,
        "corrupt": found.corrupt,
        "phantom": found.phantom,
        "boot s": f"{ready_s:.0f}",
    }
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in columns.values()))
    return table


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="powercut")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--durability", default="strict")
    parser.add_argument("--mode", default="file")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "memkv-powercut", help="of the kernel")
    parser.add_argument("--dir", type=Path, help="where the drive lies; default: a temporary folder")
    parser.add_argument("--install", action="store_true", help=f"install {', '.join(PACKAGES)} first")
    return parser.parse_args()


def main() -> int:
    """0: nothing wrong; 1: something was; 2: it cannot run here."""
    given = arguments()
    console = Console(width=max(130, Console().width))
    logging.getLogger("memkv_core").setLevel(logging.CRITICAL)  # that a dead machine does not answer is no news here
    if given.install:
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES], check=True)
    if missing := vm.missing_commands(["mkfs.ext4"]):
        console.print(f"powercut: {', '.join(missing)} not found; install {' '.join(PACKAGES)}, or give --install")
        return 2
    console.print(f"seed {given.seed}: repeat with --seed {given.seed}")
    kernel = vm.Kernel(given.cache, MODULES, KEPT)
    folder = Path(tempfile.mkdtemp(prefix="memkv-powercut-", dir=given.dir))
    try:
        power = PowerCut(folder, kernel, given.mode, given.durability, random.Random(given.seed))
        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("cuts", total=given.cuts)
            for _ in range(given.cuts):
                power.boot_and_cut()
                progress.advance(task)
        power.boot_and_look()
        power.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(table_of(power.tally, given.mode, given.durability))
    for sample in power.tally.found.samples:
        console.print(sample, style="red")
    return int(bool(power.tally.found.wrong) or not power.tally.found.checked)


if __name__ == "__main__":
    sys.exit(main())
