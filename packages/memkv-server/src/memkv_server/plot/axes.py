# SPDX-License-Identifier: Apache-2.0
"""Axes: round numbers that enclose what is shown, and where a value lies between the ends. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_STEPS: Final = (1, 2, 2.5, 5, 10)
_DECADE_STEPS: Final = (1, 2, 5)
_LOG_TICKS_MAX: Final = 9
_LOG_EPSILON: Final = 1e-9


@dataclass(frozen=True)
class Axis:
    """A label, ticks as (value, text), and whether it is logarithmic. The outer ticks are the ends."""

    label: str
    ticks: Sequence[tuple[float, str]]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the first tick, 1 at the last."""
        first, last = self._place(self.ticks[0][0]), self._place(self.ticks[-1][0])
        return (self._place(value) - first) / (last - first)

    def _place(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def linear_axis(label: str, low: float, high: float, text: Callable[[float], str] = "{:g}".format) -> Axis:
    """From a round number at or below ``low`` to one at or above ``high``."""
    return Axis(label, [(value, text(value)) for value in ticks(low, high)])


def log_axis(label: str, low: float, high: float, text: Callable[[float], str] = "{:g}".format) -> Axis:
    """The same in decades; 1, 2 and 5 of each where there are few. Both must be positive."""
    if not 0 < low <= high:
        raise ValueError(f"no logarithmic axis from {low} to {high}")
    first, last = math.floor(math.log10(low) + _LOG_EPSILON), math.ceil(math.log10(high) - _LOG_EPSILON)
    last = max(last, first + 1)
    values = [10.0**power for power in range(first, last + 1)]
    fine = [step * 10.0**power for power in range(first, last) for step in _DECADE_STEPS] + [10.0**last]
    inner = [value for value in fine if value <= low * (1 + _LOG_EPSILON)]
    outer = [value for value in fine if value >= high * (1 - _LOG_EPSILON)]
    fine = [value for value in fine if inner[-1] <= value <= outer[0]]
    chosen = fine if 2 <= len(fine) <= _LOG_TICKS_MAX else values
    return Axis(label, [(value, text(value)) for value in chosen], logarithmic=True)


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that enclose both."""
    span = max(high - low, 1e-9)
    base = 10 ** math.floor(math.log10(span / 5))
    step = next(base * factor for factor in _STEPS if span / (base * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]
