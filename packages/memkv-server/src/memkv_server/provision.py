# SPDX-License-Identifier: Apache-2.0
"""Prepares the drives of a node before its first start: looks first, and touches nothing where one is a stranger's.

A device that is mounted, or used by the system in another way, is refused even by force: no node could open it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from memkv_core.errors import ConfigError, StorageError
from memkv_core.files import reason_of
from memkv_server.capacity import Share
from memkv_server.drives.discovery import Use, device_use
from memkv_server.drives.image import held, is_device
from memkv_server.drives.signature import content_of
from memkv_server.engine.drive import FORMAT_FILE, RECORD_ALIGNMENT, REGISTRY_FILE, SEGMENTS_FILE, FileDrive
from memkv_server.engine.folder import BENIGN, explained, load_superblock, refuse_full, store_superblock
from memkv_server.engine.limits import DEVICE_HEAD_BYTES, DEVICE_TAIL_BYTES
from memkv_server.engine.store import DIRECT_ALIGNMENT, open_device, open_folder, share_bytes
from memkv_server.engine.superblock import SUPERBLOCK_BYTES, Geometry, decode_superblock, plan_geometry

STORE_FILES: Final = (FORMAT_FILE, REGISTRY_FILE, SEGMENTS_FILE)
_BLKRRPART: Final = 0x125F  # ioctl: read the partition table again


class Action(Enum):
    """What is to be done with a drive."""

    MAKE = "make a store"
    KEEP = "keep the store that is there"
    REMAKE = "delete the store that is there and make a new one"
    BESIDE = "make a store beside what is there, which is not touched"
    OVERWRITE = "overwrite what is there with a store"


@dataclass(frozen=True)
class Step:
    """One drive of a plan; ``found`` is what is there now, in words."""

    path: Path
    capacity_bytes: int
    action: Action
    found: str

    def __str__(self) -> str:
        return f"{self.path}: {self.action.value} ({self.found}), {self.capacity_bytes} bytes"


def plan(
    drives: Sequence[tuple[Path, int | Share]],
    *,
    mode: str,
    segment_bytes: int | None,
    idempotent: bool,
    force: bool,
    root: Path = Path("/"),
) -> list[Step]:
    """What ``carry_out`` would do, for all drives or none. Raises StorageError, ConfigError; changes nothing."""
    steps = []
    for path, capacity in drives:
        look = _look_at_device(path, root) if is_device(path) else _look_at_folder(path)
        action = _action(path, look, idempotent, force)
        if action is Action.KEEP:
            _refuse_unlike(path, mode, segment_bytes)
        steps.append(Step(path, _bytes(path, capacity), action, look[1]))
    return steps


def carry_out(steps: Sequence[Step], mode: str, segment_bytes: int | None) -> None:
    """Prepares each drive. Raises StorageError naming the first that cannot be; those before it are prepared.

    A store that is kept is not opened, so a node may be running on it.
    """
    for step in steps:
        if step.action is Action.KEEP:
            continue
        if is_device(step.path):
            if step.action is not Action.MAKE:
                _clear_device(step.path)
            open_device(step.path, step.capacity_bytes, segment_bytes).close()
            continue
        if step.action is Action.REMAKE:
            _delete_store(step.path)
        if step.action is Action.BESIDE:
            _found_store(step, mode, segment_bytes)
        if mode == "direct":
            open_folder(step.path, step.capacity_bytes, segment_bytes, DIRECT_ALIGNMENT, direct=True).close()
        else:
            FileDrive.open(step.path, step.capacity_bytes, segment_bytes).close()


def free_bytes(path: Path) -> int:
    """What a store in ``path`` could take of its filesystem."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


# -- looking ---------------------------------------------------------------------------------------------------------
def _look_at_device(path: Path, root: Path) -> tuple[Use, str]:
    used = device_use(root, Path(os.path.realpath(path)).name)
    return (Use.IN_USE, used) if used is not None else content_of(path)


