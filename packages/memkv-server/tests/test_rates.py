# SPDX-License-Identifier: Apache-2.0
"""Rates from two statuses: what grew, over lanes, and what a lane that began anew counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_server.rates import Rates, counters, quantile_s, rates, together


def counted(requests: int, keys: int = 0, hits: int = 0, out: int = 0, buckets: dict[str, int] | None = None) -> Any:
    duration = {"sum": 0.0, "buckets": buckets or {}}
    return {"requests": requests, "keys": keys, "hits": hits, "bytes_in": 0, "bytes_out": out, "duration": duration}


def status(*lanes: dict[str, Any]) -> dict[str, Any]:
    return {"lanes": [{"index": index, "ops": ops} for index, ops in enumerate(lanes)]}


def test_what_grew_over_all_lanes() -> None:
    before = counters(status({"get": counted(10, 100, 50, 1000)}, {"get": counted(1, 10, 10, 100)}))
    after = counters(status({"get": counted(14, 140, 80, 3000)}, {"get": counted(3, 30, 20, 500)}))
    done = rates(before, after, 2.0)
    got = done.of("get")
    assert (got.requests, got.keys, got.hits, got.bytes) == (3.0, 30.0, 20.0, 1200.0)
    assert done.hit_ratio == pytest.approx(40 / 60)
    assert done.of("put").requests == 0


def test_a_lane_that_was_started_again_counts_from_nothing() -> None:
    before = counters(status({"get": counted(1000, 1000, 1000, 10**9, {"5": 1000})}))
    after = counters(status({"get": counted(4, 4, 4, 400, {"5": 4})}))
    got = rates(before, after, 1.0).of("get")
    assert (got.requests, got.bytes, dict(got.buckets)) == (4.0, 400.0, {5: 4})


def test_a_lane_that_is_new() -> None:
    got = rates({}, counters(status({"get": counted(6)})), 3.0).of("get")
    assert got.requests == 2.0


def test_no_keys_no_ratio() -> None:
    assert rates({}, counters(status({"get": counted(0)})), 1.0).hit_ratio is None
    assert Rates(1.0, {}).hit_ratio is None


def test_a_cluster() -> None:
    node = rates({}, counters(status({"get": counted(6, 6, 3, 60, {"3": 6})})), 1.0)
    both = together([node, node])
    assert (both.of("get").requests, both.of("get").bytes, both.hit_ratio) == (12.0, 120.0, 0.5)
    assert dict(both.of("get").buckets) == {3: 12}


def test_other_operations_are_left_out() -> None:
    assert set(counters(status({"get": counted(1), "ping": counted(1)}))) == {(0, "get")}


def test_quantiles() -> None:
    assert quantile_s({}, 0.5) is None
    assert quantile_s({5: 10}, 1.0) == pytest.approx(32e-6)
    assert quantile_s({5: 10}, 0.5) == pytest.approx(24e-6)
    assert quantile_s({0: 1}, 0.5) == pytest.approx(0.5e-6)
    assert quantile_s({5: 99, 20: 1}, 0.5) == pytest.approx((16 + 16 * 50 / 99) * 1e-6)


@given(st.dictionaries(st.integers(0, 40), st.integers(1, 1000), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_and_stay_within_their_buckets(buckets: dict[int, int], one: float, other: float) -> None:
    low, high = sorted((one, other))
    first, second = quantile_s(buckets, low), quantile_s(buckets, high)
    assert first is not None
    assert second is not None
    assert first <= second <= 2.0 ** max(buckets) * 1e-6
