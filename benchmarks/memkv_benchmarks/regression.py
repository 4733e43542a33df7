# SPDX-License-Identifier: Apache-2.0
"""What perfcheck compares: ratios of one run with those of the baseline. Pure.

A ratio of speeds (``get 1 MiB × 64 / C loopback``) must not fall, one of times (``exists / redis``) must not rise, by
more than the tolerance. Never an absolute figure: that would compare machines.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from memkv_benchmarks.rounds import SHAPES, Figures
from memkv_server.bench.plan import median_ratio

TOLERANCE_DEFAULT: Final = 0.25
# Whose speed beside which yardstick.
_SPEEDS: Final = (("memkv-tcp", "raw"), ("memkv-shm", "memmove"))
_TIMES: Final = (("memkv-tcp", "redis"),)
_WORDS: Final = {shape.block_bytes: shape.words for shape in SHAPES}


@dataclass(frozen=True)
class Verdict:
    """One ratio. ``measured`` is None where this run has it not, ``baseline`` where the baseline has it not."""

    name: str
    measured: float | None
    baseline: float | None
    tolerance: float

    @property
    def rises(self) -> bool:
        """Whether more is worse."""
        return self.name.startswith("exists")

    @property
    def limit(self) -> float | None:
        """The worst that passes."""
        if self.baseline is None:
            return None
        return self.baseline * (1 + self.tolerance if self.rises else 1 - self.tolerance)

    @property
    def is_worse(self) -> bool:
        """Whether it is beyond its tolerance. What cannot be compared is no failure; it is said, though."""
        if self.measured is None or self.limit is None:
            return False
        return self.measured > self.limit if self.rises else self.measured < self.limit


def ratios(figures: Mapping[str, Mapping[int, Figures]]) -> dict[str, float]:
    """The ratios that a run has, by name."""
    found: dict[str, float] = {}
    for ours, theirs in _SPEEDS:
        for size in figures.get(ours, {}):
            mine, other = figures[ours][size], figures.get(theirs, {}).get(size)
            if other is None or not mine.get_bytes_per_s or len(mine.get_bytes_per_s) != len(other.get_bytes_per_s):
                continue
            label = f"{_WORDS.get(size, size)}, {ours} / {theirs}"
            found[f"get {label}"] = median_ratio(mine.get_bytes_per_s, other.get_bytes_per_s)
            found[f"put {label}"] = median_ratio(mine.put_bytes_per_s, other.put_bytes_per_s)
    for ours, theirs in _TIMES:
        asked = [
            [median for figure in figures.get(name, {}).values() for median in figure.one_s] for name in (ours, theirs)
        ]
        if all(asked):
            found[f"exists, one key, {ours} / {theirs}"] = statistics.median(asked[0]) / statistics.median(asked[1])
    return found


def compare(measured: Mapping[str, float], baseline: Mapping[str, Any]) -> list[Verdict]:
    """Every ratio of either side. ``baseline``: {"ratios": {name: value}, "tolerances": {name: share}}."""
    known: Mapping[str, float] = baseline.get("ratios", {})
    tolerances: Mapping[str, float] = baseline.get("tolerances", {})
    default = baseline.get("tolerance", TOLERANCE_DEFAULT)
    return [
        Verdict(name, measured.get(name), known.get(name), tolerances.get(name, default))
        for name in [*known, *(name for name in measured if name not in known)]
    ]


def better(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """The better of two runs: what a busy machine spoiled once counts only if it does so twice."""
    merged = {**first, **second}
    for name in first.keys() & second.keys():
        pick = min if name.startswith("exists") else max
        merged[name] = pick(first[name], second[name])
    return merged
