# SPDX-License-Identifier: Apache-2.0
"""Keys are dealt out in proportion to capacity, and stay where they are when another drive comes or goes."""

from __future__ import annotations

import xxhash

from memkv_server.engine.placement import SLOT_COUNT, homes, slot_of


def test_shares_are_in_proportion_to_capacity() -> None:
    table = homes(["/a", "/b", "/c"], [1 << 40, 2 << 40, 1 << 40])
    shares = [table.count(drive) / SLOT_COUNT for drive in range(3)]
    assert abs(shares[0] - 0.25) < 0.03
    assert abs(shares[1] - 0.5) < 0.03
    assert abs(shares[2] - 0.25) < 0.03


def test_a_drive_more_takes_its_share_and_moves_nothing_else() -> None:
    before = homes(["/a", "/b"], [10, 10])
    after = homes(["/a", "/b", "/c"], [10, 10, 10])
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {2}
    assert abs(len(moved) / SLOT_COUNT - 1 / 3) < 0.03


def test_the_order_of_the_list_does_not_matter() -> None:
    names = ["/a", "/b", "/c"]
    one, other = homes(names, [1, 2, 3]), homes(names[::-1], [3, 2, 1])
    assert [names[drive] for drive in one] == [names[::-1][drive] for drive in other]


def test_one_drive_has_it_all() -> None:
    assert set(homes(["/a"], [1])) == {0}


def test_keys_spread_over_the_slots() -> None:
    slots = [slot_of(xxhash.xxh3_128_digest(b"key %d" % number)) for number in range(20_000)]
    assert 0 <= min(slots) <= max(slots) < SLOT_COUNT
    assert len(set(slots)) > 0.95 * SLOT_COUNT
