# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.regions import Range, Regions, address_of, addresses_of

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12, unique_by=lambda span: span[0])
PIECES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=20)


def find(regions: Regions, pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    numbers, offsets = regions.find(
        np.array([address for address, _ in pieces], np.uint64), np.array([size for _, size in pieces], np.int64)
    )
    return list(zip(numbers.tolist(), offsets.tolist()))


@given(SPANS, PIECES)
def test_a_piece_is_found_where_it_is(spans: list[tuple[int, int]], pieces: list[tuple[int, int]]) -> None:
    """In the range that starts last at or before it, if all of it is in there; never in another, never beyond."""
    regions = Regions()
    ranges = [regions.add(address, size) for address, size in spans]
    for (address, size), (number, offset) in zip(pieces, find(regions, pieces)):
        last = max((each for each in ranges if each.address <= address), key=lambda each: each.address, default=None)
        if last is not None and address + size <= last.address + last.size_bytes:
            assert (number, offset) == (last.number, address - last.address)
        else:
            assert number == -1


def test_disjoint_ranges_are_all_found() -> None:
    regions = Regions()
    ranges = [regions.add(100 * at, 50) for at in range(20)]
    for each in ranges:
        assert find(
            regions, [(each.address, 50), (each.address + 49, 1), (each.address + 50, 1), (each.address + 49, 2)]
        ) == [
            (each.number, 0),
            (each.number, 49),
            (-1, 50),
            (-1, 49),
        ]


def test_numbers_are_not_used_twice_and_removal_is_idempotent() -> None:
    regions = Regions()
    first = regions.add(0, 10)
    regions.remove(first.number)
    regions.remove(first.number)
    assert find(regions, [(0, 1)]) == [(-1, 0)]
    assert regions.add(0, 10).number != first.number
    reserved = regions.reserve(100, 10)
    assert find(regions, [(100, 1)])[0][0] == -1
    regions.show(reserved)
    assert find(regions, [(100, 1)]) == [(reserved.number, 0)]
    assert regions.ranges[reserved.number] == Range(reserved.number, 100, 10)


def test_threads_add_and_look_up_at_once() -> None:
    regions = Regions()
    wrong: list[int] = []

    def work(thread: int) -> None:
        for turn in range(50):
            added = regions.add(1000 * (thread * 50 + turn), 100)
            if find(regions, [(added.address + 5, 10)]) != [(added.number, 5)]:
                wrong.append(added.number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(regions.ranges) == 200


@pytest.mark.parametrize("readonly", [True, False])
def test_addresses(readonly: bool) -> None:
    memory = np.arange(100, dtype=np.uint8)
    view = memory.data.toreadonly() if readonly else memory.data
    assert address_of(view) == memory.ctypes.data
    assert addresses_of([view[3:], view[50:60]]).tolist() == [memory.ctypes.data + 3, memory.ctypes.data + 50]
