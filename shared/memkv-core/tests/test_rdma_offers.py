# SPDX-License-Identifier: Apache-2.0
"""Which of a server's devices a local one is paired with."""

from __future__ import annotations

import pytest

from memkv_core.transports.rdma import choose_offer


def ipv4(*address: int) -> bytes:
    return bytes(10) + b"\xff\xff" + bytes(address)


def infiniband(subnet: int, guid: int) -> bytes:
    return subnet.to_bytes(8, "big") + guid.to_bytes(8, "big")


RAILS = [ipv4(10, 0, rail, 200) for rail in range(4)]


@pytest.mark.parametrize("rail", range(4))
def test_the_one_of_its_own_network(rail: int) -> None:
    for place in range(8):
        assert choose_offer(ipv4(10, 0, rail, 7), RAILS, place) == rail


def test_several_of_its_network_are_spread_over() -> None:
    offers = [ipv4(10, 0, 0, 1), ipv4(10, 9, 0, 1), ipv4(10, 0, 0, 2)]
    assert [choose_offer(ipv4(10, 0, 0, 7), offers, place) for place in range(4)] == [0, 2, 0, 2]
    fabric = [infiniband(0xFE80 << 48, guid) for guid in range(3)]
    assert [choose_offer(infiniband(0xFE80 << 48, 99), fabric, place) for place in range(4)] == [0, 1, 2, 0]


def test_where_there_is_none_any_is_tried() -> None:
    assert [choose_offer(ipv4(192, 168, 0, 7), RAILS, place) for place in range(5)] == [0, 1, 2, 3, 0]
    assert choose_offer(ipv4(10, 0, 0, 7), [b"", ipv4(10, 0, 0, 1)], 0) == 1
    assert choose_offer(ipv4(10, 0, 0, 7), [b""], 3) == 0
