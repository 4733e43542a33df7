# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.auth import admin_token
from memkv_server.dashboard.login import SESSION_S, Sessions

NEW, OLD, OTHER = (admin_token(key * 32) for key in (b"n", b"o", b"x"))


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_cookie_is_good_until_its_time_is_over(clock: Clock) -> None:
    sessions = Sessions([NEW], clock)
    cookie = sessions.issue()
    assert sessions.is_open(cookie)
    assert Sessions([NEW], clock).is_open(cookie), "the node was restarted"
    clock.now_s += SESSION_S
    assert not sessions.is_open(cookie)


def test_a_cookie_ends_with_the_key(clock: Clock) -> None:
    cookie = Sessions([OLD], clock).issue()
    assert Sessions([NEW, OLD], clock).is_open(cookie)
    assert not Sessions([NEW], clock).is_open(cookie)


def test_the_token_is_not_in_the_cookie_and_the_cookie_is_no_token(clock: Clock) -> None:
    sessions = Sessions([NEW], clock)
    cookie = sessions.issue()
    assert NEW not in cookie
    assert not sessions.is_token(cookie)
    assert cookie != sessions.issue()


def test_tokens_of_either_key_log_in() -> None:
    sessions = Sessions([NEW, OLD])
    assert [sessions.is_token(each) for each in (NEW, OLD, f" {NEW}\n", OTHER, "", NEW[:-1])] == [True] * 3 + [
        False
    ] * 3
    assert sessions.cookie_name != Sessions([OTHER]).cookie_name


@given(st.text(max_size=200), st.integers(0, 99), st.characters())
def test_an_altered_cookie_is_refused(text: str, place: int, sign: str) -> None:
    sessions = Sessions([NEW])
    cookie = sessions.issue()
    altered = cookie[: place % len(cookie)] + sign + cookie[place % len(cookie) + 1 :]
    assert not sessions.is_open(text)
    assert sessions.is_open(altered) == (altered == cookie)
    assert not sessions.is_open(None)
