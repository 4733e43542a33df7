# SPDX-License-Identifier: Apache-2.0
"""Distributions over powers of two: an observation is one addition to a list.

``buckets[n]`` counts the values from ``2**(n-1)`` up to, and without, ``2**n`` of a unit; ``buckets[0]`` those below
one unit. A list of BUCKETS takes any value there is: ``buckets[int(value).bit_length()] += 1`` needs no check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

BUCKETS: Final = 64
MICROSECOND_S: Final = 1e-6
# What is exposed: 16 us to 8.4 s of a latency, 1 min to 1 year of an age. What is above is in +Inf.
LATENCY_POWERS: Final = range(4, 24)
AGE_POWERS: Final = range(6, 26)


def sparse(buckets: Sequence[int]) -> dict[str, int]:
    """The buckets that are not empty by their number as text: short, and addable, as JSON."""
    return {str(power): count for power, count in enumerate(buckets) if count}


def cumulative(
    buckets: Mapping[str, int] | Sequence[int], powers: range, unit: float = MICROSECOND_S
) -> list[tuple[float, int]]:
    """(upper bound in base units, how many values lie below it) for each of ``powers``, and at last +Inf."""
    counts = buckets if isinstance(buckets, Mapping) else sparse(buckets)
    counted = sorted((int(power), count) for power, count in counts.items())
    found: list[tuple[float, int]] = []
    position = seen = 0
    for power in powers:
        while position < len(counted) and counted[position][0] <= power:
            seen += counted[position][1]
            position += 1
        found.append((2**power * unit, seen))
    found.append((float("inf"), sum(count for _, count in counted)))
    return found
