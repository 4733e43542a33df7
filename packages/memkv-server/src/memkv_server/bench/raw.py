# SPDX-License-Identifier: Apache-2.0
"""The yardstick: a C program that moves the same batches over loopback TCP, compiled here, run in turns with ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from types import TracebackType
from typing import Final

from memkv_core.errors import ConfigError
from memkv_server.bench.plan import Plan

COMPILERS: Final = ("cc", "gcc", "clang")
RAW_OPERATIONS: Final = ("put", "get")
GRACE_S: Final = 60.0


class RawLoopback:
    """A compiled ``raw_loopback.c``. Use as a context manager: the binary goes at the end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="memkv-bench-")
        self._binary = Path(self._folder.name) / "raw_loopback"
        compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
        if compiler is None:
            self._folder.cleanup()
            raise ConfigError("no C compiler for --compare raw", remedy="install gcc, or leave the comparison out")
        with as_file(files("memkv_server.bench") / "raw_loopback.c") as source:
            done = subprocess.run(
                [compiler, "-O2", "-o", str(self._binary), str(source)], capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            self._folder.cleanup()
            first = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise ConfigError(f"{compiler} cannot compile the loopback program: {first}", remedy="see your compiler")

    def __enter__(self) -> RawLoopback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def run(self, operation: str, plan: Plan) -> float:
        """Bytes a second of one slice."""
        seconds = plan.slice_seconds if plan.rounds is None else 1.0
        sizes = (plan.block_bytes, plan.batch, plan.batches, plan.clients, seconds)
        done = subprocess.run(
            [str(self._binary), operation, *map(str, sizes)],
            capture_output=True, text=True, check=False, timeout=seconds + GRACE_S,
        )  # fmt: skip
        if done.returncode != 0:
            raise ConfigError(f"the loopback program failed: {done.stderr.strip()}", remedy="leave --compare raw out")
        said = json.loads(done.stdout)
        return float(said["bytes"]) / float(said["seconds"])
