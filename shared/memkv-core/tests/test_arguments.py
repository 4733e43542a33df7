# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core import arguments, limits
from memkv_core.errors import InvalidArgumentError


def test_keys() -> None:
    given_keys: list[bytes | str] = ["text", b"bytes", "ключ", b"k" * 512, "k"]
    encoded = [b"text", b"bytes", "ключ".encode(), b"k" * 512, b"k"]
    assert arguments.checked_keys(given_keys) == encoded
    assert arguments.checked_keys(tuple(given_keys)) == encoded
    assert arguments.checked_keys([]) == []


@pytest.mark.parametrize(
    "keys",
    [
        "one key",
        b"a key",
        [b""],
        [""],
        [b"k" * 513],
        ["é" * 257],
        [b"good", b"k" * 513],
        [7],
        [None],
        [bytearray(b"k")],
        [("a",)],
        ["\ud800"],
    ],
)
def test_bad_keys(keys: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        arguments.checked_keys(keys)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_blocks() -> None:
    parts, sizes = arguments.checked_blocks([b"abc", [b"d", b"", b"ef"], b"", []], 4, writable=False)
    assert [[bytes(part) for part in block] for block in parts] == [[b"abc"], [b"d", b"ef"], [], []]
    assert sizes == [3, 3, 0, 0]


@pytest.mark.parametrize(
    ("blocks", "writable"),
    [
        ([b"a"], False),
        ([b"a", b"b", b"c"], False),
        (["text", b"b"], False),
        (b"ab", False),
        ([bytearray(1), b"read-only"], True),
        ([bytearray(1), np.zeros((2, 2), np.uint8).T], True),
        ([bytearray(1), None], True),
    ],
)
def test_bad_blocks(blocks: Any, writable: bool) -> None:
    with pytest.raises(InvalidArgumentError):
        arguments.checked_blocks(blocks, 2, writable=writable)


def test_a_value_over_the_limit() -> None:
    page = np.zeros(limits.MIB, np.uint8)  # the same page many times: the size counts, not the memory
    most = limits.VALUE_BYTES_MAX // limits.MIB
    assert arguments.checked_blocks([[page] * most], 1, writable=False)[1] == [limits.VALUE_BYTES_MAX]
    with pytest.raises(InvalidArgumentError, match="split"):
        arguments.checked_blocks([[page] * most + [b"x"]], 1, writable=False)
    roomy = [bytearray(page)] * (most + 1)
    assert arguments.checked_blocks([roomy], 1, writable=True)[1] == [limits.VALUE_BYTES_MAX + limits.MIB]


def test_metas() -> None:
    assert arguments.checked_metas([None, b"", b"m" * limits.META_BYTES_MAX], 3)[::2] == [b"", b"m" * 4096]
    assert arguments.checked_metas((), 0) == []


@pytest.mark.parametrize("metas", [b"ab", "xy", [b"a"], [b"a", "text"], [b"a", 7], [b"a", b"m" * 4097]])
def test_bad_metas(metas: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        arguments.checked_metas(metas, 2)


def test_timeouts() -> None:
    assert arguments.checked_timeout_s(None, 5000) == 5.0
    assert arguments.checked_timeout_s(1, 5000) == 0.001
    assert arguments.checked_timeout_s(limits.TIMEOUT_MS_MAX, 5000) == 600.0
    for timeout_ms in (0, -1, limits.TIMEOUT_MS_MAX + 1):
        with pytest.raises(InvalidArgumentError):
            arguments.checked_timeout_s(timeout_ms, 5000)
    with pytest.raises(InvalidArgumentError):
        arguments.checked_timeout_s(float("nan"), 5000)  # type: ignore[arg-type]


# -- parts of a batch --------------------------------------------------------------------------------------------------
@given(st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_taken_and_spread(start: int, count: int, run: bool) -> None:
    """A run of positions and a list of them mean the same."""
    values = [f"value {number}" for number in range(20)]
    positions = range(start, start + count) if run else list(range(start, start + count))
    assert list(arguments.taken(values, positions)) == values[start : start + count]
    target = ["old"] * 20
    arguments.spread(values[:count], positions, target)
    assert target == ["old"] * start + values[:count] + ["old"] * (20 - start - count)


# -- frames -----------------------------------------------------------------------------------------------------------
@given(count=st.integers(0, 3 * limits.FRAME_KEYS_MAX))
def test_cut_by_count(count: int) -> None:
    frames = list(arguments.cut(range(count), None))
    assert [position for frame in frames for position in frame] == list(range(count))
    assert all(0 < len(frame) <= limits.FRAME_KEYS_MAX for frame in frames)
    assert len(frames) == -(-count // limits.FRAME_KEYS_MAX)


@given(
    sizes=st.lists(st.integers(0, 3 * limits.FRAME_PAYLOAD_BYTES_TARGET), max_size=40),
    keep=st.integers(1, 3),
)
def test_cut_by_bytes(sizes: list[int], keep: int) -> None:
    positions = list(range(0, len(sizes), keep))  # a route's share: not all of the batch
    frames = list(arguments.cut(positions, sizes))
    assert [position for frame in frames for position in frame] == positions
    for frame in frames:
        assert frame
        total = sum(sizes[position] for position in frame)
        assert len(frame) == 1 or total <= limits.FRAME_PAYLOAD_BYTES_TARGET
    for one, two in pairwise(frames):
        total = sum(sizes[position] for position in one) + sizes[two[0]]
        assert total > limits.FRAME_PAYLOAD_BYTES_TARGET, "cut too early"


def test_cut_of_many_empty_values() -> None:
    frames = list(arguments.cut(range(2 * limits.FRAME_KEYS_MAX + 1), [0] * (2 * limits.FRAME_KEYS_MAX + 1)))
    assert [len(frame) for frame in frames] == [limits.FRAME_KEYS_MAX, limits.FRAME_KEYS_MAX, 1]
