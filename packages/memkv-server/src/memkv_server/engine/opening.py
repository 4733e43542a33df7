# SPDX-License-Identifier: Apache-2.0
"""From the settings of a drive to an engine on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from memkv_core.errors import StorageError
from memkv_server.capacity import Share
from memkv_server.engine.account import Rules
from memkv_server.engine.direct import DirectDrive
from memkv_server.engine.drive import Drive, FileDrive, MemoryDrive
from memkv_server.engine.durability import Level
from memkv_server.engine.engine import SegmentEngine
from memkv_server.engine.limits import POOL_BYTES_DEFAULT
from memkv_server.engine.store import share_bytes

_NO_RULES: Final = Rules()


def open_engine(
    mode: str,
    path: str | os.PathLike[str] | None = None,
    capacity_bytes: int | Share = 0,
    segment_bytes: int | None = None,
    uuid: bytes | None = None,
    *,
    level: Level = Level.RELAXED,
    notify: Callable[[], None] | None = None,
    memory_bytes: int = POOL_BYTES_DEFAULT,
    rules: Rules = _NO_RULES,
) -> SegmentEngine:
    """An engine on a folder (``mode="file"``), on one or a block device (``"direct"``), or in memory.

    ``capacity_bytes`` may be a ``Share`` of the device or of what is free around the folder. ``memory_bytes`` bounds
    the RAM pool of mode direct, ``rules`` the namespaces. With a ``uuid`` only the store that has it is opened, and
    none is made. For ``level`` and ``notify`` see ``SegmentEngine``. Raises StorageError naming folder or device, and
    the remedy.
    """
    if mode == "memory":
        if level is Level.STRICT:
            raise StorageError(
                "memory does not outlive a loss of power", remedy="use mode file or direct for durability strict"
            )
        if isinstance(capacity_bytes, Share):
            raise StorageError("mode memory has no drive to take a share of", remedy="give the capacity in bytes")
        return SegmentEngine.open(MemoryDrive.open(capacity_bytes, segment_bytes), rules=rules)
    if mode not in ("file", "direct"):
        raise StorageError(f"storage mode {mode!r} is unknown", remedy="use file, direct or memory")
    if path is None:
        what = "a folder" if mode == "file" else "a folder or a block device"
        raise StorageError(f"mode {mode} needs {what}", remedy="name it with the path of the drive")
    if isinstance(capacity_bytes, Share):
        capacity_bytes = share_bytes(path, capacity_bytes)
    drive: Drive
    if mode == "file":
        drive = FileDrive.open(path, capacity_bytes, segment_bytes, uuid)
    else:
        drive = DirectDrive.open(path, capacity_bytes, segment_bytes, uuid, memory_bytes=memory_bytes)
    return SegmentEngine.open(drive, level, notify, rules)


def drive_capacity(place: Mapping[str, Any]) -> int | Share:
    """What a start message says of a drive: bytes, or a share."""
    percent = place.get("capacity_percent")
    return Share(percent) if percent is not None else int(place["capacity_bytes"])


def drive_weights(paths: Sequence[str | None], capacities: Sequence[int | Share]) -> list[int]:
    """Each drive's capacity in bytes; of a share of what is away, the mean of the others."""
    known: dict[int, int] = {}
    for position, (path, capacity) in enumerate(zip(paths, capacities, strict=True)):
        if isinstance(capacity, int):
            known[position] = capacity
        elif path is not None:
            with contextlib.suppress(StorageError):  # said when it is opened
                known[position] = share_bytes(path, capacity)
    mean = sum(known.values()) // len(known) if known else 1
    return [known.get(position, mean) for position in range(len(paths))]
