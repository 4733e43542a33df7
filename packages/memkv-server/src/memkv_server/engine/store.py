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
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.engine.folder import (
    FORMAT_FILE,
    REGISTRY_FILE,
    SEGMENTS_FILE,
    explained,
    lock,
    open_preallocated,
    planned,
    refuse_foreign,
    refuse_full,
    refuse_other,
    store_superblock,
)
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
_BLANK_BYTES: Final = 1 << 20  # of a device that is taken for unused: filesystems, volumes and tables begin here
_REGISTRY_BLOCK_BYTES: Final = 4096


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


def open_folder(
    path: str | os.PathLike[str],
    capacity_bytes: int,
    segment_bytes: int | None,
    alignment: int,
    uuid: bytes | None = None,
    *,
    flags: int = 0,
) -> Store:
    """Opens the store in a folder, or makes one there; grows or shrinks it to ``capacity_bytes``.

    Raises StorageError, and then has changed nothing: a foreign, unwritable, full or too small folder, a store of a
    newer format or in use by another node, or another segment size than the store was made with. A store that shrinks
    loses the segments that no longer fit. With a ``uuid`` only the store that has it is opened: where a drive has
    vanished its mount point is an empty folder on another one. ``flags`` are added when the segments are opened.
    """
    place = Path(path)
    if is_device(place):
        raise StorageError(f"{place} is a block device", remedy="use mode direct, or name a folder for the store")
    if uuid is not None:
        refuse_other(place, uuid)
    refuse_foreign(place)
    refuse_full(place, planned(place, capacity_bytes, segment_bytes, alignment)[1])
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
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
        if flags:
            os.close(segments_fd)
            with explained(place / SEGMENTS_FILE):
                segments_fd = os.open(place / SEGMENTS_FILE, os.O_RDWR | flags)
        on_error.pop_all()
    name = str(place / SEGMENTS_FILE)
    return Store(str(place), name, geometry, segments_fd, 0, registry_fd, 0, (lock_fd,))


def open_device(
    path: str | os.PathLike[str], capacity_bytes: int | None, segment_bytes: int | None, uuid: bytes | None = None
) -> Store:
    """Opens the store on a block device with O_DIRECT, or makes one; ``capacity_bytes`` None is all of it.

    Raises StorageError, and then has changed nothing: a device that is mounted or in use, too small, that holds
    something else, or a store of a newer format or with other segments.
    """
    place = Path(path)
    with contextlib.ExitStack() as on_error:
        with explained(place):
            # O_EXCL on a device: neither a filesystem nor another node has it, nor gets it while it is open here.
            fd = os.open(place, os.O_RDWR | os.O_EXCL)
            on_error.callback(os.close, fd)
            direct_fd = os.open(place, os.O_RDWR | os.O_DIRECT)
            on_error.callback(os.close, direct_fd)
            size = os.lseek(fd, 0, os.SEEK_END)
            head = os.pread(fd, _BLANK_BYTES, 0)
        if capacity_bytes is not None and capacity_bytes > size:
            raise StorageError(f"{place} has {size} bytes, and {capacity_bytes} are asked for", remedy="lower it")
        existing = _geometry_of(place, head, uuid)
        if existing is None:
            geometry = plan_geometry(capacity_bytes or size, segment_bytes, DIRECT_ALIGNMENT, str(place))
        else:
            if segment_bytes not in (None, existing.segment_bytes):
                raise StorageError(
                    f"{place} was made with segments of {existing.segment_bytes} bytes, not {segment_bytes}",
                    remedy="leave the segment size out, or clear the device",
                )
            geometry = resize_geometry(existing, capacity_bytes or size, str(place))
        if geometry != existing:
            with explained(place):
                _format_device(fd, geometry, existing)
        on_error.pop_all()
    return Store(
        str(place), str(place), geometry, direct_fd, SUPERBLOCK_BYTES + geometry.registry_bytes, fd, SUPERBLOCK_BYTES
    )


def _geometry_of(place: Path, head: bytes, uuid: bytes | None) -> Geometry | None:
    existing = None
    if head.startswith(SUPERBLOCK_MAGIC):
        existing = decode_superblock(head[:SUPERBLOCK_BYTES], str(place))
    if uuid is not None and (existing is None or existing.uuid != uuid):
        raise StorageError(
            f"{place} does not hold the store that was served from it",
            remedy="put its drive there again, or restart the node to begin with another one",
        )
    if existing is None and head.count(0) != len(head):
        raise StorageError(
            f"{place} holds something that is no MemKV store",
            remedy="name another device, or clear this one (wipefs --all, blkdiscard); nothing on it was touched",
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
