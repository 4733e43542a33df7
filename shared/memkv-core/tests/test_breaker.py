# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from memkv_core.breaker import Breaker
from memkv_core.limits import BREAKER_FAILURES, BREAKER_PROBE_MS_MAX, BREAKER_PROBE_MS_MIN

LOWEST_S, HIGHEST_S = BREAKER_PROBE_MS_MIN / 1000, BREAKER_PROBE_MS_MAX / 1000


def opened(seed: int = 1, now_s: float = 100.0) -> Breaker:
    breaker = Breaker(seed=seed)
    assert breaker.failure(now_s, deadline_spent=True)
    return breaker


def test_a_spent_deadline_opens_it_at_once() -> None:
    breaker = Breaker()
    assert not breaker.open
    assert breaker.failure(0.0, deadline_spent=True)
    assert (breaker.open, breaker.opened_count) == (True, 1)


def test_other_failures_open_it_when_they_come_in_a_row() -> None:
    breaker = Breaker()
    outcomes = [breaker.failure(float(number)) for number in range(BREAKER_FAILURES)]
    assert outcomes == [False] * (BREAKER_FAILURES - 1) + [True]
    assert breaker.open


def test_a_success_between_starts_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(5):
        for _ in range(BREAKER_FAILURES - 1):
            assert not breaker.failure(0.0)
        breaker.success()
    assert not breaker.open


def test_further_failures_do_not_open_it_again() -> None:
    breaker = opened()
    assert not breaker.failure(101.0, deadline_spent=True)
    assert breaker.opened_count == 1


def test_a_success_closes_it() -> None:
    breaker = opened()
    breaker.success()
    assert not breaker.open
    assert not breaker.probe_due(1e9)
    assert not breaker.failure(0.0), "failures from before the success are forgotten"
    assert breaker.failure(0.0, deadline_spent=True)
    assert breaker.opened_count == 2


def delays(breaker: Breaker, count: int) -> list[float]:
    """When each of the next probes falls due after the one before."""
    found, now_s = [], 100.0
    for _ in range(count):
        step_s = 0.0
        while not breaker.probe_due(now_s + step_s):
            step_s += 0.001
            assert step_s < 10
        found.append(step_s)
        now_s += step_s
        breaker.probe_failed(now_s)
    return found


def test_probes_come_later_and_later_and_never_too_late() -> None:
    for seed in range(20):
        found = delays(opened(seed), 8)
        bound_s = LOWEST_S
        for delay_s in found:
            assert bound_s / 2 - 0.002 <= delay_s <= bound_s + 0.002
            bound_s = min(2 * bound_s, HIGHEST_S)


def test_probes_of_many_clients_do_not_fall_together() -> None:
    firsts = {round(delays(opened(seed), 1)[0], 3) for seed in range(50)}
    assert len(firsts) > 20


def test_a_success_starts_the_delays_again() -> None:
    breaker = opened()
    delays(breaker, 6)
    breaker.success()
    breaker.failure(100.0, deadline_spent=True)
    assert delays(breaker, 1)[0] <= LOWEST_S + 0.002


@pytest.mark.parametrize("deadline_spent", [False, True])
def test_no_probe_of_a_closed_one(deadline_spent: bool) -> None:
    breaker = Breaker()
    assert not breaker.probe_due(1e9)
    if not deadline_spent:
        breaker.failure(0.0)
        assert not breaker.probe_due(1e9)
