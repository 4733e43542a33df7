# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_fakes import MambaPoolHost, MHATokenToKVPoolHost, hashes

from memkv_core.errors import ConfigError
from memkv_sglang.limits import SAVING_MARKS_COUNT, SAVING_WAIT_S
from memkv_sglang.saving import PrefillPace, Saving

PAGES = hashes(*range(100))


# -- the speed of prefill, seen from here -----------------------------------------------------------------------------
def test_the_speed_is_seen_from_what_was_missing_and_then_written() -> None:
    pace = PrefillPace()
    for prompt in range(3):
        keys = hashes(*range(1000 * prompt, 1000 * prompt + 40))
        pace.missing(keys, 10.0)
        assert prompt or pace.recompute_ms(1) is None
        pace.written(keys[:20], 10.2)  # a chunk of the prompt: 16 marked pages in 0.2 s
        pace.written(keys[20:], 10.4)  # and all 40 in 0.4 s
    found = pace.recompute_ms(100)
    assert found is not None
    assert 1_000 <= found <= 1_250


def test_a_prompt_that_is_asked_for_again_began_when_it_was_asked_for_first() -> None:
    pace = PrefillPace()
    for start in (0.0, 100.0, 200.0):
        keys = hashes(int(start), int(start) + 1)
        pace.missing(keys, start)
        pace.missing(keys, start + 1.5)
        pace.written(keys, start + 2.0)
    assert pace.recompute_ms(2) == pytest.approx(2_000)


def test_what_was_asked_for_long_ago_or_never_says_nothing() -> None:
    pace = PrefillPace()
    for number in range(5):
        key = hashes(number)
        pace.written(key, 1.0)
        pace.missing(key, 1.0)
        pace.written(key, 2.0 + SAVING_WAIT_S)
    assert pace.recompute_ms(1) is None


def test_marks_are_bounded() -> None:
    pace = PrefillPace()
    for first in range(0, 20_000, 100):
        pace.missing(hashes(*range(first, first + 1)), 1.0)
    for first in range(20_000, 20_000 + SAVING_MARKS_COUNT + 100):
        pace.missing(hashes(first), 1.0)
    assert len(pace._marks) == SAVING_MARKS_COUNT
    pace.missing([], 1.0)


# -- the rule ---------------------------------------------------------------------------------------------------------
@given(st.floats(0, 1e4), st.floats(1, 1e6), st.integers(1, 1000), st.floats(0, 1e6))
def test_a_hit_is_declined_where_it_saves_too_little(minimum: float, speed: float, pages: int, load_ms: float) -> None:
    saving = Saving(minimum, speed)
    assert saving.declines(pages, 16, load_ms) == (pages * 16 / speed * 1e3 - load_ms < minimum)


def test_what_is_not_known_is_loaded() -> None:
    assert not Saving(0, 100.0).declines(10, 16, None)
    assert not Saving(0, None).declines(10, 16, 1e9)


# -- in the backend ---------------------------------------------------------------------------------------------------
class Slow:
    """Has the KV pool's client expect a get to take this long."""

    def __init__(self, storage: Any, monkeypatch: pytest.MonkeyPatch, expected_ms: float | None) -> None:
        self.asked: list[int] = []
        self.declined: list[int] = []
        client = storage._bindings["kv"].client

        def estimate(count_bytes: int) -> float | None:
            self.asked.append(count_bytes)
            return expected_ms

        monkeypatch.setattr(client, "estimate", estimate)
        monkeypatch.setattr(client, "count_declined", self.declined.append)


def pool() -> MHATokenToKVPoolHost:
    return MHATokenToKVPoolHost(layout="page_first", layers=3, page_size=4)


@pytest.mark.parametrize(
    ("extra", "expected_ms", "pages"),
    [
        ({}, 1e9, 3),  # off by default
        ({"min_saving_ms": 0, "prefill_tokens_per_s": 1000}, 11.0, 3),  # 12 tokens: 12 ms
        ({"min_saving_ms": 0, "prefill_tokens_per_s": 1000}, 13.0, 0),
        ({"min_saving_ms": 5, "prefill_tokens_per_s": 1000}, 8.0, 0),
        ({"min_saving_ms": 5, "prefill_tokens_per_s": 1000}, 6.0, 3),
        ({"min_saving_ms": 5, "prefill_tokens_per_s": 1000}, None, 3),
        ({"min_saving_ms": 5}, 1e9, 3),  # how fast the engine is was not seen yet
    ],
)
def test_the_backend_declines(
    make: Any, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], expected_ms: float | None, pages: int
) -> None:
    source = pool()
    storage = make(source, extra=extra)
    storage.batch_set_v1(hashes(1, 2, 3), source.pages_at(0, 1, 2))
    slow = Slow(storage, monkeypatch, expected_ms)
    assert storage.batch_exists(hashes(1, 2, 3, 4)) == pages
    assert storage.batch_exists_v2(hashes(1, 2, 3, 4)).kv_hit_pages == pages
    assert slow.asked == ([3 * 3 * 4 * 2 * 4 * 2 * 2] * 2 if extra else [])
    assert slow.declined == ([] if pages else [3, 3])
    assert storage.exists(hashes(1)[0]) is True  # a question, no prefetch
    assert storage.batch_get_v1(hashes(1), source.pages_at(5)) == [True]  # who asks for the bytes gets them


def test_a_declined_prefix_has_no_side_state_either(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, mamba = pool(), MambaPoolHost()
    storage = make(source, extra={"min_saving_ms": 0, "prefill_tokens_per_s": 1e9})
    storage.register_mem_host_pool_v2(mamba, "mamba")
    storage.batch_set_v1(hashes(1), source.pages_at(0))
    Slow(storage, monkeypatch, 1.0)
    found = storage.batch_exists_v2(hashes(1), [])
    assert (found.kv_hit_pages, found.extra_pool_hit_pages) == (0, {})


def test_the_speed_is_learned_while_the_engine_works(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("memkv_sglang.backend.time.monotonic", lambda: now[0])
    source = pool()
    storage = make(source, extra={"min_saving_ms": 0})
    for number in range(10, 14):
        assert storage.batch_exists(hashes(number, number + 100)) == 0
        now[0] += 1.0  # two pages a second
        assert all(storage.batch_set_v1(hashes(number, number + 100), source.pages_at(0, 1)))
    Slow(storage, monkeypatch, 1_100.0)
    assert storage.batch_exists(hashes(10, 110)) == 0  # 1,000 ms to compute
    Slow(storage, monkeypatch, 900.0)
    assert storage.batch_exists(hashes(10, 110)) == 2


@pytest.mark.parametrize(
    "extra",
    [
        {"min_saving_ms": -1},
        {"min_saving_ms": "5"},
        {"min_saving_ms": True},
        {"min_saving_ms": float("inf")},
        {"prefill_tokens_per_s": 0},
        {"prefill_tokens_per_s": float("nan")},
    ],
)
def test_wrong_numbers_fail_the_start(make: Any, extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(extra))):
        make(extra=extra)
