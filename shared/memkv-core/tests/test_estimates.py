# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core import Client
from memkv_core.estimates import Estimates, Pace
from memkv_core.limits import ESTIMATE_GETS_MIN, ESTIMATE_STALE_S, KIB, MIB
from memkv_core.testing.socket_server import SocketServer

SIZES = st.integers(64 * KIB, 512 * MIB)
SPEEDS = st.floats(1e6, 1e11)  # bytes a second
LATENCIES = st.floats(0, 0.05)


def taught(gets: list[int], speed: float, latency_s: float, *, at_s: float = 1.0) -> Pace:
    pace = Pace()
    for _ in range(20):
        pace.observe(0, 0, latency_s, at_s)
    for size in gets:
        pace.observe(size, 0, latency_s + size / speed, at_s)
    return pace


@given(st.lists(SIZES, min_size=ESTIMATE_GETS_MIN, max_size=20), SPEEDS, LATENCIES, SIZES)
def test_a_steady_server_is_told_exactly_or_too_slow(
    gets: list[int], speed: float, latency_s: float, wanted: int
) -> None:
    """Where the latency hides the transfer, a get is taken for slower than it is; never for faster."""
    pace = taught(gets, speed, latency_s)
    found = pace.expected_s(wanted, 1.0)
    assert found is not None
    assert found >= (latency_s + wanted / speed) * (1 - 1e-6)
    if all(size / speed > latency_s for size in gets):
        assert found == pytest.approx(latency_s + wanted / speed, rel=1e-6)


@given(
    st.lists(st.tuples(st.integers(0, 512 * MIB), st.integers(0, 512 * MIB), st.floats(0, 60)), max_size=40),
    SIZES,
    SIZES,
)
def test_whatever_is_seen_more_bytes_take_no_less_and_a_queue_no_less(
    seen: list[tuple[int, int, float]], size: int, more: int
) -> None:
    pace = Pace()
    for moved, ahead, seconds in seen:
        pace.observe(moved, ahead, seconds, 1.0)
    found = pace.expected_s(size, 1.0)
    if found is None:
        assert sum(moved >= 64 * KIB for moved, _, _ in seen) < ESTIMATE_GETS_MIN
        return
    larger = pace.expected_s(size + more, 1.0)
    pace.queue_bytes += more
    behind = pace.expected_s(size, 1.0)
    assert larger is not None
    assert behind is not None
    assert 0 <= found <= larger
    assert behind == larger


@given(st.lists(st.tuples(SIZES, SPEEDS), min_size=ESTIMATE_GETS_MIN, max_size=30))
def test_the_speed_stays_within_what_was_seen(gets: list[tuple[int, float]]) -> None:
    pace = Pace()
    for size, speed in gets:
        pace.observe(size, 0, size / speed, 1.0)
    assert pace.seconds_per_byte is not None
    slowest, fastest = min(speed for _, speed in gets), max(speed for _, speed in gets)
    assert slowest * (1 - 1e-6) <= 1 / pace.seconds_per_byte <= fastest * (1 + 1e-6)


@given(SPEEDS, st.floats(2, 1000), st.booleans())
def test_a_change_of_speed_is_known_after_some_gets(speed: float, factor: float, slower: bool) -> None:
    pace = taught([64 * MIB] * 10, speed, 0)
    after = speed / factor if slower else speed * factor
    for _ in range(12):
        pace.observe(64 * MIB, 0, 64 * MIB / after, 2.0)
    found = pace.expected_s(64 * MIB, 2.0)
    assert found == pytest.approx(64 * MIB / after, rel=0.05)


def test_two_calls_at_a_time_are_no_slower_server() -> None:
    """Each finds the other under way and takes twice as long: the speed is what both have together."""
    pace = Pace()
    for _ in range(5):
        pace.observe(MIB, MIB, 2e-3, 1.0)
    assert pace.expected_s(MIB, 1.0) == pytest.approx(1e-3)
    pace.queue_bytes = MIB
    assert pace.expected_s(MIB, 1.0) == pytest.approx(2e-3)


