# SPDX-License-Identifier: Apache-2.0
"""A node's drives, on the node's own machine: does a small durable write come back soon."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from memkv_core.errors import MemKVError
from memkv_server.config import ServerConfig
from memkv_server.doctor.finding import Finding, of_error

PROBE_BYTES: Final = 4096
ROUNDS: Final = 16
SLOW_SYNC_MS: Final = 20.0


def examine_drives(path: Path) -> Iterator[Finding]:
    """The drives of the node that the file at ``path`` configures. Writes one small file beside each store."""
    try:
        config = ServerConfig.load(path)
    except MemKVError as error:
        yield of_error("drive", error)
        return
    yield Finding(
        "drive", "ok", f"{path} is a node's configuration: {config.storage.mode}, {config.lane_count} lane(s)"
    )
    for lane in range(config.lane_count):
        for drive in config.drives_of(lane):
            if drive.get("path"):
                yield drive_latency(Path(drive["path"]))


def drive_latency(path: Path) -> Finding:
    """The time of a durable write into the folder ``path``; of a device only the time of a read."""
    if not path.exists():
        return Finding("drive", "fail", f"{path} is not there", "mount it, or make it with `memkv setup`")
    try:
        durations_ms = sorted(_writes_ms(path) if path.is_dir() else _reads_ms(path))
    except OSError as error:
        return Finding("drive", "fail", f"{path}: {error.strerror}", "look at dmesg and at the mount's options")
    what = "durable write" if path.is_dir() else "read"
    text = f"{path}: a {what} of 4 KiB takes {durations_ms[ROUNDS // 2]:.2f} ms, at worst {durations_ms[-1]:.2f} ms"
    if durations_ms[ROUNDS // 2] > SLOW_SYNC_MS:
        return Finding("drive", "warn", text, "slow for `durability: strict`; look for a busy or worn drive")
    return Finding("drive", "ok", text)


def _writes_ms(folder: Path) -> list[float]:
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        durations = []
        for index in range(ROUNDS):
            started_s = time.perf_counter()
            os.pwrite(file.fileno(), bytes([index]) * PROBE_BYTES, 0)
            os.fdatasync(file.fileno())
            durations.append((time.perf_counter() - started_s) * 1000)
        return durations


def _reads_ms(device: Path) -> list[float]:
    """Of places that are spread over the device, so that no cache of the kernel's holds them all."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        step = max(PROBE_BYTES, os.lseek(fd, 0, os.SEEK_END) // ROUNDS)
        durations = []
        for index in range(ROUNDS):
            started_s = time.perf_counter()
            os.pread(fd, PROBE_BYTES, index * step)
            durations.append((time.perf_counter() - started_s) * 1000)
        return durations
    finally:
        os.close(fd)
