# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from memkv_core.transports.ports import choose_gid, choose_port, unknown_device
from memkv_core.transports.verbs import DeviceSpec, DeviceUnavailableError, Gid, Port, PortState

MAPPED = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
LINK_LOCAL = b"\xfe\x80" + bytes(13) + b"\x01"
GLOBAL = b"\x20\x01" + bytes(13) + b"\x01"


def port(number: int = 1, state: PortState = PortState.ACTIVE, gids: tuple[Gid, ...] = ()) -> Port:
    return Port(number, state, 4, 0, "Ethernet", gids)


def test_the_first_active_port_is_taken() -> None:
    ports = [port(1, PortState.DOWN), port(2)]
    assert choose_port(DeviceSpec("a"), ports).number == 2
    assert choose_port(DeviceSpec("a", 2), ports).number == 2
    with pytest.raises(DeviceUnavailableError, match="a is not active: port 1 is DOWN; check the cable"):
        choose_port(DeviceSpec("a", 1), ports)
    with pytest.raises(DeviceUnavailableError, match="a has no port 3; it has 1, 2"):
        choose_port(DeviceSpec("a", 3), ports)


def test_the_gid_that_routes_is_taken() -> None:
    table = (
        Gid(0, LINK_LOCAL, "RoCE v1"),
        Gid(1, LINK_LOCAL, "RoCE v2"),
        Gid(2, MAPPED, "RoCE v1"),
        Gid(3, MAPPED, "RoCE v2"),
        Gid(4, GLOBAL, "RoCE v2"),
        Gid(5, bytes(16), "RoCE v2"),
    )
    chosen = [choose_gid(DeviceSpec("a"), port(gids=part)).place for part in (table, table[:2], table[4:])]
    assert chosen == [3, 1, 4]
    assert choose_gid(DeviceSpec("a", 1, 4), port(gids=table)).value == GLOBAL
    assert choose_gid(DeviceSpec("a"), port(gids=(Gid(0, LINK_LOCAL, "IB"),))).place == 0
    with pytest.raises(DeviceUnavailableError, match="no GID at index 5; it has 0, 1, 2, 3, 4"):
        choose_gid(DeviceSpec("a", 1, 5), port(gids=table))
    with pytest.raises(DeviceUnavailableError, match="a port 1 has no GID; give its network interface"):
        choose_gid(DeviceSpec("a"), port(gids=table[5:]))


def test_a_name_that_nobody_has() -> None:
    assert str(unknown_device("x", [])) == "no RDMA device x; this host has none"
    assert str(unknown_device("x", ["a", "b"])) == "no RDMA device x; this host has a, b"
