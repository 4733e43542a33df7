# SPDX-License-Identifier: Apache-2.0
"""Prepares the folders of a node before its first start: looks first, and touches nothing where one is a stranger's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from memkv_core.errors import ConfigError, StorageError
from memkv_core.files import reason_of
from memkv_server.engine.drive import FORMAT_FILE, LOCK_FILE, REGISTRY_FILE, SEGMENTS_FILE, FileDrive

STORE_FILES: Final = (FORMAT_FILE, REGISTRY_FILE, SEGMENTS_FILE)
_HARMLESS: Final = frozenset({LOCK_FILE, FORMAT_FILE + ".new", "lost+found"})


class Action(Enum):
    """What is to be done with a drive's folder."""

    MAKE = "make a store"
    KEEP = "keep the store that is there"
    REMAKE = "delete the store that is there and make a new one"


@dataclass(frozen=True)
class Step:
    """One drive of a plan."""

    path: Path
    capacity_bytes: int
    action: Action

    def __str__(self) -> str:
        return f"{self.path}: {self.action.value}, {self.capacity_bytes} bytes"


def plan(drives: Sequence[tuple[Path, int]], *, idempotent: bool, force: bool) -> list[Step]:
    """What ``carry_out`` would do, for all drives or none. Raises StorageError, ConfigError; changes nothing."""
    return [Step(path, capacity, _action(path, idempotent, force)) for path, capacity in drives]


def carry_out(steps: Sequence[Step], segment_bytes: int | None) -> None:
    """Prepares each folder. Raises StorageError naming the first that cannot be; those before it are prepared."""
    for step in steps:
        if step.action is Action.REMAKE:
            _delete_store(step.path)
        FileDrive.open(step.path, step.capacity_bytes, segment_bytes).close()


def free_bytes(path: Path) -> int:
    """What a store in ``path`` could take of its filesystem."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _action(path: Path, idempotent: bool, force: bool) -> Action:
    try:
        names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    except OSError as error:
        raise StorageError(f"{path}: {reason_of(error)}", remedy="name a folder that this user can write") from error
    if FORMAT_FILE in names:
        if force:
            return Action.REMAKE
        if idempotent:
            return Action.KEEP
        raise ConfigError(
            f"{path} holds a MemKV store already", remedy="use --idempotent to keep it, or --force to delete its blocks"
        )
    if strangers := sorted(names - _HARMLESS):
        raise StorageError(
            f"{path} holds {strangers[0]!r}, and no MemKV store",
            remedy="name an empty folder; --force does not delete what is not MemKV's",
        )
    return Action.MAKE


def _delete_store(path: Path) -> None:
    with _held(path):
        for name in STORE_FILES:  # the superblock first: without it the rest is no store
            with contextlib.suppress(FileNotFoundError):
                (path / name).unlink()


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """The folder's lock, which a running node holds."""
    descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StorageError(f"{path} is in use by a running node", remedy="stop that node first") from None
    finally:
        os.close(descriptor)
