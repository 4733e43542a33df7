# SPDX-License-Identifier: Apache-2.0
"""Where a store lies: a folder on any filesystem, or a whole block device. Opened, checked, locked, preallocated.

A folder is drawn in ``folder.py``. On a device the same three parts follow each other::

    0             4 KiB                      4 KiB + registry bytes
    +-------------+--------------------------+-----------+-----------+-----+-----------+--------+
    | superblock  | registry of namespaces   | segment 0 | segment 1 | ... | segment n | unused |
    +-------------+--------------------------+-----------+-----------+-----+-----------+--------+
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.capacity import Share
from memkv_server.engine.folder import (
    FORMAT_FILE,
    REGISTRY_FILE,
    SEGMENTS_FILE,
    explained,
    held_bytes,
    load_superblock,
    lock,
    nearest_existing,
    open_preallocated,
    planned,
    refuse_foreign,
    refuse_full,
    refuse_other,
    store_superblock,
    sync_folder,
)
from memkv_server.engine.limits import DEVICE_HEAD_BYTES, DEVICE_TAIL_BYTES, FILESYSTEM_SPARE_BYTES
from memkv_server.engine.superblock import (
    SUPERBLOCK_BYTES,
    SUPERBLOCK_MAGIC,
    Geometry,
    decode_superblock,
    encode_superblock,
    plan_geometry,
    resize_geometry,
)

DIRECT_ALIGNMENT: Final = 4096
_REGISTRY_BLOCK_BYTES: Final = 4096
_MEMORY_FILESYSTEMS: Final = {"tmpfs", "ramfs", "devtmpfs"}


@dataclass
class Store:
    """An open store. ``fd`` is for the segments, which begin at ``base``; one process has it. Not thread-safe."""

    path: str
    name: str  # of what holds the segments, for messages
    geometry: Geometry
    fd: int
    base: int
    registry_fd: int
    registry_base: int
    other_fds: tuple[int, ...] = ()

    def registry_load(self) -> bytes:
        """The registry's bytes."""
        with explained(Path(self.path)):
            return os.pread(self.registry_fd, self.geometry.registry_bytes, self.registry_base)

    def registry_append(self, at: int, data: bytes) -> None:
        """Writes into the registry; durable on return. Raises StorageError."""
        with explained(Path(self.path)):
            os.pwrite(self.registry_fd, data, self.registry_base + at)
            os.fdatasync(self.registry_fd)

    def probe(self) -> bool:
        """Whether the last block of the registry can be written again, and reaches the medium."""
        at = self.registry_base + self.geometry.registry_bytes - _REGISTRY_BLOCK_BYTES
        try:
            os.pwrite(self.registry_fd, os.pread(self.registry_fd, _REGISTRY_BLOCK_BYTES, at), at)
            os.fdatasync(self.registry_fd)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Lets go of it; the lock is given up last."""
        for fd in (self.fd, self.registry_fd, *self.other_fds):
            os.close(fd)


def is_device(path: str | os.PathLike[str]) -> bool:
    """Whether the path names a block device."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def share_bytes(path: str | os.PathLike[str], share: Share) -> int:
    """What a capacity in per cent comes to. Raises StorageError.

    A folder that holds a store keeps its size: what is free around it goes up and down, and a store that followed
    would drop segments.
    """
    place = Path(path)
    if is_device(place):
        with explained(place):
            fd = os.open(place, os.O_RDONLY)
            try:
                return int(os.lseek(fd, 0, os.SEEK_END) * share.percent / 100)
            finally:
                os.close(fd)
    existing = load_superblock(place) if place.is_dir() else None
    if existing is not None:
        return existing.store_bytes
    with explained(place):
        filesystem = os.statvfs(nearest_existing(place))
    free = filesystem.f_bavail * filesystem.f_frsize + held_bytes(place)
    # The filesystem keeps notes of its own on so large a file.
    return int((free - free // 1024 - FILESYSTEM_SPARE_BYTES) * share.percent / 100)


def open_folder(
    path: str | os.PathLike[str],
    capacity_bytes: int,
    segment_bytes: int | None,
    alignment: int,
    uuid: bytes | None = None,
    *,
    direct: bool = False,
) -> Store:
    """Opens the store in a folder, or makes one there; grows or shrinks it to ``capacity_bytes``.

    Raises StorageError, and then has changed nothing: a foreign, unwritable, full or too small folder, a store of a
    newer format or in use by another node, or another segment size than the store was made with. A store that shrinks
    loses the segments that no longer fit. With a ``uuid`` only the store that has it is opened: where a drive has
    vanished its mount point is an empty folder on another one. With ``direct`` the segments are opened with O_DIRECT.
    """
    place = Path(path)
    if is_device(place):
        raise StorageError(f"{place} is a block device", remedy="use mode direct, or name a folder for the store")
    if direct:
        _refuse_memory(place)
    if uuid is not None:
        refuse_other(place, uuid)
    refuse_foreign(place)
    refuse_full(place, planned(place, capacity_bytes, segment_bytes, alignment)[1])
    with explained(place):
        if not place.exists():
            place.mkdir(parents=True)
            with contextlib.suppress(PermissionError):  # one may make folders where one may not look
                sync_folder(place.parent)
    with contextlib.ExitStack() as on_error:
        lock_fd = lock(place)
        on_error.callback(os.close, lock_fd)
        # Again, now that nobody else can make a store here.
        existing, geometry = planned(place, capacity_bytes, segment_bytes, alignment)
        _refuse_misaligned(place, geometry, alignment)
        if geometry != existing:
            store_superblock(place, geometry)
            on_error.callback(_restore_superblock, place, existing)
        registry_fd = open_preallocated(place / REGISTRY_FILE, geometry.registry_bytes)
        on_error.callback(os.close, registry_fd)
        segments_fd = open_preallocated(place / SEGMENTS_FILE, geometry.data_bytes)
        if direct:
            os.close(segments_fd)
            segments_fd = _open_direct(place / SEGMENTS_FILE)
        on_error.callback(os.close, segments_fd)
        with explained(place):  # or a loss of power takes the files away, with all that was synced into them
            os.fsync(registry_fd)
            os.fsync(segments_fd)
            sync_folder(place)
        on_error.pop_all()
    name = str(place / SEGMENTS_FILE)
    return Store(str(place), name, geometry, segments_fd, 0, registry_fd, 0, (lock_fd,))


def open_device(
    path: str | os.PathLike[str], capacity_bytes: int, segment_bytes: int | None, uuid: bytes | None = None
) -> Store:
    """Opens the store on a block device with O_DIRECT, or makes one, of at most ``capacity_bytes``.

    Raises StorageError, and then has changed nothing: a device that is mounted or in use, too small, that holds
    something else, or a store of a newer format or with other segments.
    """
    place = Path(path)
    with contextlib.ExitStack() as on_error:
        fd = _claim(place)
        on_error.callback(os.close, fd)
        direct_fd = _open_direct(place)
        on_error.callback(os.close, direct_fd)
        with explained(place):
            size = os.lseek(fd, 0, os.SEEK_END)
        if capacity_bytes > size:
            raise StorageError(
                f"{place} has {size} bytes, and {capacity_bytes} are asked for",
                remedy="lower the capacity, or use 100%",
            )
        existing = _geometry_of(place, fd, size, uuid)
        if existing is None:
            geometry = plan_geometry(capacity_bytes, segment_bytes, DIRECT_ALIGNMENT, str(place))
        else:
            if segment_bytes not in (None, existing.segment_bytes):
                raise StorageError(
                    f"{place} was made with segments of {existing.segment_bytes} bytes, not {segment_bytes}",
                    remedy="leave the segment size out, or clear the device",
                )
            geometry = resize_geometry(existing, capacity_bytes, str(place))
        if geometry != existing:
            with explained(place):
                _format_device(fd, geometry, existing)
        on_error.pop_all()
    return Store(
        str(place), str(place), geometry, direct_fd, SUPERBLOCK_BYTES + geometry.registry_bytes, fd, SUPERBLOCK_BYTES
    )


def _claim(place: Path) -> int:
    """Opens a device for this process alone: neither a filesystem nor another node has it, nor gets it."""
    with explained(place):
        try:
            return os.open(place, os.O_RDWR | os.O_EXCL)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise StorageError(
                f"{place} is in use: it, or a part of it, is mounted or belongs to another node or to the system",
                remedy="name another device, or free this one (lsblk shows what uses it)",
            ) from error


def _open_direct(place: Path) -> int:
    """Opens a file or device with O_DIRECT, and tries it. StorageError where it cannot be had."""
    with explained(place):
        try:
            fd = os.open(place, os.O_RDWR | os.O_DIRECT)
            try:
                with mmap.mmap(-1, DIRECT_ALIGNMENT) as page:
                    os.preadv(fd, [page], 0)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise StorageError(
                f"{place} cannot be read with O_DIRECT in blocks of {DIRECT_ALIGNMENT} bytes",
                remedy="use mode file, or a filesystem that can (ext4, xfs), or a device",
            ) from error
    return fd


def _refuse_memory(place: Path) -> None:
    """StorageError for a folder that is in memory: newer kernels take O_DIRECT there, and ignore it."""
    with explained(place):
        device = os.stat(nearest_existing(place)).st_dev
    kind = _filesystem_of(f"{os.major(device)}:{os.minor(device)}")
    if kind in _MEMORY_FILESYSTEMS:
        raise StorageError(
            f"{place} is on a {kind}, which is memory and has no O_DIRECT",
            remedy="use mode memory, or name a folder on a drive",
        )


def _filesystem_of(device: str) -> str | None:
    """The kind of filesystem that is mounted from a device, "major:minor"; None: the kernel does not say."""
    mounts = ""
    with contextlib.suppress(OSError):  # no /proc: then the try in _open_direct has to do
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    for line in mounts.splitlines():
        fields = line.split()
        if fields[2] == device:
            return fields[fields.index("-") + 1]
    return None


def _geometry_of(place: Path, fd: int, size: int, uuid: bytes | None) -> Geometry | None:
    """The geometry of the store on a device, or None where the device is blank."""
    with explained(place):
        head = os.pread(fd, min(DEVICE_HEAD_BYTES, size), 0)
        tail = os.pread(fd, min(DEVICE_TAIL_BYTES, size), max(0, size - DEVICE_TAIL_BYTES))
    existing = decode_superblock(head[:SUPERBLOCK_BYTES], str(place)) if head.startswith(SUPERBLOCK_MAGIC) else None
    if uuid is not None and (existing is None or existing.uuid != uuid):
        raise StorageError(
            f"{place} does not hold the store that was served from it",
            remedy="put its drive there again, or restart the node to begin with another one",
        )
    if existing is None and (head.count(0) != len(head) or tail.count(0) != len(tail)):
        raise StorageError(
            f"{place} holds something that is no MemKV store",
            remedy="name another device, or clear this one (blkdiscard -z); nothing on it was touched",
        )
    return existing


def _format_device(fd: int, geometry: Geometry, existing: Geometry | None) -> None:
    """Clears what the new geometry adds, and writes the superblock last."""
    first = existing.segment_count if existing is not None else 0
    base = SUPERBLOCK_BYTES + geometry.registry_bytes
    if existing is None:
        os.pwrite(fd, bytes(geometry.registry_bytes), SUPERBLOCK_BYTES)
    for slot in range(first, geometry.segment_count):
        os.pwrite(fd, bytes(DIRECT_ALIGNMENT), base + slot * geometry.segment_bytes)
    os.fsync(fd)
    os.pwrite(fd, encode_superblock(geometry), 0)
    os.fsync(fd)


def _refuse_misaligned(place: Path, geometry: Geometry, alignment: int) -> None:
    if geometry.alignment % alignment:
        raise StorageError(
            f"{place} was made with records aligned to {geometry.alignment} bytes, and this mode needs {alignment}",
            remedy="use mode file, or an empty folder",
        )


def _restore_superblock(place: Path, existing: Geometry | None) -> None:
    if existing is None:
        (place / FORMAT_FILE).unlink()
    else:
        store_superblock(place, existing)
