# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_server.dashboard.history import History, LaneCount, Sample, point, sample_of, seconds_to_next
from memkv_server.dashboard.series import Series
from memkv_server.limits import HISTORY_SAMPLES_MAX, HISTORY_STEP_S
from memkv_server.rates import Activity, Rates


def counted(lane: int, requests: int, said_s: float, evicted_bytes: int = 0) -> dict[int, LaneCount]:
    """A lane that has answered so many gets of two keys, one of them a hit of 1000 bytes."""
    got = {
        "requests": requests,
        "keys": 2 * requests,
        "hits": requests,
        "bytes_in": 0,
        "bytes_out": 1000 * requests,
        "duration": {"buckets": {"7": requests}},
    }
    return {lane: LaneCount(said_s, {(lane, "get"): got}, evicted_bytes, 10 * requests)}


def test_a_sample_is_what_was_done_between_two_looks() -> None:
    history = History()
    history.observe(100, {**counted(0, 10, 1.0), **counted(1, 0, 1.0)})
    assert history.since(0) == [], "one look tells nothing of a rate"
    history.observe(105, {**counted(0, 20, 6.0, 500), **counted(1, 10, 3.0)})
    sample = history.last
    assert sample is not None
    got = sample.rates.of("get")
    assert (sample.at_s, got.requests, got.hits, got.bytes) == (105, 2 + 5, 7, 7000)
    assert (sample.evicted_bytes, sample.used_bytes) == (100, 300)
    assert sample.rates.hit_ratio == 0.5


def test_a_lane_that_says_nothing_or_begins_anew_makes_no_nonsense() -> None:
    history = History()
    history.observe(100, counted(0, 100, 1.0, 900))
    history.observe(105, counted(0, 100, 1.0, 900))
    assert history.last is not None
    assert history.last.rates.operations == {}
    history.observe(110, counted(0, 10, 11.0, 50))
    assert (history.last.rates.of("get").requests, history.last.evicted_bytes) == (1, 5)
    history.observe(115, {})
    assert history.last.rates.of("get").requests == 0


def test_the_ring_is_bounded_by_an_hour() -> None:
    assert HISTORY_SAMPLES_MAX * HISTORY_STEP_S == 3600
    history = History()
    for number in range(HISTORY_SAMPLES_MAX + 10):
        history.observe(number * 5, counted(0, number, number * 5 + 1.0))
    samples = history.since(0)
    assert len(samples) == HISTORY_SAMPLES_MAX
    assert [sample.at_s for sample in history.since(samples[-3].at_s)] == [sample.at_s for sample in samples[-2:]]


finite = st.floats(0, 1e12)
activities = st.builds(
    Activity, finite, finite, finite, finite, st.dictionaries(st.integers(0, 63), st.integers(1, 10**9), max_size=5)
)
samples = st.builds(
    Sample,
    st.integers(1, 10**10),
    st.builds(Rates, finite, st.dictionaries(st.sampled_from(["get", "put"]), activities)),
    finite,
    st.integers(0, 10**15),
)


@given(samples)
def test_a_sample_goes_to_a_peer_and_back(sample: Sample) -> None:
    back = sample_of(json.loads(json.dumps(sample.as_json())))
    assert (back.at_s, back.used_bytes) == (sample.at_s, sample.used_bytes)
    for name, activity in sample.rates.operations.items():
        if activity.requests >= 0.001:
            assert back.rates.of(name).requests == pytest.approx(activity.requests, abs=0.001)
            assert back.rates.of(name).buckets == activity.buckets


@pytest.mark.parametrize("value", [{}, {"t": 1}, {"t": "x", "seconds": 1, "ops": {}}, {"t": 1, "seconds": 1, "ops": 3}])
def test_what_is_no_sample_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        sample_of(value)


def made(at_s: int, gets: float) -> Sample:
    return Sample(at_s, Rates(5, {"get": Activity(gets, gets, gets / 2, gets * 10, {10: int(gets)})}), 1.0, 7)


def test_the_samples_of_nodes_are_laid_over_one_another() -> None:
    series = Series(count_max=3, step_s=5)
    series.add("a", [made(5, 10), made(10, 20)])
    seen = series.revision
    assert [each["nodes"] for each in series.points()] == [1, 1]
    series.add("b", [made(10, 30)])
    (changed,) = series.points(seen)
    assert (changed["t"], changed["nodes"], changed["get_keys"], changed["hit_ratio"]) == (10, 2, 50, 0.5)
    assert (changed["get_bytes"], changed["evicted_bytes"], changed["used_bytes"]) == (500, 2, 14)
    assert 0.0005 < changed["get_p50"] < changed["get_p99"] < 0.00103
    assert series.points(series.revision) == []


def test_a_sample_counts_once_and_an_hour_is_kept() -> None:
    series = Series(count_max=3, step_s=5)
    for _ in range(2):
        series.add("a", [made(at_s, 1) for at_s in (5, 10, 15, 20)])
    assert [(each["t"], each["nodes"]) for each in series.points()] == [(10, 1), (15, 1), (20, 1)]
    assert (series.last_of("a"), series.last_of("b")) == (20, 0)


def test_a_moment_without_gets_has_no_ratio_and_no_latency() -> None:
    empty = point([Sample(5, Rates(5, {}))])
    assert (empty["hit_ratio"], empty["get_p50"], empty["put_p99"], empty["get_bytes"]) == (None, None, None, 0)


def test_samples_are_at_whole_steps() -> None:
    at_s, seconds = seconds_to_next()
    assert at_s % HISTORY_STEP_S == 0
    assert 0 < seconds <= HISTORY_STEP_S
