# SPDX-License-Identifier: Apache-2.0
"""A folder that holds a store: which are taken, which are refused, and the files in it.

A folder holds::

    memkv.format      the superblock, 4 KiB: magic, format version, geometry, uuid
    memkv.namespaces  the registry, preallocated
    memkv.segments    all segments, preallocated and mapped
    memkv.lock        held by the node that serves the folder; its process id, for the message to the second one
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.engine.superblock import (
    Geometry,
    decode_superblock,
    encode_superblock,
    plan_geometry,
    resize_geometry,
)

FORMAT_FILE: Final = "memkv.format"
REGISTRY_FILE: Final = "memkv.namespaces"
SEGMENTS_FILE: Final = "memkv.segments"
LOCK_FILE: Final = "memkv.lock"
# What may lie in a folder that has no superblock yet: what a start that was interrupted left, and mkfs.
BENIGN: Final = {LOCK_FILE, FORMAT_FILE + ".new", "lost+found"}


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """The one point where the system's errors become StorageErrors that name the file and the remedy."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        remedy = "check the owner, the permissions and the mount of the folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free some space there, or lower the capacity"
        raise StorageError(f"{place}: {error.strerror}", remedy=remedy) from error


def refuse_foreign(place: Path) -> None:
    """StorageError where the folder holds something and no store."""
    with explained(place):
        if not place.exists():
            return
        if not place.is_dir():
            raise StorageError(f"{place} is not a folder", remedy="name a folder for the store")
        names = {entry.name for entry in place.iterdir()}
    foreign = sorted(names - BENIGN)
    if FORMAT_FILE not in names and foreign:
        raise StorageError(
            f"{place} holds {foreign[0]!r}, and no MemKV store",
            remedy="name an empty folder; nothing in this one was touched",
        )


def planned(
    place: Path, capacity_bytes: int, segment_bytes: int | None, alignment: int
) -> tuple[Geometry | None, Geometry]:
    """The geometry that is there, or None, and the one that is to be there. Raises StorageError."""
    existing = load_superblock(place)
    if existing is None:
        return None, plan_geometry(capacity_bytes, segment_bytes, alignment, str(place))
    if segment_bytes not in (None, existing.segment_bytes):
        raise StorageError(
            f"{place} was made with segments of {existing.segment_bytes} bytes, not {segment_bytes}",
            remedy="leave the segment size out, or use an empty folder",
        )
    return existing, resize_geometry(existing, capacity_bytes, str(place))


def load_superblock(place: Path) -> Geometry | None:
    """The geometry of the store that is there, or None."""
    file = place / FORMAT_FILE
    with explained(file):
        try:
            block = file.read_bytes()
        except FileNotFoundError:
            return None
    return decode_superblock(block, str(file))


def store_superblock(place: Path, geometry: Geometry) -> None:
    """Writes it durably: either the old one or the new one is there afterwards."""
    fresh = place / (FORMAT_FILE + ".new")
    with explained(fresh):
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        try:
            os.write(fd, encode_superblock(geometry))
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.rename(place / FORMAT_FILE)
        sync_folder(place)


def sync_folder(place: Path) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def refuse_other(place: Path, uuid: bytes) -> None:
    """StorageError where the folder does not hold the store with this uuid."""
    existing = load_superblock(place)
    if existing is None or existing.uuid != uuid:
        raise StorageError(
            f"{place} does not hold the store that was served from it",
            remedy="mount its drive there again, or restart the node to begin with another one",
        )


def nearest_existing(place: Path) -> Path:
    """The folder itself, or the one above it that it would be made in."""
    while not place.exists():
        place = place.parent
    return place


def held_bytes(place: Path) -> int:
    """What the files of a store take of the filesystem."""
    held = 0
    for name in (FORMAT_FILE, REGISTRY_FILE, SEGMENTS_FILE):
        with contextlib.suppress(FileNotFoundError):
            held += (place / name).stat().st_blocks * 512
    return held


def refuse_full(place: Path, geometry: Geometry) -> None:
    """The filesystem must hold the whole store now, so that no write meets its end later."""
    nearest = nearest_existing(place)
    with explained(nearest):
        filesystem = os.statvfs(nearest)
        free = filesystem.f_bavail * filesystem.f_frsize + held_bytes(place)
    if geometry.store_bytes > free:
        raise StorageError(
            f"{place}: {geometry.store_bytes} bytes are needed and {free} are free",
            remedy="free some space there, or lower the capacity",
        )


def lock(place: Path) -> int:
    """Takes the folder for this process; the lock lives as long as the descriptor."""
    file = place / LOCK_FILE
    with explained(file):
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise StorageError(
                f"{place} is in use by another node (process {holder or 'unknown'})",
                remedy="stop that node, or give this one a folder of its own",
            ) from error
        raise StorageError(f"{file}: {error.strerror}", remedy="use a filesystem that has locks") from error
    with contextlib.suppress(OSError):  # only for the message above
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def open_preallocated(file: Path, size: int) -> int:
    """Opens the file at exactly ``size`` bytes, all of them allocated."""
    with explained(file):
        created = not file.exists()
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            if os.fstat(fd).st_size > size:
                os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            if created:
                file.unlink()
            raise
    return fd
