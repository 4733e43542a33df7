# SPDX-License-Identifier: Apache-2.0
"""What ``memkv drive`` does to a store that no node has open."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memkv_core.errors import StorageError
from memkv_server.cli import drive_view
from memkv_server.cli.output import format_bytes, note
from memkv_server.config import ServerConfig
from memkv_server.drives.check import Progress, check_store
from memkv_server.drives.image import open_image
from memkv_server.drives.repair import repair_store


def check_offline(
    path: Path, *, data: bool, repair: bool, quiet: bool, rate_bytes_s: int | None = None
) -> dict[str, Any]:
    """Checks one store, mends it where ``repair`` says so, and says both unless ``quiet``; what ``--json`` prints.

    What was mended is checked again: ``after`` is what is left. Raises StorageError.
    """
    with open_image(path, writable=repair) as image:
        with drive_view.progress_bar(f"check {path}") as progress:
            check = check_store(image, data=data, progress=_paced(progress, rate_bytes_s))
        if not quiet:
            drive_view.say_check(check)
        if not repair or check.is_clean:
            return check.as_json()
        steps = []
        for step in repair_store(image, check):
            note(step)
            steps.append(step)
        with drive_view.progress_bar(f"check {path} again") as progress:
            after = check_store(image, data=data, progress=_paced(progress, rate_bytes_s))
        if not quiet:
            drive_view.say_check(after)
        return {**check.as_json(), "repaired": steps, "after": after.as_json()}


def evacuate_offline(config: Path, path: Path, *, evict: bool, dry_run: bool) -> dict[str, Any]:
    """Empties a drive, and says so; what ``--json`` prints. Raises ConfigError, StorageError."""
    from memkv_server.drives.evacuate import Evacuation
    from memkv_server.drives.layout import without_drive

    old = ServerConfig.load(config)
    new = without_drive(old, path)
    with drive_view.progress_bar(f"evacuate {path}") as progress, Evacuation(old, new, str(path), progress) as work:
        outlook = work.outlook()
        needed, free = outlook["live_bytes"], outlook["free_bytes"]
        records = drive_view.counted(outlook["records"], "record")
        note(
            f"{path}: {records} ({format_bytes(needed)}) to {'be moved' if dry_run else 'move'}; "
            f"{format_bytes(free)} are free on the other drives"
        )
        if needed > free and not evict and not dry_run:
            raise StorageError(
                f"{path} holds {needed} bytes, and the other drives have {free} free",
                remedy="add a drive, or give --evict to let their oldest blocks go",
            )
        if not dry_run:
            work.run()
        moved = work.moved
    if not dry_run:
        note(
            f"{path}: empty; {drive_view.counted(moved.records, 'record')} ({format_bytes(moved.bytes)}) moved, "
            f"{moved.already:,} were there, {moved.damaged:,} damaged, {moved.refused:,} refused, "
            f"{moved.too_long:,} too long; put the settings on stdout in place of the old ones, and start the node"
        )
    return {"path": str(path), **outlook, "moved": moved.as_json(), "settings": _storage_settings(new)}


def _storage_settings(config: ServerConfig) -> dict[str, Any]:
    """The sections that change, as they stand in a settings file."""
    drives = [
        {
            "path": str(drive.path),
            "capacity": drive.capacity if isinstance(drive.capacity, int) else str(drive.capacity),
        }
        for drive in config.storage.drives
    ]
    storage = config.storage
    settings: dict[str, Any] = {"storage": {"mode": storage.mode, "drives": drives}}
    if storage.segment_size is not None:
        settings["storage"]["segment_size"] = int(storage.segment_size)
    if storage.durability != "relaxed":
        settings["storage"]["durability"] = storage.durability
    return {**settings, **({"lanes": config.lanes} if config.lanes is not None else {})}


def _paced(progress: Progress, rate_bytes_s: int | None) -> Callable[[int, int], None]:
    """``progress``, which also sleeps as long as the work is ahead of the rate."""
    if rate_bytes_s is None:
        return progress
    started_s = time.monotonic()

    def paced(done: int, total: int) -> None:
        progress(done, total)
        time.sleep(max(0.0, started_s + done / rate_bytes_s - time.monotonic()))

    return paced
