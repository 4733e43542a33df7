# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_sglang.keymap import Ranks, block_keys, suffix, virtual_ranks, whole_pages
from memkv_sglang.limits import SUFFIX_BYTES_MAX


@pytest.mark.parametrize(
    ("model", "tp", "pp", "expected"),
    [
        ("org/llama", (0, 1), (0, 1), "_org-llama_0_1"),
        ("org/llama", (3, 8), (0, 1), "_org-llama_3_8"),
        ("org/llama", (3, 8), (1, 2), "_org-llama_3_8_pp1_2"),
        ("org/deepseek", None, (0, 1), "_org-deepseek"),
        ("org/deepseek", None, (1, 4), "_org-deepseek_pp1_4"),
        ("/models/tiny", (0, 1), (0, 1), "_-models-tiny_0_1"),
    ],
)
def test_the_suffix_is_the_documented_one(model: Any, tp: Any, pp: Any, expected: Any) -> None:
    assert suffix(model, tp, pp) == expected


@given(st.text(min_size=1, max_size=600), st.text(min_size=1, max_size=600))
def test_a_long_suffix_is_cut_and_stays_distinct(one: Any, other: Any) -> None:
    first, second = suffix(one, (0, 1), (0, 1)), suffix(other, (0, 1), (0, 1))
    assert len(first.encode("utf-8", "surrogatepass")) <= SUFFIX_BYTES_MAX
    assert (first == second) == (one.replace("/", "-") == other.replace("/", "-"))


def test_ranks_of_0_5_6_which_names_the_tensor_parallel_ones_only() -> None:
    config = SimpleNamespace(tp_rank=1, tp_size=2, is_mla_model=False, is_page_first_layout=True, model_name="m")
    assert Ranks.of(config) == Ranks(tp=(1, 2))


def test_data_parallel_ranks_share() -> None:
    config = SimpleNamespace(tp_rank=0, tp_size=1, dp_rank=3)
    assert Ranks.of(config) == Ranks()


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4, 8]))
def test_virtual_ranks_of_all_ranks_are_those_of_the_larger_size(size: Any, lcm: Any) -> None:
    owners = [owner for rank in range(size) for owner in virtual_ranks((rank, size), lcm)]
    assert owners == [(rank, max(size, lcm)) for rank in range(max(size, lcm))]


def test_keys_and_pages_with_split_heads() -> None:
    keys = block_keys(["a", "b"], ["_0", "_1"])
    assert keys == ["a_0", "a_1", "b_0", "b_1"]
    assert whole_pages([True, True, True, False], 2) == [True, False]
    assert block_keys(["a", "b"], ["_0"]) == ["a_0", "b_0"]
    assert whole_pages([True, False], 1) == [True, False]


def test_a_rank_is_numbered_over_the_stages() -> None:
    assert Ranks().index == 0
    assert [Ranks(tp=(tp, 2), pp=(pp, 3)).index for pp in range(3) for tp in range(2)] == [0, 1, 2, 3, 4, 5]
