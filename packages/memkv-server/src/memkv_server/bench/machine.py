# SPDX-License-Identifier: Apache-2.0
"""What a figure was measured on, in words: under every picture, and in every report."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import memkv_core

_CPU_LINE = re.compile(r"^(?:model name|Model|CPU part)\s*:\s*(.+)$", re.MULTILINE)
_MEMORY_LINE = re.compile(r"^MemTotal:\s*(\d+) kB$", re.MULTILINE)


def describe_machine() -> str:
    """Cores, processor, memory and kernel in one line; what cannot be read is left out."""
    cores = len(os.sched_getaffinity(0))
    parts = [f"{cores} core{'' if cores == 1 else 's'}"]
    if model := _CPU_LINE.search(_read("/proc/cpuinfo")):
        parts.append(model[1].strip())
    if memory := _MEMORY_LINE.search(_read("/proc/meminfo")):
        parts.append(f"{int(memory[1]) / 2**20:.0f} GiB")
    parts.append(f"{platform.system()} {platform.release()}")
    return ", ".join(parts)


def describe_load() -> str:
    """How many processes wanted a core on average of the last five minutes: what else was going on."""
    return f"load {os.getloadavg()[1]:.1f} on {len(os.sched_getaffinity(0))} cores"


def describe_versions() -> str:
    """MemKV and Python."""
    return f"MemKV {memkv_core.__version__}, Python {platform.python_version()}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
