# SPDX-License-Identifier: Apache-2.0
"""Binding the node's two ports, and finding free ones."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path
from typing import Final

from memkv_core.address import Address
from memkv_core.errors import ConfigError

PAIR_ATTEMPTS: Final = 64
LASTING_PORT_MIN: Final = 10_000


def bind(address: Address, what: str) -> socket.socket:
    """A bound TCP socket that does not listen yet. Raises ConfigError, one line, where the address cannot be had."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as error:
        raise ConfigError(
            f"the {what} address {address} cannot be resolved: {str(error.strerror).lower()}",
            remedy="use an address of this machine",
        ) from error
    family, kind, protocol, _name, target = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # no wait for connections in TIME_WAIT
        sock.bind(target)
    except OSError as error:
        sock.close()
        raise bind_error(address, what, error) from error
    return sock


def bind_error(address: Address, what: str, error: OSError) -> ConfigError:
    """The one line that says why a port could not be had, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"the {what} port {address} is in use",
            remedy="stop what listens there (`ss -ltnp` names it) or choose another port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"{address.host} is no address of this machine", remedy="see `ip address`, or use 0.0.0.0")
    if error.errno == errno.EACCES:
        return ConfigError(f"the {what} port {address} needs privileges", remedy="choose a port above 1023")
    return ConfigError(f"the {what} port {address} cannot be bound: {error.strerror}", remedy="choose another")


def bound_address(sock: socket.socket) -> Address:
    """What the system bound: the port that it chose where 0 was asked for."""
    host, port = sock.getsockname()[:2]
    return Address(host, port)


def bind_pair(data: Address, admin: Address) -> tuple[socket.socket, socket.socket]:
    """(data, admin) sockets. Where both ports are 0, two free ones in a row, so that admin is data + 1."""
    if data.port or admin.port:
        return _bind_both(data, admin)
    for _ in range(PAIR_ATTEMPTS):
        first = bind(data, "data")
        port = bound_address(first).port
        try:
            return first, bind(Address(admin.host, port + 1), "admin")
        except (ConfigError, OverflowError):
            first.close()  # the next port is taken: try elsewhere
    raise ConfigError("no two free ports in a row were found", remedy="name the ports")


def lasting_pairs(host: str, count: int) -> list[Address]:
    """``count`` data addresses whose port and the next are free, for nodes that will come back to them.

    They lie below the range from which the system takes the ports of outgoing connections: one of those could sit on
    a port while its node is down.
    """
    candidates = list(range(LASTING_PORT_MIN, _outgoing_ports_from() - 1, 2))
    random.shuffle(candidates)
    found: list[Address] = []
    for port in candidates:
        if len(found) == count:
            break
        try:
            for sock in _bind_both(Address(host, port), Address(host, port + 1)):
                sock.close()
        except ConfigError:
            continue  # taken: the next one
        found.append(Address(host, port))
    if len(found) < count:
        raise ConfigError(f"there are no {count} pairs of free ports on {host}", remedy="name the first with --port")
    return found


def _outgoing_ports_from() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 32768  # the kernel's default


def _bind_both(data: Address, admin: Address) -> tuple[socket.socket, socket.socket]:
    first = bind(data, "data")
    try:
        return first, bind(admin, "admin")
    except ConfigError:
        first.close()
        raise
