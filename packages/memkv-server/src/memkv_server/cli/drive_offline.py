# SPDX-License-Identifier: Apache-2.0
"""What ``memkv drive`` does to a store that no node has open."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memkv_server.cli import drive_view
from memkv_server.cli.output import note
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


def _paced(progress: Progress, rate_bytes_s: int | None) -> Callable[[int, int], None]:
    """``progress``, which also sleeps as long as the work is ahead of the rate."""
    if rate_bytes_s is None:
        return progress
    started_s = time.monotonic()

    def paced(done: int, total: int) -> None:
        progress(done, total)
        time.sleep(max(0.0, started_s + done / rate_bytes_s - time.monotonic()))

    return paced
