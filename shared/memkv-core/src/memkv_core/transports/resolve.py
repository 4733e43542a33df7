# SPDX-License-Identifier: Apache-2.0
"""Names to addresses: the system's resolver knows no deadline, so each look-up runs on a thread of its own."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import Any, NamedTuple

from memkv_core.address import parse_address
from memkv_core.errors import ConnectError


class Resolved(NamedTuple):
    """What a socket needs to connect."""

    family: int
    sockaddr: tuple[Any, ...]


class Lookup:
    """The look-up of one "host:port", under way or ``done``; an IP address is done at once. Thread-safe."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._done = threading.Event()
        self._found: list[Resolved] = []
        self._error: OSError | None = None
        host, port = parse_address(server)
        if _is_ip(host):
            self._work(host, port)
            return
        try:
            threading.Thread(target=self._work, args=(host, port), name=f"memkv-resolve-{host}", daemon=True).start()
        except RuntimeError as error:  # no more threads, or the interpreter is going down
            self._error = OSError(str(error))
            self._done.set()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Waits for the answer, at most so long; whether it is there."""
        return self._done.wait(timeout_s)

    def addresses(self) -> list[Resolved]:
        """What was found, one at least; ConnectError when the name is unknown. To be asked when ``done``."""
        if self._found:
            return self._found
        error = self._error or OSError("no address")
        raise ConnectError(
            f"cannot resolve {self._server}: {error.strerror or error}",
            remedy="check MEMKV_SERVERS and the name service",
        ) from error

    def _work(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._found = [Resolved(family, sockaddr) for family, _, _, _, sockaddr in found]
        except OSError as error:
            self._error = error
        finally:
            self._done.set()


class Resolver:
    """Addresses to connect to: one that has proved good until it fails, else a name's in turn. Thread-safe."""

    def __init__(self) -> None:
        self._good: dict[str, Resolved] = {}
        self._lookups: dict[str, Lookup] = {}
        self._turns: dict[str, int] = {}

    def address(self, server: str) -> Resolved | Lookup:
        """Where to connect, or the look-up that is to be waited for. ConnectError when the name is unknown."""
        good = self._good.pop(server, None)  # until `proved` says so again
        if good is not None:
            return good
        lookup = self._lookups.get(server)  # one for all: a name service that hangs holds no more threads than that
        if lookup is None:
            lookup = self._lookups[server] = Lookup(server)
        if not lookup.done:
            return lookup
        self._lookups.pop(server, None)
        addresses = lookup.addresses()
        turn = self._turns.get(server, 0)
        self._turns[server] = turn + 1
        return addresses[turn % len(addresses)]

    def proved(self, server: str, address: Resolved) -> None:
        """A session was opened at this address."""
        self._good[server] = address


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
