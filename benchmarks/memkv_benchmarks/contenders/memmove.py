# SPDX-License-Identifier: Apache-2.0
"""The limit of memory: each block copied once, one thread, no other process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memkv_benchmarks.contenders.base import Blocks


class Memmove:
    """A put copies the source's rows to the side, a get from there into the target's, as ``memmove`` does it."""

    synthetic = False

    def versions(self) -> str:
        return f"memmove by numpy {np.__version__}"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        self._source, self._target = source, target
        self._kept: dict[str, Blocks] = {}
        self._free: list[Blocks] = []

    def put(self, keys: Sequence[str]) -> None:
        side = self._free.pop() if self._free else np.empty_like(self._source)
        self._kept[keys[0]] = side
        for mine, row in zip(side, self._source):
            np.copyto(mine, row)

    def get(self, keys: Sequence[str]) -> None:
        for row, mine in zip(self._target, self._kept[keys[0]]):
            np.copyto(row, mine)

    def exists(self, keys: Sequence[str]) -> int:
        return len(keys)

    def forget(self, keys: Sequence[str]) -> None:
        if keys[0] in self._kept:
            self._free.append(self._kept.pop(keys[0]))

    def close(self) -> None:
        """Memory goes with the process."""


make = Memmove
