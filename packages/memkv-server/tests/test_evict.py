# SPDX-License-Identifier: Apache-2.0
"""The policy, in numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memkv_server.engine.evict import ReinsertBudget, choose_survivors
from memkv_server.engine.limits import REINSERT_SHARE_MAX

CANDIDATES = st.lists(st.tuples(st.integers(1, 3), st.integers(64, 10_000)), max_size=60)


@given(CANDIDATES, st.integers(0, 100_000))
def test_survivors_fit_the_budget_and_none_is_left_out_that_would(
    candidates: list[tuple[int, int]], budget: int
) -> None:
    reads = [candidate[0] for candidate in candidates]
    sizes = [candidate[1] for candidate in candidates]
    chosen = choose_survivors(reads, sizes, budget)
    assert chosen == sorted(set(chosen))
    total = sum(sizes[index] for index in chosen)
    assert total <= budget or not chosen
    for index in set(range(len(candidates))) - set(chosen):
        assert total + sizes[index] > budget


def test_those_read_most_come_first_and_among_equals_the_younger() -> None:
    assert choose_survivors([1, 3, 2, 3], [10, 10, 10, 10], 20) == [1, 3]
    assert choose_survivors([1, 3, 2, 3], [10, 10, 10, 10], 30) == [1, 2, 3]
    assert choose_survivors([2, 2, 2], [10, 10, 10], 20) == [1, 2]
    assert choose_survivors([], [], 100) == []


@given(st.lists(st.tuples(st.integers(0, 1_000_000), st.integers(0, 1_000_000)), max_size=50))
def test_copying_stays_below_its_share_of_what_users_wrote(steps: list[tuple[int, int]]) -> None:
    budget = ReinsertBudget(segment_bytes=256_000, capacity_bytes=16 * 256_000)
    written = copied = 0
    for wrote, wants in steps:
        budget.earn(wrote)
        written += wrote
        allowed = min(wants, budget.for_one_segment_bytes)
        assert 0 <= budget.for_one_segment_bytes < 256_000
        budget.spend(allowed)
        copied += allowed
        assert copied <= REINSERT_SHARE_MAX * written + 1


def test_what_is_saved_has_a_bound() -> None:
    budget = ReinsertBudget(segment_bytes=1000, capacity_bytes=16_000)
    budget.earn(10**9)
    for _ in range(2):
        assert budget.for_one_segment_bytes == 750
        budget.spend(750)
    assert budget.for_one_segment_bytes == 500
    budget.spend(500)
    assert budget.for_one_segment_bytes == 0
