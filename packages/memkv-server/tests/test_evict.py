# SPDX-License-Identifier: Apache-2.0
"""The policy, in numbers."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from memkv_server.engine.evict import (
    EPOCHS,
    EPOCHS_PER_TURNOVER,
    HEAT_MASK,
    RANK_MAX,
    READS_MAX,
    Bar,
    ReinsertBudget,
    SecondChance,
    choose_survivors,
    heat_after_read,
    rank_of,
)
from memkv_server.engine.limits import REINSERT_SHARE_MAX

CANDIDATES = st.lists(st.tuples(st.integers(1, RANK_MAX), st.integers(64, 10_000)), max_size=60)


# -- heat -------------------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 1_000))
def test_heat_counts_reads_and_knows_the_last(steps: list[int], epoch: int) -> None:
    heat = 0
    for number, step in enumerate(steps, start=1):
        epoch += step
        heat = heat_after_read(heat, epoch)
        assert 0 < heat <= HEAT_MASK
        assert rank_of(heat, epoch) == 12 * min(number, READS_MAX)


@given(st.integers(0, HEAT_MASK), st.integers(0, 1_000))
def test_what_was_read_more_or_later_is_worth_no_less_and_what_was_not_read_nothing(heat: int, epoch: int) -> None:
    rank = rank_of(heat, epoch)
    assert (rank == 0) == (heat & READS_MAX == 0)
    assert 0 <= rank <= RANK_MAX
    assert rank_of(heat_after_read(heat, epoch), epoch) >= rank
    if (epoch - (heat >> 2)) % EPOCHS < EPOCHS - 1:  # the oldest age that can be told apart
        assert rank_of(heat, epoch + 1) <= rank


def test_two_reads_long_ago_are_worth_less_than_one_now() -> None:
    once, thrice = heat_after_read(0, 5), heat_after_read(heat_after_read(heat_after_read(0, 0), 0), 0)
    assert rank_of(once, 5) == 12 > rank_of(thrice, 5) == 6


# -- choice -----------------------------------------------------------------------------------------------------------
@given(CANDIDATES, st.integers(0, 100_000), st.integers(1, RANK_MAX))
def test_survivors_fit_the_budget_and_none_is_left_out_that_would(
    candidates: list[tuple[int, int]], budget: int, bar: int
) -> None:
    ranks = [candidate[0] for candidate in candidates]
    sizes = [candidate[1] for candidate in candidates]
    chosen = choose_survivors(ranks, sizes, budget, bar)
    assert chosen == sorted(set(chosen))
    total = sum(sizes[index] for index in chosen)
    assert total <= budget or not chosen
    assert all(ranks[index] >= bar for index in chosen)
    for index in set(range(len(candidates))) - set(chosen):
        assert ranks[index] < bar or total + sizes[index] > budget


def test_the_highest_rank_comes_first_and_among_equals_the_older() -> None:
    assert choose_survivors([1, 3, 2, 3], [10, 10, 10, 10], 20) == [1, 3]
    assert choose_survivors([1, 3, 2, 3], [10, 10, 10, 10], 30) == [1, 2, 3]
    assert choose_survivors([2, 2, 2], [10, 10, 10], 20) == [0, 1]
    assert choose_survivors([2, 1, 2], [10, 10, 10], 30, bar=2) == [0, 2]
    assert choose_survivors([], [], 100) == []


# -- bar --------------------------------------------------------------------------------------------------------------
def test_the_bar_rises_where_much_is_worth_keeping_and_falls_again() -> None:
    bar = Bar(segment_bytes=1000, segment_count=20)
    assert bar.after([], []) == 1
    assert bar.after([5], [100]) == 1  # there is budget for all
    rich = [bar.after([30, 5], [500, 500]) for _ in range(20)]
    assert rich[-1] == 30
    poor = [bar.after([5], [100]) for _ in range(40)]
    assert poor[-1] == 1
    assert sorted(poor, reverse=True) == poor


@given(st.lists(CANDIDATES, max_size=30))
def test_the_bar_is_a_rank(segments: list[list[tuple[int, int]]]) -> None:
    bar = Bar(segment_bytes=100_000, segment_count=10)
    for segment in segments:
        ranks, sizes = [rank for rank, _ in segment], [size for _, size in segment]
        level = bar.after(ranks, sizes)
        assert 1 <= level <= RANK_MAX


# -- budget -----------------------------------------------------------------------------------------------------------
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


# -- all of it --------------------------------------------------------------------------------------------------------
def test_time_is_what_was_written() -> None:
    policy = SecondChance(segment_bytes=700, segment_count=10)
    assert (policy.epoch, policy.touched[0]) == (0, heat_after_read(0, 0))
    policy.written(999)
    assert policy.epoch == 0
    policy.copied(1)
    assert (policy.epoch, policy.touched[0]) == (1, heat_after_read(0, 1))
    policy.written(7_000)
    assert policy.epoch == 1 + EPOCHS_PER_TURNOVER
    assert policy.touched == bytes(heat_after_read(heat, policy.epoch) for heat in range(HEAT_MASK + 1))


def test_a_last_read_is_never_so_old_that_it_looks_new() -> None:
    """A record lives for one turnover at most, and ages within one can be told apart."""
    policy = SecondChance(segment_bytes=700, segment_count=10)
    draw = random.Random(5)
    for _ in range(50):
        policy.written(draw.randrange(1_000))
        heat = policy.touched[0]
        worth = [rank_of(heat, policy.epoch)]
        for _ in range(70):
            policy.written(100)
            worth.append(rank_of(heat, policy.epoch))
        assert worth == sorted(worth, reverse=True)
        assert worth[-1] > 0


@given(st.lists(CANDIDATES, min_size=1, max_size=40))
def test_write_amplification_is_bounded_whatever_is_read(segments: list[list[tuple[int, int]]]) -> None:
    policy = SecondChance(segment_bytes=100_000, segment_count=8)
    written = copied = 0
    for segment in segments:
        policy.written(60_000)
        written += 60_000
        heats = [1 + rank % READS_MAX for rank, _ in segment]
        sizes = [size for _, size in segment]
        for index in policy.choose(heats, sizes):
            policy.copied(sizes[index])
            copied += sizes[index]
        assert copied <= REINSERT_SHARE_MAX * written
