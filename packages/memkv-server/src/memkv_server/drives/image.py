# SPDX-License-Identifier: Apache-2.0
"""A store that no node has open: locked, and read and mended through plain file calls.

A folder is drawn in ``engine/folder.py``. On a whole device the same parts follow each other::

    0             4 KiB                      4 KiB + registry bytes
    +-------------+--------------------------+-----------+-----------+-----+-----------+--------+
    | superblock  | registry of namespaces   | segment 0 | segment 1 | ... | segment n | unused |
    +-------------+--------------------------+-----------+-----------+-----+-----------+--------+

Nothing is mapped here: what the drive does not give back is an ``UnreadableError`` with its place, never a SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.engine.folder import FORMAT_FILE, LOCK_FILE, REGISTRY_FILE, SEGMENTS_FILE, explained, store_superblock
from memkv_server.engine.superblock import SUPERBLOCK_BYTES, SUPERBLOCK_MAGIC, Geometry, encode_superblock

PAGE_BYTES: Final = 4096


class UnreadableError(StorageError):
    """The drive does not give these bytes back."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a file or device. ``size`` is what there is of it, which may be less than there should be."""

    file: str
    fd: int
    base: int
    size: int

    def read(self, at: int, length: int) -> bytes:
        """Exactly these bytes. Raises UnreadableError naming the file and the offset in it."""
        data = b""
        while len(data) < length:
            try:
                piece = os.pread(self.fd, length - len(data), self.base + at + len(data))
            except OSError as error:
                raise self._unreadable(at + len(data), str(error.strerror)) from error
            if not piece:
                raise self._unreadable(at + len(data), "the file ends before it")
            data = data + piece if data else piece
        return data

    def read_around(self, at: int, length: int) -> tuple[bytes, int]:
        """The same, with zeros for the pages that cannot be read, and how many those are."""
        try:
            return self.read(at, length), 0
        except UnreadableError:
            pieces, lost = [], 0
            for start in range(at, at + length, PAGE_BYTES):
                size = min(PAGE_BYTES, at + length - start)
                try:
                    pieces.append(self.read(start, size))
                except UnreadableError:
                    pieces.append(bytes(size))
                    lost += 1
            return b"".join(pieces), lost

    def write(self, at: int, data: bytes) -> None:
        """All of it. Raises StorageError naming the file and the offset in it."""
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self.fd, data[done:], self.base + at + done)
            except OSError as error:
                raise StorageError(
                    f"{self.file}: offset {self.base + at + done}: {error.strerror}", remedy="replace the drive"
                ) from error

    def _unreadable(self, at: int, cause: str) -> UnreadableError:
        return UnreadableError(
            f"{self.file}: offset {self.base + at} cannot be read ({cause})", remedy="replace the drive"
        )


