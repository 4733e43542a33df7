# SPDX-License-Identifier: Apache-2.0
"""Reading the small files an operator names (settings, licenses, keys): bounded, and never blocking."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular_file(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a regular file. Raises OSError, also for another kind or one too long."""
    # O_NONBLOCK: opening a FIFO without a writer would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError("it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit_bytes:
        raise OSError(f"it is longer than {limit_bytes} bytes")
    return data


def config_folders() -> tuple[Path, Path]:
    """The user's and the system's folder of settings, licenses and trusted keys."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(home) / "memkv", Path("/etc/memkv")


def reason_of(error: OSError) -> str:
    """The operating system's words, without the path, which the caller names itself."""
    return (error.strerror or str(error)).lower()
