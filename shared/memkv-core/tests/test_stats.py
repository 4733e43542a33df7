# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.stats import OPERATIONS, Latency, Recorder


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_upper_bounds_within_a_factor_of_two(elapsed_s: list[float], q: float) -> None:
    recorder = Recorder()
    for seconds in elapsed_s:
        recorder.call("get", seconds, 1, 1, {})
    latency = recorder.snapshot(0).latencies["get"]
    ordered = sorted(int(seconds * 1e6) for seconds in elapsed_s)
    exact = ordered[max(0, min(len(ordered), -int(-q * len(ordered) // 1)) - 1)]
    assert exact < latency.quantile_us(q) <= max(1, 2 * exact)
    assert latency.call_count == len(elapsed_s)
    assert latency.total_us == sum(int(seconds * 1e6) for seconds in elapsed_s)


def test_before_the_first_call() -> None:
    stats = Recorder().snapshot(0)
    assert set(stats.latencies) == set(OPERATIONS)
    assert stats.latencies["get"].quantile_us(0.5) == 0.0
    assert (stats.keys, stats.hits, stats.misses) == ({}, {}, {})


@pytest.mark.parametrize("elapsed_s", [0.0, 1e-7, 1e9])
def test_the_ends_of_the_histogram(elapsed_s: float) -> None:
    recorder = Recorder()
    recorder.call("put", elapsed_s, 1, 1, {})
    latency = recorder.snapshot(0).latencies["put"]
    assert sum(latency.buckets) == 1
    assert latency.quantile_us(1.0) > 0


def test_tallies() -> None:
    recorder = Recorder()
    recorder.call("put", 0.001, 4, 3, {"refused": 1}, sent_bytes=100, retries=1)
    recorder.call("get", 0.002, 5, 2, {"absent": 2, "corrupt": 1}, received_bytes=50)
    recorder.call("get", 0.002, 1, 0, {"absent": 1}, retries=2)
    stats = recorder.snapshot(7)
    assert stats.keys == {"put": 4, "get": 6}
    assert stats.hits == {"put": 3, "get": 2}
    assert stats.misses == {"refused": 1, "absent": 3, "corrupt": 1}
    assert (stats.sent_bytes, stats.received_bytes, stats.retries, stats.breaker_opened) == (100, 50, 3, 7)


def test_a_snapshot_stays_as_it_was() -> None:
    recorder = Recorder()
    recorder.call("get", 0.001, 1, 1, {"absent": 1})
    stats = recorder.snapshot(0)
    recorder.call("get", 0.001, 1, 1, {"absent": 1})
    assert (stats.keys["get"], stats.misses["absent"], stats.latencies["get"].call_count) == (1, 1, 1)


def test_many_threads() -> None:
    recorder = Recorder()

    def work() -> None:
        for _ in range(500):
            recorder.call("get", 1e-5, 2, 1, {"absent": 1}, received_bytes=10)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = recorder.snapshot(0)
    assert (stats.keys["get"], stats.misses["absent"], stats.received_bytes) == (8000, 4000, 40_000)
    assert stats.latencies["get"].call_count == sum(stats.latencies["get"].buckets) == 4000


def test_an_empty_latency() -> None:
    assert Latency().quantile_us(0.99) == 0.0
