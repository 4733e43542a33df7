# SPDX-License-Identifier: Apache-2.0
"""Where a value's bytes land, however its reader cuts it: gaps, overlaps and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Ask = Callable[..., dict[str, Any]]
RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=6)


@given(ranges=RANGES, tail=st.integers(0, 10))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_range_gets_its_bytes(ask: Ask, ranges: list[tuple[int, int]], tail: int) -> None:
    end = max(offset + size for offset, size in ranges)
    value = bytes((31 * at + 7) % 251 for at in range(end + tail))
    answer = ask("layout", value=value.hex(), ranges=ranges)
    assert answer["end"] == end
    assert answer["landed"] == [value[offset : offset + size].hex() for offset, size in ranges]
    at = 0
    whole = True
    for offset, size in sorted(ranges, key=lambda one: one[0]):
        whole = whole and offset == at
        at = offset + size
    assert answer["whole"] == whole
