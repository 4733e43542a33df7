# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from memkv_lmcache.ledger import Ledger


def test_each_key_is_new_once() -> None:
    ledger: Ledger[str] = Ledger()
    assert ledger.add("ab", [1, 2]) == ([("a", 1), ("b", 2)], [])
    assert ledger.add("bc", [2, 3]) == ([("c", 3)], [])
    assert ledger.discard("bx") == [("b", 2)]
    assert ledger.add("b", [4]) == ([("b", 4)], [])
    assert len(ledger) == 3


def test_the_oldest_fall_out_of_the_bound() -> None:
    ledger: Ledger[str] = Ledger(keys_max=2)
    assert ledger.add("abc", [1, 2, 3]) == ([("a", 1), ("b", 2), ("c", 3)], [("a", 1)])
    assert [key for key, _, _ in ledger.page(0, 9)] == ["b", "c"]


def test_pages_follow_each_other_while_keys_come_and_go() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.add("abcd", [1, 1, 1, 1])
    first = ledger.page(0, 2)
    ledger.discard("bc")
    ledger.add("e", [1])
    rest = ledger.page(first[-1][1], 9)
    assert [key for key, _, _ in first + rest] == ["a", "b", "d", "e"]


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError):
        Ledger[str]().add("ab", [1])
