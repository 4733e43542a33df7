# SPDX-License-Identifier: Apache-2.0
"""Names to addresses within a deadline: the system's resolver knows none, so it runs on a thread of its own."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from typing import Any, NamedTuple

from memkv_core.address import parse_address
from memkv_core.errors import ConnectError


class Resolved(NamedTuple):
    """What a socket needs to connect."""

    family: int
    sockaddr: tuple[Any, ...]


def _look_up(host: str, port: int) -> Resolved:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, sockaddr = found[0]
    return Resolved(family, sockaddr)


def resolve(server: str, deadline_s: float) -> Resolved:
    """The address of "host:port"; ConnectError when the name is unknown or the resolver takes too long."""
    host, port = parse_address(server)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _resolve_name(server, host, port, deadline_s)
    return _look_up(host, port)


def _resolve_name(server: str, host: str, port: int, deadline_s: float) -> Resolved:
    outcome: list[Resolved | OSError] = []

    def work() -> None:
        try:
            outcome.append(_look_up(host, port))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name=f"memkv-resolve-{host}", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline_s - time.monotonic()))
    result = outcome[0] if outcome else OSError(f"no answer in time for {host}")
    if isinstance(result, OSError):
        raise ConnectError(
            f"cannot resolve {server}: {result.strerror or result}", remedy="check MEMKV_SERVERS and the name service"
        ) from result
    return result
