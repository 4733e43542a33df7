# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of this folder on real verbs: in a virtual machine whose kernel has RDMA over Ethernet in software.

    nox -s rdma -- [--install] [--cache DIR] [--timeout S] [-- PYTEST ARGUMENT ...]

One boot for all of them. The guest has this machine's files, at the same paths, and the same Python; what the tests
write is gone with it. Two devices, rxe0 and rxe1, each on an interface of its own (wire0, wire1) with an address, so
that a link can be taken down while TCP goes on over lo. The exit status is pytest's; 99 where the machine did not come
up, 124 where it was stopped at the time limit.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from layer import PYTHON_PATH, prepare, unfit

sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
from memkv_rig import vm

MODULES: Final = ("crc32_generic", "dummy", "rdma_rxe", "rdma_ucm")
KEPT: Final = (
    *("drivers/infiniband/core", "drivers/infiniband/sw/rxe", "fs/configfs", "drivers/net/dummy"),
    *("net/ipv4/udp_tunnel", "net/ipv6/ip6_udp_tunnel", "crypto/crc32_generic"),
)
INIT: Final = r"""
$B mkdir -p /new/run/guest; $B mount -t 9p -o SHARE,cache=none out /new/run/guest
$B chroot /new /bin/sh /run/guest/guest.sh; echo $? > /new/run/guest/status; $B sync
$B poweroff -f
"""
GUEST: Final = """
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export MEMKV_RDMA_GUEST=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH={python_path}
for number in 0 1; do
    ip link add wire$number type dummy && ip link set wire$number mtu 9000 up &&
        ip address add 10.77.$number.1/24 dev wire$number &&
        rdma link add rxe$number type rxe netdev wire$number || exit 99
done
cd {folder} && exec timeout --kill-after=10 {seconds} {command}
"""
BOOT_S: Final = 120


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="rdma")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "memkv-rdma", help="of kernel and pyverbs"
    )
    parser.add_argument("--timeout", type=int, default=900, metavar="S", help="of the tests")
    parser.add_argument("--memory", default="3G")
    parser.add_argument("--install", action="store_true", help=f"install {', '.join(vm.PACKAGES)} first")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest")
    return parser.parse_args()


def install() -> None:
    """With apt, what is not there."""
    if vm.missing_commands():
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *vm.PACKAGES]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def run(kernel: vm.Kernel, layer: Path, given: argparse.Namespace, folder: Path) -> int:
    """Boots, runs pytest, and gives its exit status."""
    shared = folder / "out"
    shared.mkdir()
    patient = ("-o", "faulthandler_timeout=600")  # what takes a second takes half a minute here
    pytest = [sys.executable, "-m", "pytest", *patient, *(given.pytest or [str(Path(__file__).parent)])]
    (shared / "guest.sh").write_text(
        GUEST.format(
            python_path=shlex.quote(":".join(filter(None, [PYTHON_PATH, os.environ.get("PYTHONPATH")]))),
            folder=shlex.quote(str(Path.cwd())),
            seconds=given.timeout,
            command=shlex.join(pytest),
        )
    )
    flags = ["-fsdev", f"local,id=out,path={shared},security_model=none"]
    flags += ["-device", "virtio-9p-pci,fsdev=out,mount_tag=out"]
    init = vm.init_script(INIT.replace("SHARE", vm.SHARE), layer_count=1)
    machine = vm.Machine(kernel, folder, init, flags, layers=[layer], memory=given.memory)
    try:
        if not machine.wait(given.timeout + BOOT_S):
            return 124
    finally:
        if machine.runs:
            machine.kill()
    status = shared / "status"
    return int(status.read_text()) if status.exists() else 99


def main() -> int:
    """pytest's exit status; 2 where it cannot run here."""
    given = arguments()
    if given.install:
        install()
    if missing := vm.missing_commands():
        print(f"rdma: {', '.join(missing)} not found; install {' '.join(vm.PACKAGES)}, or give --install")
        return 2
    started_s = time.monotonic()
    layer = prepare(given.cache / "user")
    if (why := unfit(layer)) is not None:
        print(f"rdma: {why}; run nox with Debian's python3")
        return 2
    kernel = vm.Kernel(given.cache / "kernel", MODULES, KEPT)
    prepared_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memkv-rdma-") as folder:
        status = run(kernel, layer, given, Path(folder))
    ended_s = time.monotonic()
    print(f"rdma: prepared in {prepared_s - started_s:.0f} s, machine {ended_s - prepared_s:.0f} s, status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main())
