# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.limits import META_BYTES_MAX
from memkv_lmcache.layout import OPAQUE, Layout, LayoutBook, decode
from memkv_lmcache.limits import LAYOUTS_COUNT_MAX

LAYOUTS = st.builds(
    Layout,
    st.lists(st.lists(st.integers(0, 1 << 20), max_size=4).map(tuple), max_size=8).map(tuple),
    st.lists(st.sampled_from(["bfloat16", "uint8", "float8_e4m3fn"]), max_size=8).map(tuple),
    st.sampled_from(["", "KV_2LTD", "KV_MLA_FMT"]),
)


@given(LAYOUTS)
def test_a_layout_comes_back_from_its_meta(layout: Layout) -> None:
    assert decode(layout.encode()) == layout
    assert len(layout.encode()) <= META_BYTES_MAX


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_layout(meta: bytes) -> None:
    assert decode(meta) is None


@pytest.mark.parametrize("meta", [b"", b"{}", b"[]", b'{"v":2,"fmt":"","shapes":[],"dtypes":[]}', b"null"])
def test_other_formats_are_no_layout(meta: bytes) -> None:
    assert decode(meta) is None


def test_the_digest_knows_shape_and_dtype() -> None:
    base = Layout.of([(2, 4, 64, 128)], ["torch.bfloat16"])
    others = [
        Layout.of([(2, 4, 128, 64)], ["torch.bfloat16"]),
        Layout.of([(2, 4, 64, 128)], ["torch.float16"]),
        Layout.of([(2, 4, 64, 128), (1, 4, 64, 128)], ["torch.bfloat16"] * 2),
    ]
    assert len({each.digest for each in (base, *others)}) == 4
    assert base.digest == Layout.of([[2, 4, 64, 128]], ["bfloat16"], "KV_2LTD").digest


@pytest.mark.parametrize("shapes", [[], [()], [(4096,)]])
def test_plain_bytes_have_no_digest(shapes: list[tuple[int, ...]]) -> None:
    assert Layout.of(shapes, ["torch.uint8"] * len(shapes)).digest == OPAQUE


def test_the_book_asks_for_what_may_be_there() -> None:
    book = LayoutBook()
    assert book.candidates("g", None) == (OPAQUE,)
    assert book.candidates("g", "a") == ("a", OPAQUE)  # a fresh process: a serializer may be at work
    book.note("g", "a")
    assert book.candidates("g", "a") == ("a",)
    assert book.candidates("g", None) == ("a",)
    assert book.candidates("other", None) == (OPAQUE,)
    book.note("s", OPAQUE)
    assert book.candidates("s", "a") == (OPAQUE,)


def test_the_book_is_bounded() -> None:
    book = LayoutBook()
    for index in range(20):
        book.note("g", f"{index}")
    assert book.candidates("g", None) == tuple(f"{index}" for index in range(19, 19 - LAYOUTS_COUNT_MAX, -1))