@dataclass(slots=True)
class StoreImage:
    """The parts of a store. Use ``open_image``. Not thread-safe."""

    place: Path
    is_device: bool
    superblock: Part
    registry: Part
    segments: Part
    fds: list[int]

    def part_after(self, geometry: Geometry) -> StoreImage:
        """On a device the geometry says where registry and segments begin; in a folder they have their files."""
        if self.is_device:
            device = self.superblock
            base = SUPERBLOCK_BYTES + geometry.registry_bytes
            self.registry = Part(device.file, device.fd, SUPERBLOCK_BYTES, geometry.registry_bytes)
            self.segments = Part(device.file, device.fd, base, max(0, device.size - base))
        return self

    def write_superblock(self, geometry: Geometry) -> None:
        """Durably. Raises StorageError."""
        if self.is_device:
            self.superblock.write(0, encode_superblock(geometry))
            self.sync()
        else:
            store_superblock(self.place, geometry)

    def extend(self, data_bytes: int) -> None:
        """Gives a segments file that was cut short its full size; what is added reads as zeros."""
        with explained(Path(self.segments.file)):
            os.posix_fallocate(self.segments.fd, 0, data_bytes)
        self.segments = Part(self.segments.file, self.segments.fd, self.segments.base, data_bytes)

    def forget_cached(self) -> None:
        """What is read from here on is read from the drive, and not from memory."""
        for part in (self.superblock, self.registry, self.segments):
            with contextlib.suppress(OSError):  # a filesystem without a page cache has nothing to forget
                os.posix_fadvise(part.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Returns when what was written is on the medium. Raises StorageError."""
        for part in {part.fd: part for part in (self.registry, self.segments)}.values():
            with explained(Path(part.file)):
                os.fsync(part.fd)

    def close(self) -> None:
        """Lets go of the store."""
        _close_all(self.fds)
        self.fds = []

    def __enter__(self) -> StoreImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_image(path: Path, *, writable: bool = False, locked: bool = True) -> StoreImage:
    """Takes the store's lock and opens its parts. The superblock may be damaged: that is for the caller to see.

    Without the lock a node may have it open, and what is read may change meanwhile.

    Raises StorageError: no store, a running node has it open, or it cannot be opened.
    """
    if is_device(path):
        return _open_device(path, writable, locked)
    with explained(path):
        names = {entry.name for entry in path.iterdir()}
    if FORMAT_FILE not in names and SEGMENTS_FILE not in names:
        raise StorageError(f"{path} holds no MemKV store", remedy="name the folder or device of a drive")
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
    with contextlib.ExitStack() as on_error:
        fds = [hold(path)] if locked else []
        on_error.callback(_close_all, fds)
        parts = []
        for name in (FORMAT_FILE, REGISTRY_FILE, SEGMENTS_FILE):
            file = path / name
            with explained(file):
                fds.append(os.open(file, flags | os.O_CREAT if writable else flags, 0o640))
            parts.append(Part(str(file), fds[-1], 0, os.fstat(fds[-1]).st_size))
        on_error.pop_all()
    return StoreImage(path, False, parts[0], parts[1], parts[2], fds)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _open_device(path: Path, writable: bool, locked: bool) -> StoreImage:
    try:
        # O_EXCL on a device: neither a filesystem nor a node has it, nor gets it meanwhile.
        exclusive = os.O_EXCL if locked else 0
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | exclusive | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise StorageError(
                f"{path} is mounted, or a running node has it open", remedy="unmount it, or stop that node first"
            ) from error
        raise StorageError(f"{path}: {error.strerror}", remedy="check the device and who may open it") from error
    try:
        part = Part(str(path), fd, 0, os.lseek(fd, 0, os.SEEK_END))
        if not part.read(0, SUPERBLOCK_BYTES).startswith(SUPERBLOCK_MAGIC):
            raise StorageError(f"{path} holds no MemKV store", remedy="name the folder or device of a drive")
    except BaseException:
        os.close(fd)
        raise
    return StoreImage(path, True, part, part, part, [fd])


def is_device(path: Path) -> bool:
    """Whether the path names a block device."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


def hold(place: Path) -> int:
    """Takes the folder's lock, which a running node holds; it lives as long as the descriptor. Raises StorageError."""
    file = place / LOCK_FILE
    with explained(file):
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            # A folder that cannot be written: no node serves it, or it does with a lock that can be read.
            fd = os.open(file if file.exists() else place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise StorageError(
                f"{place} is open in a running node ({described_holder(holder)})", remedy="stop that node first"
            ) from None
    with contextlib.suppress(OSError):  # only for the message of who comes next
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


@contextlib.contextmanager
def held(place: Path) -> Iterator[None]:
    """The folder's lock, for a block of code."""
    fd = hold(place)
    try:
        yield
    finally:
        os.close(fd)


def holder_of(place: Path) -> str | None:
    """Who has the store open, in words; None: nobody, as far as can be told. Looks only, and takes no lock."""
    try:
        status = (place / LOCK_FILE).stat()
        locks = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    holders = (line.split() for line in locks if " FLOCK " in line and "->" not in line)
    return next((described_holder(fields[4]) for fields in holders if fields[5] == inode), None)


def described_holder(pid: str) -> str:
    """``process 4711 of the node with process 4700``, as far as it can be told."""
    if not pid.isdigit():
        return "process unknown"
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        parent = next(line.split()[1] for line in lines if line.startswith("PPid:"))
        if b"memkv" in Path(f"/proc/{parent}/cmdline").read_bytes():
            return f"process {pid}, of the node with process {parent}"
    except (OSError, StopIteration):
        return f"process {pid}"
    return f"process {pid}"
