# SPDX-License-Identifier: Apache-2.0
"""How long a start takes with many records, and how much memory each of them costs.

    python -m memkv_server.bench.recovery --dir /srv/scratch --records 1000000

A store is filled, and then opened in a process of its own: once with what the page cache has of it, once without.
Memory is what that process has of its own (RssAnon, not the mapped file) after the start, less what it had before, and
less what mode direct keeps in its RAM pool, which has a bound of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from memkv_core.digests import digest
from memkv_core.errors import StorageError
from memkv_server.engine import open_engine
from memkv_server.engine.folder import SEGMENTS_FILE
from memkv_server.node_status import memory_of

BATCH: Final = 1024
KEY_BYTES: Final = 80
_HEADER_BYTES: Final = 512  # more than a record has around its value, footer entry included
_SEGMENTS_SPARE: Final = 4


def fill(path: Path, mode: str, count: int, value_bytes: int, segment_bytes: int) -> dict[str, Any]:
    """A store with ``count`` records of random bytes, closed; its usage. Raises StorageError."""
    alignment = 4096 if mode == "direct" else 64
    record_bytes = -(-(value_bytes + _HEADER_BYTES) // alignment) * alignment + alignment
    capacity = count * record_bytes + _SEGMENTS_SPARE * segment_bytes
    engine = open_engine(mode, path, capacity, segment_bytes)
    try:
        namespace = engine.open_namespace("bench", b"{}")
        assert namespace is not None
        pool = os.urandom(value_bytes + BATCH)
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            keys = [b"%0*d" % (KEY_BYTES, number) for number in numbers]
            values = [memoryview(pool)[number % BATCH :][:value_bytes] for number in numbers]
            digests = [digest([value], 0) for value in values]
            reservation = engine.reserve(namespace, keys, [value_bytes] * len(keys), digests, 0, None)
            for extent, value in zip(reservation.extents, values, strict=True):
                if extent is not None:
                    extent[:] = value
            engine.commit(reservation)
            engine.tick()
        usage = dict(engine.usage())
    finally:
        engine.close()
    if usage["records"] != count:
        raise StorageError(f"{path} holds {usage['records']} records instead of {count}", remedy="use larger segments")
    return usage


def measure(path: Path, mode: str) -> dict[str, Any]:
    """Opens the store here and now: seconds until it could serve, and bytes of memory a record."""
    before = memory_of(os.getpid())["anonymous_bytes"]
    capacity = json.loads((path / "capacity.json").read_text())
    started_s, cpu_s = time.perf_counter(), time.process_time()
    engine = open_engine(mode, path / "store", capacity)
    seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    after = memory_of(os.getpid())["anonymous_bytes"]
    usage = engine.usage()
    pool = usage["drives"][0].get("memory_used_bytes", 0)
    engine.close()
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_s, 3),  # where other work is on the machine, this is what a start itself takes
        "recovery_seconds": round(usage["recovery_seconds"], 3),
        "bytes_per_record": round((after - before - pool) / usage["records"], 1),
        "records": usage["records"],
    }


def run(path: Path, mode: str, count: int, value_bytes: int, segment_bytes: int) -> dict[str, Any]:
    """Fills a store in an empty folder and measures two starts in processes of their own."""
    usage = fill(path / "store", mode, count, value_bytes, segment_bytes)
    (path / "capacity.json").write_text(json.dumps(usage["drives"][0]["capacity_bytes"]))
    result: dict[str, Any] = {"mode": mode, "value_bytes": value_bytes, "segments": usage["segments"]["sealed"] + 1}
    for name in ("cached", "cold"):
        fd = os.open(path / "store" / SEGMENTS_FILE, os.O_RDONLY)
        os.fsync(fd)
        if name == "cold":
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        command = [sys.executable, "-m", "memkv_server.bench.recovery", "--measure", str(path), "--mode", mode]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result[name] = json.loads(done.stdout)
    return result


def main() -> None:
    """The command line; one JSON object a mode on stdout."""
    parser = argparse.ArgumentParser(description="Seconds and memory of a start with many records.")
    parser.add_argument("--dir", type=Path, help="where stores are made, and removed again; on the drive to measure")
    parser.add_argument("--mode", default="file", choices=["file", "direct"])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=1024)
    parser.add_argument("--segment-bytes", type=int, default=64 << 20)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        result = measure(given.measure, given.mode)
    else:
        with tempfile.TemporaryDirectory(dir=given.dir) as folder:
            result = run(Path(folder), given.mode, given.records, given.value_bytes, given.segment_bytes)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
