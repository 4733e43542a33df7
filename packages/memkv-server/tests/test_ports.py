# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
from pathlib import Path

import pytest

from memkv_core.address import Address
from memkv_core.errors import ConfigError
from memkv_server.ports import bind, bind_pair, bound_address, lasting_pairs

FREE = Address("127.0.0.1", 0)


def test_a_pair_of_free_ports_is_in_a_row() -> None:
    data, admin = bind_pair(FREE, FREE)
    with data, admin:
        assert bound_address(admin).port == bound_address(data).port + 1


def test_lasting_pairs_are_free_and_out_of_the_way_of_outgoing_connections() -> None:
    found = lasting_pairs("127.0.0.1", 5)
    assert len({address.port for address in found}) == 5
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(address.port + 1 < low for address in found)
    for sock in bind_pair(found[0], Address("127.0.0.1", found[0].port + 1)):
        sock.close()


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"the data port 127.0.0.1:\d+ is in use; stop what listens"):
            bind(address, "data")


def test_the_first_port_is_given_back_where_the_second_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        admin = Address("127.0.0.1", taken.getsockname()[1])
        free = bind(FREE, "data")
        data = bound_address(free)
        free.close()
        with pytest.raises(ConfigError, match="the admin port"):
            bind_pair(data, admin)
        bind(data, "data").close()


@pytest.mark.parametrize(
    ("host", "expected"), [("203.0.113.7", "no address of this machine"), ("no.such.host.invalid", "resolved")]
)
def test_an_address_of_another_machine(host: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        bind(Address(host, 0), "data")