def _look_at_folder(path: Path) -> tuple[Use, str]:
    try:
        names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    except OSError as error:
        raise StorageError(f"{path}: {reason_of(error)}", remedy="name a folder that this user can write") from error
    if FORMAT_FILE in names:
        return Use.OURS, "a MemKV store"
    strangers = sorted(names - BENIGN)
    return (Use.FOREIGN, repr(strangers[0])) if strangers else (Use.FREE, "empty" if path.exists() else "new")


def _action(path: Path, look: tuple[Use, str], idempotent: bool, force: bool) -> Action:
    use, found = look
    if use is Use.FREE:
        return Action.MAKE
    if use is Use.IN_USE:
        raise StorageError(f"{path} is in use ({found})", remedy="unmount or free it; --force does not")
    if use is Use.UNREADABLE:
        raise StorageError(f"{path} cannot be read ({found})", remedy="run as a user who may, or name another device")
    if use is Use.OURS:
        if force:
            return Action.REMAKE
        if idempotent:
            return Action.KEEP
        raise ConfigError(
            f"{path} holds a MemKV store already", remedy="use --idempotent to keep it, or --force to delete its blocks"
        )
    if force:
        return Action.OVERWRITE if is_device(path) else Action.BESIDE
    how = "overwrites it" if is_device(path) else "puts the store beside it"
    raise StorageError(
        f"{path} holds {found}, and no MemKV store", remedy=f"name an empty folder or a blank device; --force {how}"
    )


def _refuse_unlike(path: Path, mode: str, segment_bytes: int | None) -> None:
    """ConfigError where the store that is kept is none for these settings. StorageError where it cannot be opened."""
    geometry = _geometry(path)
    if segment_bytes not in (None, geometry.segment_bytes):
        raise ConfigError(
            f"{path} was made with segments of {geometry.segment_bytes} bytes, not {segment_bytes}",
            remedy="leave --segment-size out, or use --force to delete its blocks",
        )
    needed = DIRECT_ALIGNMENT if mode == "direct" else RECORD_ALIGNMENT
    if geometry.alignment % needed:
        raise ConfigError(
            f"{path} was made for mode file, and this is mode {mode}",
            remedy="use --mode file, or --force to delete its blocks",
        )


def _geometry(path: Path) -> Geometry:
    if is_device(path):
        with explained(path), path.open("rb") as device:
            return decode_superblock(device.read(SUPERBLOCK_BYTES), str(path))
    geometry = load_superblock(path)
    assert geometry is not None, "it was there a moment ago"
    return geometry


def _bytes(path: Path, capacity: int | Share) -> int:
    return share_bytes(path, capacity) if isinstance(capacity, Share) else capacity


# -- doing -----------------------------------------------------------------------------------------------------------
def _found_store(step: Step, mode: str, segment_bytes: int | None) -> None:
    """Writes the superblock: a folder that has one is a store, whatever else lies in it."""
    alignment = DIRECT_ALIGNMENT if mode == "direct" else RECORD_ALIGNMENT
    geometry = plan_geometry(step.capacity_bytes, segment_bytes, alignment, str(step.path))
    with held(step.path):
        refuse_full(step.path, geometry)
        store_superblock(step.path, geometry)


def _delete_store(path: Path) -> None:
    with held(path):
        for name in STORE_FILES:  # the superblock first: without it the rest is no store
            with contextlib.suppress(FileNotFoundError):
                (path / name).unlink()


def _clear_device(path: Path) -> None:
    """Zeros where filesystems, volumes, tables and our own superblock begin and end."""
    with explained(path):
        fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            for at, length in ((0, DEVICE_HEAD_BYTES), (max(0, size - DEVICE_TAIL_BYTES), DEVICE_TAIL_BYTES)):
                os.pwrite(fd, bytes(min(length, size - at)), at)
            os.fsync(fd)
            with contextlib.suppress(OSError):  # a device that has no partitions
                fcntl.ioctl(fd, _BLKRRPART)
        finally:
            os.close(fd)
