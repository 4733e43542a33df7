# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from memkv_core.errors import ConnectError
from memkv_core.transports.resolve import Lookup, Resolved, Resolver


class Names:
    """Stands in for the system's resolver."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known
        self.asked: list[str] = []
        self.hung = threading.Event()
        self.hung.set()

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        self.hung.wait(30)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.known[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names(a=["10.0.0.1"], b=["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names


def address(resolver: Resolver, server: str) -> Resolved:
    """The next address, waiting for the look-up."""
    while True:
        found = resolver.address(server)
        if isinstance(found, Resolved):
            return found
        assert found.wait(30)


def test_addresses_are_known_at_once() -> None:
    for server, family, sockaddr in (
        ("127.0.0.1:9900", socket.AF_INET, ("127.0.0.1", 9900)),
        ("[::1]:9900", socket.AF_INET6, ("::1", 9900, 0, 0)),
    ):
        lookup = Lookup(server)
        assert lookup.done
        assert lookup.addresses() == [Resolved(family, sockaddr)]
        assert Resolver().address(server) == Resolved(family, sockaddr)


def test_a_name(names: Names) -> None:
    lookup = Lookup("b:9900")
    assert lookup.wait(30)
    assert [found.sockaddr[0] for found in lookup.addresses()] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_an_unknown_name(names: Names) -> None:
    resolver = Resolver()
    for _ in range(2):
        with pytest.raises(ConnectError, match="cannot resolve nowhere:9900: Name or service not known"):
            address(resolver, "nowhere:9900")
    assert names.asked == ["nowhere", "nowhere"]


def test_addresses_take_turns_until_one_proves_good(names: Names) -> None:
    resolver = Resolver()
    first_four = [address(resolver, "b:9900").sockaddr[0] for _ in range(4)]
    assert first_four == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]
    good = address(resolver, "b:9900")
    for _ in range(3):
        resolver.proved("b:9900", good)
        asked = len(names.asked)
        assert address(resolver, "b:9900") == good
        assert len(names.asked) == asked, "what is good is not looked up"
    assert address(resolver, "b:9900") != good, "it was not proved again"


def test_one_look_up_for_all_who_ask(names: Names) -> None:
    names.hung.clear()
    resolver = Resolver()
    waiting = [resolver.address("a:9900") for _ in range(5)]
    assert all(isinstance(found, Lookup) and found is waiting[0] and not found.done for found in waiting)
    assert not Lookup("b:9900").wait(0.01)
    names.hung.set()
    assert address(resolver, "a:9900").sockaddr == ("10.0.0.1", 9900)
    assert names.asked.count("a") == 1


def test_no_more_threads(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_threads(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_threads)
    with pytest.raises(ConnectError, match="can't start new thread"):
        address(Resolver(), "a:9900")
