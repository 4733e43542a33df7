# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that boots in seconds, from Debian's packages and this machine's own root file system.

The root is shared read-only (9p) beneath a tmpfs, so the same interpreter and packages are seen there at the same
paths; the kernel is Debian's, unpacked once into a cache, the initramfs is written here. No KVM is needed: everything
is emulated, ten times as slow. The data drive is an NBD export, mounted at ``/data``; port 9900 is forwarded.

Needs the Debian packages ``qemu-system-x86``, ``busybox-static`` and ``e2fsprogs``, and apt to fetch the kernel.
"""

from __future__ import annotations

import io
import lzma
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

COMMANDS = ("qemu-system-x86_64", "busybox", "mkfs.ext4", "apt-get", "dpkg-deb")
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_blk", "crc32c_generic", "ext4", "virtio_net")
KEPT = (
    *("drivers/virtio", "drivers/block", "drivers/net/virtio_net", "drivers/net/net_failover", "net/core/failover"),
    *("net/9p", "fs/9p", "fs/netfs", "fs/fscache", "fs/overlayfs", "fs/ext4", "fs/jbd2", "fs/mbcache"),
    *("lib/crc16", "lib/libcrc32c", "crypto/crc32c_generic", "arch/x86/crypto/crc32c-intel"),
)
APPEND = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable "
    "random.trust_cpu=on audit=0 nowatchdog"
)
INIT = r"""#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
while read m; do $B insmod /lib/$m || echo "VM: insmod $m failed"; done < /modules
O=trans=virtio,version=9p2000.L,msize=512000
$B mount -t 9p -o $O,ro,cache=loose host /low || { echo "VM: no 9p root"; $B poweroff -f; }
$B mount -t tmpfs -o size=40% tmpfs /up; $B mkdir /up/u /up/w
$B mount -t overlay -o lowerdir=/low,upperdir=/up/u,workdir=/up/w root /new ||
    { echo "VM: no overlay"; $B poweroff -f; }
for d in proc sys dev; do $B mount -o move /$d /new/$d; done
$B mkdir -p /new/dev/shm /new/data; $B mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm; $B mount -t tmpfs tmpfs /new/run
$B ln -sf /proc/self/fd /new/dev/fd
$B mount -t ext4 /new/dev/vda /new/data || { echo "VM: no data drive"; $B poweroff -f; }
$B ifconfig lo 127.0.0.1 up; $B ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
exec $B chroot /new /bin/sh -c 'COMMAND'
"""


def missing_commands() -> list[str]:
    """What is not installed here."""
    return [name for name in COMMANDS if shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") is None]


class Kernel:
    """Debian's kernel, downloaded into ``cache`` and unpacked once, and an initramfs for one command."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.image = cache / "vmlinux"
        if not (cache / "done").exists():
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir(parents=True)
            self._fetch()
            (cache / "done").touch()
        self._modules = {
            re.sub(r"\.ko(\.xz)?$", "", file.name).replace("-", "_"): file for file in cache.glob("**/*.ko*")
        }

    def _fetch(self) -> None:
        told = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], check=True, capture_output=True, text=True)
        found = re.search(r"Depends: (linux-image-\S+)", told.stdout)
        assert found is not None, told.stdout
        subprocess.run(["apt-get", "download", found[1]], cwd=self._cache, check=True, capture_output=True)
        (package,) = self._cache.glob("*.deb")
        unpack = ["tar", "x", "-C", str(self._cache), "--wildcards", "./boot/vmlinuz-*"]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            subprocess.run([*unpack, *(f"*/kernel/{part}*" for part in KEPT)], stdin=archive.stdout, check=True)
        package.unlink()
        (compressed,) = self._cache.glob("boot/vmlinuz-*")
        self.image.write_bytes(_decompressed(compressed.read_bytes()))

    def initramfs(self, command: str) -> bytes:
        """Busybox, the modules in their order, and an init that ends in ``command``."""
        modules = self._ordered()
        busybox = Path(str(shutil.which("busybox"))).read_bytes()
        entries: list[tuple[str, int, bytes]] = [
            (folder, 0o40755, b"") for folder in ("bin", "lib", "proc", "sys", "dev", "low", "up", "new")
        ]
        quoted = command.replace("'", "'\\''")
        entries += [("bin/busybox", 0o100755, busybox), ("init", 0o100755, INIT.replace("COMMAND", quoted).encode())]
        entries += [("modules", 0o100644, "".join(f"{name}.ko\n" for name in modules).encode())]
        entries += [(f"lib/{name}.ko", 0o100644, data) for name, data in modules.items()]
        return _cpio(entries)

    def _ordered(self) -> dict[str, bytes]:
        loaded: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in loaded or name not in self._modules:  # or built in
                return
            file = self._modules[name]
            data = lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()
            depends = re.search(rb"\0depends=([^\0]*)\0", data)
            for other in depends[1].decode().split(",") if depends is not None else ():
                add(other.replace("-", "_"))
            loaded[name] = data

        for name in MODULES:
            add(name)
        return loaded


def _decompressed(image: bytes) -> bytes:
    """The ELF file within a bzImage: it boots three seconds faster when emulated."""
    at = -1
    while (at := image.find(b"\xfd7zXZ\x00", at + 1)) >= 0:
        try:
            found = lzma.LZMADecompressor().decompress(image[at:])
        except lzma.LZMAError:
            continue
        if found.startswith(b"\x7fELF"):
            return found
    return image


def _cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """An archive in the "newc" format, as the kernel reads it."""
    out = io.BytesIO()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        path = name.encode() + b"\0"
        numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out.write(b"070701" + b"".join(b"%08X" % number for number in numbers) + path)
        out.write(bytes(-out.tell() % 4) + data)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


class Machine:
    """A machine that runs one command. ``log`` is its console."""

    def __init__(self, kernel: Kernel, folder: Path, command: list[str], nbd: Path, port: int) -> None:
        self.log = folder / "console.log"
        initramfs = folder / "initramfs"
        initramfs.write_bytes(kernel.initramfs(shlex.join(command)))
        flags = ["-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G"]
        flags += ["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"]
        flags += ["-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", APPEND]
        flags += ["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]
        flags += ["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]
        flags += ["-blockdev", f"driver=nbd,node-name=data,server.type=unix,server.path={nbd}"]
        flags += ["-device", "virtio-blk-pci,drive=data,write-cache=on"]
        flags += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:9900"]
        flags += ["-device", "virtio-net-pci,netdev=net,romfile="]
        with self.log.open("wb") as console:
            self._process = subprocess.Popen(
                ["qemu-system-x86_64", *flags], stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
            )

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Nothing in it has the time to do anything more."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
