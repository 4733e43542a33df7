# SPDX-License-Identifier: Apache-2.0
"""The limit of TCP over loopback: the C program of ``memkv bench --compare raw``. It neither keeps nor verifies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from memkv_benchmarks.contenders.base import Blocks, ContenderError
from memkv_core.errors import MemKVError
from memkv_server.bench.plan import Plan
from memkv_server.bench.raw import RawLoopback

_SECONDS: Final = 0.25  # of a call
_REGION_BYTES: Final = 64 << 20


class Raw:
    """A call runs many batches, and says how long one of them took."""

    synthetic = True

    def __init__(self) -> None:
        try:
            self._program = RawLoopback()
        except MemKVError as error:
            raise ContenderError(str(error)) from None

    def versions(self) -> str:
        return "raw_loopback.c at -O2, one connection, nothing kept, nothing verified"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        count, size = source.shape
        self._bytes = count * size
        # As many as leave a processor's cache between two rounds, and no more: each run touches them anew.
        batches = min(4, max(1, _REGION_BYTES // self._bytes))
        self._plan = Plan(block_bytes=size, batch=count, batches=batches, seconds=_SECONDS, slices=1)

    def put(self, keys: Sequence[str]) -> float | None:
        return self._move("put")

    def get(self, keys: Sequence[str]) -> float | None:
        return self._move("get")

    def _move(self, operation: str) -> float:
        return float(self._bytes / self._program.run(operation, self._plan))

    def exists(self, keys: Sequence[str]) -> int:
        return len(keys)

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        self._program.__exit__(None, None, None)


make = Raw
