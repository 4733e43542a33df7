# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.errors import InvalidArgumentError
from memkv_server.keytext import checked_key, key_text, parse_key


@given(st.binary(max_size=512))
def test_what_is_printed_can_be_given_back(key: bytes) -> None:
    text = key_text(key)
    assert parse_key(text) == key
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


@pytest.mark.parametrize(
    ("text", "key"),
    [("k1", b"k1"), ("a b", b"a b"), ("\\x00\\\\x", b"\x00\\x"), ("é", "é".encode()), ("\udcff", b"\xff")],
)
def test_what_may_be_typed(text: str, key: bytes) -> None:
    assert parse_key(text) == key


@pytest.mark.parametrize("text", ["\\", "a\\n", "\\x1", "\\xzz", "", "k" * 513])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        checked_key(text)
