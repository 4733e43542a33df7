# SPDX-License-Identifier: Apache-2.0
"""Processes known by pid and start time, so that a pid that was given to another process is never signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

POLL_S: Final = 0.02


def start_ticks(pid: int) -> int | None:
    """When ``pid`` was started, in clock ticks since boot (field 22 of /proc/PID/stat); None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    zombie = fields[0] in ("Z", "X")  # it has ended, and only its parent has not asked yet
    return None if zombie else int(fields[19])


def is_running(pid: int, ticks: int) -> bool:
    """Whether the very process that was started at ``ticks`` still runs."""
    return start_ticks(pid) == ticks


def stop(pid: int, ticks: int, *, signum: signal.Signals | None, wait_s: float) -> bool:
    """Signals the process (None: only waits) and waits for its end. True where it is gone."""
    if not is_running(pid, ticks):
        return True
    if signum is not None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, signum)
    deadline = time.monotonic() + wait_s
    while is_running(pid, ticks):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
