# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that boots in seconds, from Debian's packages and this machine's own root file system.

The root is shared read-only (9p) beneath a tmpfs, so the same interpreter and packages are seen there at the same
paths; the kernel is Debian's, unpacked once into a cache, the initramfs is written here. KVM is never used, even where
it is offered: everything is emulated, ten times as slow.

Needs the Debian packages ``qemu-system-x86`` and ``busybox-static``, and apt to fetch the kernel.
"""

from __future__ import annotations

import io
import lzma
import re
import shutil
import signal
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

PACKAGES = ("qemu-system-x86", "busybox-static")
COMMANDS = ("qemu-system-x86_64", "busybox", "apt-get", "dpkg-deb")
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
KEPT = ("drivers/virtio", "net/9p", "fs/9p", "fs/netfs", "fs/fscache", "fs/overlayfs")
APPEND = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable "
    "random.trust_cpu=on audit=0 nowatchdog"
)
SHARE = "trans=virtio,version=9p2000.L,msize=512000"
INIT = r"""#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
while read m; do $B insmod /lib/$m || echo "VM: insmod $m failed"; done < /modules
for tag in SHARES; do
    $B mkdir -p /low/$tag
    $B mount -t 9p -o SHARE,ro,cache=loose $tag /low/$tag || { echo "VM: no 9p $tag"; $B poweroff -f; }
done
$B mount -t tmpfs -o size=40% tmpfs /up; $B mkdir /up/u /up/w
$B mount -t overlay -o lowerdir=LAYERS,upperdir=/up/u,workdir=/up/w root /new ||
    { echo "VM: no overlay"; $B poweroff -f; }
for d in proc sys dev; do $B mount -o move /$d /new/$d; done
$B mkdir -p /new/dev/shm; $B mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm; $B mount -t tmpfs tmpfs /new/run
$B ln -sf /proc/self/fd /new/dev/fd
$B ifconfig lo 127.0.0.1 up
"""


def missing_commands(commands: Sequence[str] = ()) -> list[str]:
    """What is not installed here, of what every machine needs and of ``commands``."""
    path = "/usr/local/bin:/usr/sbin:/sbin:/usr/bin:/bin"
    return [name for name in (*COMMANDS, *commands) if shutil.which(name, path=path) is None]


def init_script(last: str, layer_count: int = 0) -> str:
    """What the machine does first: its root is mounted at ``/new``, then come the lines ``last``, for busybox's sh.

    Of ``layer_count`` folders that the machine was given, the first is on top.
    """
    shares = [*(f"layer{number}" for number in range(layer_count)), "host"]
    lower = ":".join(f"/low/{name}" for name in shares)
    return INIT.replace("SHARES", " ".join(shares)).replace("SHARE", SHARE).replace("LAYERS", lower) + last


class Kernel:
    """Debian's kernel, downloaded into ``cache`` and unpacked once, with those modules that are ``kept``.

    ``modules`` are loaded, with what they depend on; ``kept`` are parts of paths below the kernel's module folder.
    """

    def __init__(self, cache: Path, modules: Sequence[str] = (), kept: Sequence[str] = ()) -> None:
        self._cache, self._names = cache, (*MODULES, *modules)
        self.image = cache / "vmlinux"
        wanted = "\n".join([*KEPT, *kept])
        stamp = cache / "kept"
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir(parents=True)
            self._fetch([*KEPT, *kept])
            stamp.write_text(wanted)
        self._modules = {
            re.sub(r"\.ko(\.xz)?$", "", file.name).replace("-", "_"): file for file in cache.glob("**/*.ko*")
        }

    def _fetch(self, kept: Sequence[str]) -> None:
        _refresh_lists()
        told = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], check=True, capture_output=True, text=True)
        found = re.search(r"Depends: (linux-image-\S+)", told.stdout)
        assert found is not None, told.stdout
        (package,) = download([found[1]], self._cache)
        unpack = ["tar", "x", "-C", str(self._cache), "--wildcards", "./boot/vmlinuz-*"]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            subprocess.run([*unpack, *(f"*/kernel/{part}*" for part in kept)], stdin=archive.stdout, check=True)
        package.unlink()
        (compressed,) = self._cache.glob("boot/vmlinuz-*")
        self.image.write_bytes(_decompressed(compressed.read_bytes()))

    def initramfs(self, init: str) -> bytes:
        """Busybox, the modules in their order, and the script ``init``."""
        modules = self._ordered()
        busybox = Path(str(shutil.which("busybox"))).read_bytes()
        assert not _needs_loader(busybox), "this busybox needs libraries: install busybox-static"
        entries: list[tuple[str, int, bytes]] = [
            (folder, 0o40755, b"") for folder in ("bin", "lib", "proc", "sys", "dev", "low", "up", "new")
        ]
        entries += [("bin/busybox", 0o100755, busybox), ("init", 0o100755, init.encode())]
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

        for name in self._names:
            add(name)
        return loaded


def _refresh_lists() -> None:
    """Of what apt knows, where it knows nothing yet."""
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)


def download(packages: Sequence[str], folder: Path) -> list[Path]:
    """Fetches Debian packages into ``folder``; their files."""
    _refresh_lists()
    before = set(folder.glob("*.deb"))
    command = ["apt-get", "download", "-q", *packages]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"apt-get download {' '.join(packages)}: {done.stderr}"
    return sorted(set(folder.glob("*.deb")) - before)


def _needs_loader(program: bytes) -> bool:
    """Whether a 64-bit ELF program names an interpreter: what it was linked with would not be in the initramfs."""
    (first,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    return any(struct.unpack_from("<I", program, first + at * size) == (3,) for at in range(count))


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
    """A machine that boots into the script ``init``; its console goes to ``console``, or to this program's output.

    ``layers`` are folders that ``init_script`` lays over its root.
    """

    def __init__(
        self,
        kernel: Kernel,
        folder: Path,
        init: str,
        flags: Sequence[str] = (),
        *,
        layers: Sequence[Path] = (),
        memory: str = "1G",
        console: IO[bytes] | None = None,
    ) -> None:
        initramfs = folder / "initramfs"
        initramfs.write_bytes(kernel.initramfs(init))
        usual = ["-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", memory]
        usual += ["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"]
        usual += ["-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", APPEND]
        shared = {"host": Path("/"), **{f"layer{number}": layer for number, layer in enumerate(layers)}}
        for name, path in shared.items():
            usual += ["-fsdev", f"local,id={name},path={path},security_model=none,readonly=on,multidevs=remap"]
            usual += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
        self._process = subprocess.Popen(
            ["qemu-system-x86_64", *usual, *flags], stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
        )

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Until it ends; False where it does not in that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Nothing in it has the time to do anything more."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