def test_nothing_is_said_before_a_few_gets_and_after_a_while_without_any() -> None:
    pace = Pace()
    for number in range(ESTIMATE_GETS_MIN):
        assert pace.expected_s(MIB, 1.0) is None, number
        pace.observe(MIB, 0, 1.0, 1.0)
    assert pace.expected_s(MIB, 1.0 + ESTIMATE_STALE_S) == pytest.approx(1.0)
    assert pace.expected_s(MIB, 1.1 + ESTIMATE_STALE_S) is None
    for _ in range(ESTIMATE_GETS_MIN):  # what was known before counts for nothing now
        pace.observe(MIB, 0, 0.001, 100.0)
    assert pace.expected_s(MIB, 100.0) == pytest.approx(0.001)


def test_a_small_call_behind_a_large_one_says_nothing_of_the_latency() -> None:
    pace = Pace()
    pace.observe(0, 0, 0.001, 1.0)
    pace.observe(0, 64 * MIB, 5.0, 1.0)
    assert pace.latency_s == 0.001
    estimates = Estimates(["a"])
    estimates.observe_small("a", 0.001)
    estimates.begin({"a": MIB})
    estimates.observe_small("a", 5.0)
    assert estimates.snapshot(0.0)["a"].latency_ms == 1.0


def test_the_slowest_of_the_servers_that_are_used_counts() -> None:
    estimates = Estimates(["a", "b", "c"])
    for server, seconds in (("a", 0.001), ("b", 0.002)):
        for _ in range(ESTIMATE_GETS_MIN):
            estimates.observe(server, MIB, 0, seconds, 1.0)
    assert estimates.expected_s(2 * MIB, ["a", "b"], 1.0) == pytest.approx(0.002)
    assert estimates.expected_s(2 * MIB, ["a"], 1.0) == pytest.approx(0.002)  # all of it from one
    assert estimates.expected_s(3 * MIB, ["a", "b", "c"], 1.0) == pytest.approx(0.002)  # nothing is known of c
    assert estimates.expected_s(3 * MIB, ["c"], 1.0) is None
    assert estimates.expected_s(3 * MIB, [], 1.0) is None


def test_what_is_under_way_is_ahead_until_it_ends() -> None:
    estimates = Estimates(["a"])
    assert estimates.begin({"a": 5}) == {"a": 0}
    assert estimates.begin({"a": 7}) == {"a": 5}
    assert estimates.snapshot(0.0)["a"].queue_bytes == 12
    estimates.end({"a": 5})
    estimates.after_fork()
    assert estimates.snapshot(0.0)["a"].queue_bytes == 0


# -- in a client ------------------------------------------------------------------------------------------------------
@pytest.fixture
def client(make_config: Any) -> Iterator[Client]:
    with SocketServer([bytes(range(32))]) as server, Client(make_config(server.address)) as client:
        yield client


def test_a_client_knows_after_a_few_gets(client: Client) -> None:
    keys, block = [b"a", b"b"], bytes(128 * KIB)
    assert client.put(keys, [block, block]) == [True, True]
    targets = [bytearray(128 * KIB), bytearray(128 * KIB)]
    assert client.estimate(MIB) is None
    for _ in range(ESTIMATE_GETS_MIN):
        assert None not in client.get(keys, targets)
    client.exists(keys)
    first, more = client.estimate(MIB), client.estimate(64 * MIB)
    assert first is not None
    assert more is not None
    assert 0 < first < more
    [known] = client.estimates().values()
    assert known.bytes_per_s is not None
    assert known.latency_ms is not None
    assert known.queue_bytes == 0
    with pytest.raises(ValueError):
        client.estimate(-1)


def test_misses_and_puts_teach_nothing_of_the_speed(client: Client) -> None:
    block = bytes(128 * KIB)
    for number in range(5):
        client.put([b"%d" % number], [block])
        client.get([b"none"], [bytearray(128 * KIB)])
    assert client.estimate(MIB) is None


def test_declined_blocks_are_counted(client: Client) -> None:
    client.count_declined(3)
    client.count_declined(2)
    assert client.stats().misses == {"declined": 5}
