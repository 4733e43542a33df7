# SPDX-License-Identifier: Apache-2.0
"""Server addresses: ``host``, ``host:port``, ``10.0.0.1:9900``, ``[::1]:9900``; parsed, nothing resolved.

The one text form that comes out is ``host:port`` (``[v6]:port``), lower case, so that two spellings of one
server are seen as the duplicate that they are.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from memkv_core.errors import ConfigError

PORT_DEFAULT: Final = 9900
_EXAMPLES: Final = "write host:9900, 10.0.0.1:9900 or [::1]:9900"
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class Address(NamedTuple):
    """A server's host (name or IP, without brackets) and TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, port_default: int = PORT_DEFAULT, *, port_min: int = 1) -> Address:
    """Parses one address; a missing port becomes ``port_default``. Raises ConfigError: the text, the cause.

    ``port_min=0`` lets a listener ask the system for a free port.
    """
    source = text.strip()
    if not source:
        raise ConfigError("the server address is empty", remedy=_EXAMPLES)
    if "://" in source:
        raise ConfigError(f"server address {source!r} has a scheme", remedy=f"leave it out: {_EXAMPLES}")
    host, port_text = _split(source)
    return Address(_host(host, source), _port(port_text, source, port_default, port_min))


def parse_addresses(texts: Iterable[str], port_default: int = PORT_DEFAULT) -> tuple[Address, ...]:
    """Parses a list of addresses in its order. Raises ConfigError for a bad or a repeated one."""
    found: dict[Address, str] = {}
    for text in texts:
        address = parse_address(text, port_default)
        if address in found:
            same = f"as {found[address]!r}" if found[address] != text else "twice"
            raise ConfigError(f"server {text!r} is listed {same}", remedy="list each server once")
        found[address] = text
    return tuple(found)


def _split(source: str) -> tuple[str, str | None]:
    if source.startswith("["):
        host, closed, rest = source[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ConfigError(f"server address {source!r} has an unclosed or misplaced bracket", remedy=_EXAMPLES)
        if ":" not in host:
            raise ConfigError(f"server address {source!r}: brackets hold an IPv6 address only", remedy=_EXAMPLES)
        return host, rest[1:] if rest else None
    if source.count(":") > 1:
        # "::1:9900" is also a valid IPv6 address: guessing which was meant would connect to the wrong place.
        raise ConfigError(f"server address {source!r} is IPv6 without brackets", remedy=_EXAMPLES)
    host, colon, port_text = source.partition(":")
    return host, port_text if colon else None


def _host(host: str, source: str) -> str:
    lowered = host.lower().rstrip(".")
    if ":" in host or re.fullmatch(r"[0-9.]+", lowered):
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            raise ConfigError(f"server address {source!r}: {host!r} is no IP address", remedy=_EXAMPLES) from None
    if not lowered or len(lowered) > 253 or not all(_LABEL.fullmatch(label) for label in lowered.split(".")):
        raise ConfigError(f"server address {source!r}: {host!r} is no host name", remedy=_EXAMPLES)
    return lowered


def _port(text: str | None, source: str, port_default: int, port_min: int) -> int:
    if text is None:
        return port_default
    port = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else -1
    if not port_min <= port <= 65535:
        raise ConfigError(
            f"server address {source!r}: port {text!r} is not a number from {port_min} to 65535",
            remedy=_EXAMPLES,
        )
    return port
