# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import ctypes
import mmap
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core import buffers, limits
from memkv_core.buffers import Cursor, Region
from memkv_core.errors import InvalidArgumentError

SIZES = st.lists(st.integers(1, 40), max_size=30)


def views_of(sizes: list[int]) -> tuple[bytearray, list[memoryview]]:
    """One block of memory and its views of these sizes, side by side."""
    memory = bytearray(index % 251 for index in range(sum(sizes)))
    views, at = [], 0
    for size in sizes:
        views.append(memoryview(memory)[at : at + size])
        at += size
    return memory, views


# -- flat views -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("buffer", "size"),
    [
        (b"abc", 3),
        (b"", 0),
        (bytearray(5), 5),
        (memoryview(b"abcd")[1:3], 2),
        (array.array("d", [1.0, 2.0]), 16),
        (mmap.mmap(-1, 4096), 4096),
        (np.zeros((2, 3, 4), np.float32), 96),
        (np.zeros(4, np.float16), 8),
        (np.zeros(4, np.bool_), 4),
        (np.zeros(3, ">i4"), 12),
        (np.zeros(7, np.uint8)[2:5], 3),
        (np.zeros(0, np.float32), 0),
        (np.zeros((3, 0, 2), np.uint8), 0),
        (np.float32(1.5), 4),
        ((ctypes.c_ubyte * 6)(), 6),
        ((ctypes.c_float * 2)(), 8),
    ],
)
def test_flat_view(buffer: Any, size: int) -> None:
    view = buffers.flat_view(buffer)
    assert (view.format, view.ndim, view.nbytes, len(view)) == ("B", 1, size, size)
    assert bytes(view) == memoryview(buffer).tobytes()


def test_a_flat_view_is_the_same_memory() -> None:
    values = np.arange(6, dtype=np.uint16).reshape(2, 3)
    buffers.flat_view(values)[:2] = b"\xff\xff"
    assert values[0, 0] == 0xFFFF


