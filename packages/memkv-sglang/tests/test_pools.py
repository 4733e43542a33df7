# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_sglang.pools import ALL_PAGES, BLOCK_GROUPS, TRAILING_PAGES, Verdict

FLAGS = st.lists(st.booleans(), max_size=12)


def test_all_pages_ends_at_the_first_hole() -> None:
    verdict = Verdict(5)
    verdict.restrict("indexer", ALL_PAGES, 0, [True, True, False, True, True])
    assert (verdict.pages, verdict.ends, verdict.pool_hits) == (2, [1, 2], {"indexer": 2})


def test_trailing_pages_gives_sparse_ends() -> None:
    verdict = Verdict(6)
    verdict.restrict("mamba", TRAILING_PAGES, 1, [False, True, False, True, False, False])
    assert (verdict.pages, verdict.ends, verdict.pool_hits) == (4, [2, 4], {"mamba": 4})


def test_pools_are_intersected_and_each_reports_its_own_bound() -> None:
    verdict = Verdict(6)
    verdict.restrict("mamba", TRAILING_PAGES, 1, [False, True, False, True, False, True])
    verdict.restrict("indexer", ALL_PAGES, 0, [True] * 5 + [False])
    assert (verdict.pages, verdict.ends, verdict.pool_hits) == (4, [2, 4], {"mamba": 6, "indexer": 5})


def test_nothing_is_usable_without_the_side_state() -> None:
    verdict = Verdict(3)
    verdict.restrict("mamba", TRAILING_PAGES, 1, [False] * 3)
    assert (verdict.pages, verdict.ends, verdict.pool_hits) == (0, [], {})


def test_block_groups_restricts_nothing_and_an_unknown_policy_restricts_most() -> None:
    verdict = Verdict(3)
    verdict.restrict("blocks", BLOCK_GROUPS, 0, [False] * 3)
    assert verdict.pages == 3
    verdict.restrict("later", "a_policy_of_tomorrow", 0, [True, False, True])
    assert verdict.pages == 1


@given(FLAGS, st.integers(1, 4))
def test_trailing_ends_by_definition(flags: Any, window: Any) -> None:
    verdict = Verdict(len(flags))
    verdict.restrict("swa", TRAILING_PAGES, window, flags)
    expected = [end for end in range(1, len(flags) + 1) if all(flags[max(0, end - window) : end])]
    assert verdict.ends == expected


@given(FLAGS, st.integers(0, 12))
def test_pages_behind_the_kv_are_not_looked_at(flags: Any, kv_pages: Any) -> None:
    kv_pages = min(kv_pages, len(flags))
    verdict = Verdict(kv_pages)
    verdict.restrict("indexer", ALL_PAGES, 0, flags)
    assert verdict.pages <= kv_pages


@pytest.mark.parametrize("policy", [ALL_PAGES, TRAILING_PAGES])
def test_no_kv_no_prefix(policy: Any) -> None:
    verdict = Verdict(0)
    verdict.restrict("x", policy, 1, [True])
    assert (verdict.pages, verdict.ends) == (0, [])
