# SPDX-License-Identifier: Apache-2.0
"""Takes turns: each round has every contender do the same, one after the other, so that all see the same weather."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

_WORKER: Final = Path(__file__).with_name("worker.py")
_STOP_S: Final = 60.0
_SLOW_S: Final = 8.0  # a contender that takes longer for a round is measured in one: the others wait for it
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Shape:
    """A batch. ``sets`` batches are put and then read in a round, fewer where that takes long."""

    block_bytes: int
    block_count: int
    sets: int

    @property
    def batch_bytes(self) -> int:
        return self.block_bytes * self.block_count

    @property
    def words(self) -> str:
        size = self.block_bytes
        return f"{size >> 20} MiB × {self.block_count}" if size >= 1 << 20 else f"{size >> 10} KiB × {self.block_count}"


SHAPES: Final = (
    Shape(16 << 10, 256, 12),
    Shape(64 << 10, 64, 12),
    Shape(1 << 20, 64, 2),
    Shape(4 << 20, 64, 1),
)


@dataclass
class Figures:
    """One contender at one shape: a value for each round."""

    versions: str = ""
    put_bytes_per_s: list[float] = field(default_factory=list)
    get_bytes_per_s: list[float] = field(default_factory=list)
    exists_s: list[float] = field(default_factory=list)  # of a batch
    one_s: list[float] = field(default_factory=list)  # the median question for one key
    verified_bytes: int = 0
    error: str | None = None

    def add(self, answer: Mapping[str, Any], shape: Shape) -> None:
        """A round's answer."""
        for speeds, seconds in ((self.put_bytes_per_s, answer["put_s"]), (self.get_bytes_per_s, answer["get_s"])):
            speeds.append(shape.batch_bytes * len(seconds) / sum(seconds))
        self.exists_s.append(_median(answer["exists_s"]))
        self.one_s.append(_median(answer["one_s"]))
        self.verified_bytes += answer["verified_bytes"]


class Process:
    """A worker. ``ask`` raises RuntimeError with its error."""

    def __init__(self, name: str, python: str) -> None:
        environment = {**os.environ, **_ONE_THREAD, "LMCACHE_LOG_LEVEL": "ERROR", "LMCACHE_TRACK_USAGE": "false"}
        self._process = subprocess.Popen(
            [python, str(_WORKER), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def start(self) -> None:
        """Waits until it is ready."""
        self._read()

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write('{"do": "stop"}\n')
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def run(
    contenders: Mapping[str, str],
    shapes: Iterable[Shape],
    rounds: int,
    *,
    questions: int = 200,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[int, Figures]]:
    """``contenders``: name -> the Python that runs it. Figures by name and block size; the first round only warms."""
    result: dict[str, dict[int, Figures]] = {name: {} for name in contenders}
    with ExitStack() as stack:
        alive: dict[str, Process] = {}
        broken: dict[str, str] = {}
        for name, python in contenders.items():
            process = stack.enter_context(Process(name, python))
            try:
                process.start()
                alive[name] = process
            except RuntimeError as error:
                broken[name] = str(error)
                say(f"{name}: {error}")
        for shape in shapes:
            say(f"{shape.words}: {', '.join(alive)}")
            result_of = {name: result[name].setdefault(shape.block_bytes, Figures()) for name in contenders}
            _shape(alive, broken, result_of, shape, rounds, questions)
            for name, why in broken.items():
                result_of[name].error = why
    return result


def _shape(
    alive: dict[str, Process],
    broken: dict[str, str],
    figures: Mapping[str, Figures],
    shape: Shape,
    rounds: int,
    questions: int,
) -> None:
    slow: set[str] = set()
    for number in range(rounds + 1):
        for name in [name for name in alive if name not in slow or number < 2]:
            begun_s = time.monotonic()
            try:
                if number == 0:
                    described = alive[name].ask(
                        do="shape", block_bytes=shape.block_bytes, block_count=shape.block_count
                    )
                    figures[name].versions = described["versions"]
                answer = alive[name].ask(do="round", sets=shape.sets, questions=questions)
            except RuntimeError as error:
                broken[name] = str(error)
                del alive[name]
                continue
            if time.monotonic() - begun_s > _SLOW_S:
                slow.add(name)
            if number:
                figures[name].add(answer, shape)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def python_of(environment: str, given: Mapping[str, str], own: str = sys.executable) -> str:
    """The interpreter of an environment: as given, or the one that runs this."""
    return given.get(environment, own)
