# SPDX-License-Identifier: Apache-2.0
"""One contender in a process of its own: a line of JSON in, a line of JSON out.

    {"do": "shape", "block_bytes": N, "block_count": N}          -> {"versions": "..."}
    {"do": "round", "sets": N, "questions": N}                   -> {"put_s": [...], "get_s": [...], ...}
    {"do": "stop"}                                               -> ends

The first line that it writes is {"ready": true} or {"error": "why it cannot be measured"}.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from memkv_benchmarks.contenders import make
from memkv_benchmarks.contenders.base import Blocks, Contender, ContenderError

_SEED = 7
_MOVE_S_MAX = 1.0


class Worker:
    """Rounds of one contender. Every block that is read is compared with what was put, outside of the time."""

    def __init__(self, contender: Contender, name: str) -> None:
        self._contender = contender
        self._name = name
        self._stamp = 0
        self._source: Blocks = np.zeros((0, 0), np.uint8)
        self._target: Blocks = self._source

    def shape(self, block_bytes: int, block_count: int) -> dict[str, Any]:
        """New blocks of one size for the rounds to come."""
        random = np.random.default_rng(_SEED)
        self._source, self._target = (_shared(block_count, block_bytes) for _ in range(2))
        self._source[:] = random.integers(0, 256, self._source.shape, dtype=np.uint8)
        self._target[:] = 0
        self._contender.prepare(self._source, self._target)
        return {"versions": self._contender.versions()}

    def round(self, sets: int, questions: int) -> dict[str, Any]:
        """Puts and gets ``sets`` batches with other bytes each, asks for all keys of each, then for one, often."""
        count, size = self._source.shape
        keys = [[f"{self._name}-{size}-{number}-{place}" for place in range(count)] for number in range(sets)]
        put_s, get_s, exists_s = [], [], []
        stamps = []
        for names in keys:
            stamps.append(self._mark())
            put_s.append(_timed(self._contender.put, names))
            if sum(put_s) > _MOVE_S_MAX or self._contender.synthetic:  # a slow one does fewer: the others wait for it
                keys = keys[: len(put_s)]
                break
        verified = 0
        for names, stamp in zip(keys, stamps):
            self._target[:] = 0
            get_s.append(_timed(self._contender.get, names))
            verified += self._verify(stamp)
            begun_s = time.perf_counter()
            found = self._contender.exists(names)
            exists_s.append(time.perf_counter() - begun_s)
            if found != len(names):
                raise ContenderError(f"{len(names) - found} of {len(names)} keys are not there")
            if sum(get_s) > _MOVE_S_MAX:
                break
        answers = {"put_s": put_s, "get_s": get_s, "exists_s": exists_s, "one_s": self._ask(keys[0][:1], questions)}
        for names in keys:
            self._contender.forget(names)
        return {**answers, "verified_bytes": verified}

    def _ask(self, names: Sequence[str], questions: int) -> list[float]:
        asked = []
        for _ in range(questions):
            begun_s = time.perf_counter()
            self._contender.exists(names)
            asked.append(time.perf_counter() - begun_s)
        return asked

    def _mark(self) -> int:
        """Makes every block another one; the mark."""
        self._stamp += 1
        self._source[:, :8] = np.frombuffer(self._stamp.to_bytes(8, "little"), np.uint8)
        return self._stamp

    def _verify(self, stamp: int) -> int:
        if self._contender.synthetic:
            return 0
        self._source[:, :8] = np.frombuffer(stamp.to_bytes(8, "little"), np.uint8)
        if not np.array_equal(self._source, self._target):
            raise ContenderError("other bytes came back than were put")
        return self._source.nbytes


def _shared(block_count: int, block_bytes: int) -> Blocks:
    """Memory that another process can be given, as an engine's host pool can be; the same for every contender."""
    memory = mmap.mmap(-1, block_count * block_bytes)
    return np.frombuffer(memory, np.uint8).reshape(block_count, block_bytes)


def _timed(call: Callable[[Sequence[str]], float | None], keys: Sequence[str]) -> float:
    begun_s = time.perf_counter()
    own_s = call(keys)
    return time.perf_counter() - begun_s if own_s is None else own_s


def serve(name: str, commands: TextIO, answers: TextIO) -> None:
    """Answers commands until "stop" or the end of them. An error is an answer, and ends it."""

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        contender = make(name)
    except Exception as error:  # noqa: BLE001 -- whatever a contender's library raises is why it cannot be measured
        answer({"error": f"{type(error).__name__}: {error}" if not isinstance(error, ContenderError) else str(error)})
        return
    try:
        worker = Worker(contender, name)
        answer({"ready": True})
        for line in commands:
            command = json.loads(line)
            what = command.pop("do")
            if what == "stop":
                break
            answer(worker.shape(**command) if what == "shape" else worker.round(**command))
    except Exception as error:  # noqa: BLE001 -- as above
        answer({"error": f"{type(error).__name__}: {error}"})
    finally:
        contender.close()


if __name__ == "__main__":
    # Libraries print what they like on stdout: the answers have a stream of their own, everything else goes to stderr.
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, own)
