# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memkv_core.metrics.histogram import BUCKETS, LATENCY_POWERS, cumulative, sparse


@given(st.lists(st.integers(0, 2**40), max_size=50))
def test_a_bucket_counts_what_lies_below_its_bound(values: list[int]) -> None:
    buckets = [0] * BUCKETS
    for value in values:
        buckets[value.bit_length()] += 1
    found = cumulative(sparse(buckets), LATENCY_POWERS, unit=1)
    assert found == [(2**power, sum(value < 2**power for value in values)) for power in LATENCY_POWERS] + [
        (float("inf"), len(values))
    ]
    assert cumulative(buckets, LATENCY_POWERS, unit=1) == found