@pytest.mark.parametrize(
    "buffer",
    [
        "text",
        7,
        None,
        object(),
        [b"nested"],
        np.zeros((4, 6), np.uint8).T,
        np.zeros(10, np.uint8)[::2],
        memoryview(b"abcdef")[::-1],
    ],
)
def test_what_is_no_flat_memory(buffer: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        buffers.flat_view(buffer)
    assert caught.value.remedy


# -- parts ------------------------------------------------------------------------------------------------------------
def test_parts() -> None:
    assert [bytes(part) for part in buffers.parts_of(b"abc")] == [b"abc"]
    assert [bytes(part) for part in buffers.parts_of([b"a", b"", bytearray(b"bc")])] == [b"a", b"bc"]
    assert [bytes(part) for part in buffers.parts_of((b"a", np.frombuffer(b"bc", np.uint8)))] == [b"a", b"bc"]
    assert buffers.parts_of([]) == []
    assert buffers.parts_of(b"") == []
    assert buffers.total_bytes(buffers.parts_of([b"a", b"bc"])) == 3


@pytest.mark.parametrize(
    ("blocks", "flat"),
    [
        ([memoryview(b"abc"), memoryview(b"d")], True),
        ([memoryview(b"abc"), b"d"], False),
        ([memoryview(b"abc"), [memoryview(b"d")]], False),
        ([memoryview(b"abc"), memoryview(b"")], False),
        ([np.zeros(2, np.uint16).data], False),
        ([np.zeros((2, 2), np.uint8).data], False),
        ([np.zeros(4, np.uint8).data[::2]], False),
        ([], False),
    ],
)
def test_flat_views_are_known_as_such(blocks: list[Any], flat: bool) -> None:
    assert buffers.are_flat_views(blocks) == flat
    assert not buffers.are_flat_views(blocks, writable=True)


def test_flat_views_that_are_writable() -> None:
    writable = memoryview(bytearray(3))
    assert buffers.are_flat_views([writable, writable], writable=True)
    assert not buffers.are_flat_views([writable, memoryview(b"abc")], writable=True)
    writable.release()
    assert not buffers.are_flat_views([writable])


@pytest.mark.parametrize("target", [b"abc", [bytearray(1), b"x"], memoryview(b"abc"), np.frombuffer(b"ab", np.uint8)])
def test_a_target_is_writable(target: Any) -> None:
    buffers.parts_of(target)
    with pytest.raises(InvalidArgumentError, match="read-only"):
        buffers.parts_of(target, writable=True)


@given(SIZES, st.integers(0, 1200))
def test_prefix(sizes: list[int], size: int) -> None:
    memory, views = views_of(sizes)
    size = min(size, len(memory))
    prefix = buffers.prefix_parts(views, size)
    assert b"".join(prefix) == memory[:size]
    assert all(prefix)
    assert [view.nbytes for view in views] == sizes


# -- cursor -----------------------------------------------------------------------------------------------------------
@given(sizes=SIZES, moves=st.lists(st.integers(1, 100), min_size=60, max_size=60))
def test_cursor_against_plain_bytes(sizes: list[int], moves: list[int]) -> None:
    memory, views = views_of(sizes)
    cursor = Cursor(views)
    at = 0
    for move in moves:
        assert cursor.left == len(memory) - at
        window = b"".join(cursor.window())
        assert window == memory[at : at + len(window)]
        if not cursor.left:
            assert window == b""
            break
        assert window
        move = min(move, len(window))
        cursor.advance(move)
        at += move


@given(sizes=SIZES, moves=st.lists(st.integers(1, 60), min_size=1))
def test_cursor_fills_the_right_places(sizes: list[int], moves: list[int]) -> None:
    """As recvmsg_into does: what arrives in pieces of any size lies in its place."""
    memory, views = views_of(sizes)
    arriving = bytes((7 * index + 3) % 256 for index in range(len(memory)))
    cursor, at, turn = Cursor(views), 0, 0
    while cursor.left:
        size = moves[turn % len(moves)]
        turn += 1
        for view in cursor.window():
            piece = arriving[at : at + min(size, len(view))]
            view[: len(piece)] = piece
            at += len(piece)
            size -= len(piece)
            cursor.advance(len(piece))
            if not size:
                break
    assert memory == arriving


@pytest.mark.parametrize("count", [limits.IOV_MAX - 1, limits.IOV_MAX, limits.IOV_MAX + 1, 3000])
def test_a_window_has_no_more_parts_than_a_system_call_takes(count: int) -> None:
    memory, views = views_of([3] * count)
    cursor = Cursor(views)
    taken: list[bytes] = []
    while cursor.left:
        window = cursor.window()
        assert 1 <= len(window) <= limits.IOV_MAX
        taken.extend(bytes(view) for view in window)
        cursor.advance(sum(map(len, window)))
    assert b"".join(taken) == memory


def test_a_window_is_about_what_a_socket_takes() -> None:
    views = [memoryview(bytearray(limits.MIB)) for _ in range(64)]
    cursor = Cursor(list(views))
    while cursor.left:
        size = sum(map(len, cursor.window()))
        assert size <= limits.WINDOW_BYTES + limits.MIB
        assert size >= min(cursor.left, limits.WINDOW_BYTES // 2)
        cursor.advance(size)
    alone = Cursor([memoryview(bytearray(4 * limits.WINDOW_BYTES))])
    assert len(alone.window()) == 1


def test_a_window_follows_what_was_moved_last() -> None:
    cursor = Cursor([memoryview(bytearray(4096)) for _ in range(1024)])
    offered = []
    for size in (100_000, 300_000, 1, 2_000_000):
        cursor.advance(size)
        offered.append(sum(map(len, cursor.window())))
    for size, wanted in zip(offered, (limits.WINDOW_BYTES_MIN, 600_000, limits.WINDOW_BYTES_MIN, cursor.left)):
        assert wanted <= size <= wanted + 2 * 4096


def test_empty_cursor() -> None:
    cursor = Cursor([])
    assert (cursor.left, cursor.window()) == (0, [])
    cursor.advance(0)


def test_region() -> None:
    memory = bytearray(4096)
    region = Region(memoryview(memory))
    assert region.size_bytes == 4096
    region.close()
    region.close()
    assert region.size_bytes == 0
    memory.extend(b"more")  # nothing holds on to it
