# SPDX-License-Identifier: Apache-2.0
"""From places to pieces, and the mover of plain memory."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.limits import REGIONS_MAX
from memkv_core.places import PART, Access, Places, RegionKind, RegionRequest
from memkv_core.regions import address_of
from memkv_server import movers
from memkv_server.movers import MemoryMover, PlaceError, Regions, pair


def request(number: int, size: int, access: int = 3) -> RegionRequest:
    return RegionRequest(number, access, RegionKind.RDMA, size)


def parts(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(list(rows), PART)


# -- regions ----------------------------------------------------------------------------------------------------------
@pytest.fixture(params=["few", "many"], autouse=True)
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for few parts, and by arrays as for many: both are to give the same."""
    monkeypatch.setattr(movers, "ARRAY_MIN", 1 << 20 if request.param == "few" else 1)


def test_a_part_is_resolved_by_its_region() -> None:
    regions = Regions()
    for number, address in ((7, 1000), (3, 5000), (9, 100)):
        regions.add(request(number, 100), address, number)
    addresses, keys = regions.resolve(parts((3, 0, 100), (9, 99, 1), (7, 100, 0), (3, 50, 50)), Access.READ)
    assert addresses.tolist() == [5000, 199, 1100, 5050]
    assert keys.tolist() == [3, 9, 7, 3]
    assert [len(each) for each in regions.resolve(parts(), Access.READ)] == [0, 0]


@pytest.mark.parametrize(
    "row",
    [
        (3, 0, 101), (3, 100, 1), (3, 101, 0), (3, 2**64 - 1, 1), (3, 2**64 - 1, 2**32 - 1), (3, 2**63, 2**32 - 1),
        (2, 0, 1), (4, 0, 1), (0, 0, 0), (2**32 - 1, 0, 1),
    ],
)  # fmt: skip
def test_a_part_outside_is_refused(row: tuple[int, int, int]) -> None:
    regions = Regions()
    with pytest.raises(PlaceError, match="no region"):
        regions.resolve(parts(row), Access.READ)
    regions.add(request(3, 100), 5000, 0)
    regions.add(request(1, 10), 50, 0)
    with pytest.raises(PlaceError, match="are not in region"):
        regions.resolve(parts((3, 0, 1), row), Access.READ)


def test_access_is_what_was_granted() -> None:
    regions = Regions()
    regions.add(request(1, 10, Access.READ), 0, 0)
    regions.add(request(2, 10, Access.WRITE), 0, 0)
    regions.resolve(parts((1, 0, 1)), Access.READ)
    regions.resolve(parts((2, 0, 1)), Access.WRITE)
    for number, access in ((1, Access.WRITE), (2, Access.READ)):
        with pytest.raises(PlaceError):
            regions.resolve(parts((number, 0, 1)), access)


def test_regions_are_bounded_replaced_and_given_back() -> None:
    regions = Regions()
    for number in range(REGIONS_MAX):
        regions.add(request(number, 10), number, 0)
    with pytest.raises(PlaceError, match="more than"):
        regions.add(request(REGIONS_MAX, 10), 0, 0)
    regions.add(request(5, 20), 77, 0)  # a number that is in use
    assert regions.resolve(parts((5, 19, 1)), Access.READ)[0].tolist() == [96]
    regions.remove(5)
    regions.remove(5)
    assert len(regions) == REGIONS_MAX - 1
    with pytest.raises(PlaceError):
        regions.resolve(parts((5, 0, 1)), Access.READ)


# -- pieces -----------------------------------------------------------------------------------------------------------
VALUES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 40), max_size=5),  # the sizes of its parts
        st.none() | st.integers(0, 100),  # a view, and how much shorter than its parts it is
    ),
    max_size=10,
)


@given(VALUES, st.booleans())
def test_pieces_move_each_value_to_its_place(values: list[tuple[list[int], int | None]], write: bool) -> None:
    """By a mover of several bytes a turn, both ways; and against a plain copy."""
    total = sum(sum(sizes) for sizes, _ in values)
    remote = bytearray(random.Random(1).randbytes(total + 1))
    rows, views, expected, at = [], [], bytearray(remote), 0
    for sizes, less in values:
        view = None if less is None else memoryview(bytearray(random.Random(at).randbytes(max(0, sum(sizes) - less))))
        views.append(view)
        if view is not None and write:
            expected[at : at + len(view)] = view
        for size in sizes:
            rows.append((1, at, size))
            at += size
    places = Places(np.array([len(sizes) for sizes, _ in values], np.uint16), np.array(rows, PART))
    addresses = places.parts["offset"] + np.uint64(address_of(memoryview(remote)))
    pieces = pair(places, addresses, np.zeros(len(rows), np.uint32), views)
    assert all(size > 0 for size in pieces.sizes.tolist())
    assert pieces.sizes.sum() == sum(len(view) for view in views if view is not None)
    before = bytes(remote)
    mover = MemoryMover(turn_bytes=7)
    move = mover.write(pieces, 1) if write else mover.read(pieces)
    turns = 0
    while not move.settled:
        mover.turn()
        turns += 1
    assert move.failure is None
    assert turns <= total
    if write:
        assert remote == expected
        return
    at = 0
    for (sizes, _), view in zip(values, views):
        if view is not None:
            assert bytes(view) == before[at : at + len(view)]
        at += sum(sizes)


def test_a_closed_mover_moves_nothing_more() -> None:
    remote, local = bytearray(100), memoryview(bytearray(b"x" * 100))
    places = Places(np.array([1], np.uint16), parts((1, 0, 100)))
    addresses = np.array([address_of(memoryview(remote))], np.uint64)
    pieces = pair(places, addresses, np.zeros(1, np.uint32), [local])
    mover = MemoryMover(turn_bytes=10)
    move = mover.write(pieces, 1)
    assert (move.settled, remote.count(b"x")) == (False, 10)
    done: list[bool] = []
    mover.close(lambda: done.append(move.settled))
    assert done == [True]
    assert move.failure == "the connection ended"
    assert mover.turn() is False
    assert remote.count(b"x") == 10
