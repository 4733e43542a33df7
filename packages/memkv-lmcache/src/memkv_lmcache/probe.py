# SPDX-License-Identifier: Apache-2.0
"""What answers where a MemKV node should: asked only after MemKV's own handshake has failed there.

A wrong port is the commonest mistake beside LMCache, which has two servers of its own; without this it would show as
nothing but misses.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from typing import Final

from memkv_core import Client
from memkv_core.address import parse_address
from memkv_core.guard import Guard
from memkv_core.limits import BREAKER_FAILURES
from memkv_lmcache.limits import CHECK_TIMEOUT_MS

_GUARD: Final = Guard("memkv_lmcache.probe")
_CHECK_KEY: Final = b"memkv-lmcache-check"
_QUIET_S: Final = 0.5

# LMCache 0.5.6, v1/protocol.py, ClientMetaMessage: command, length, format, dtype, location, shape, key. 5: HEALTH.
_LM_HEALTH: Final = struct.pack("iiiiiiiii150s", 5, 0, 1, 2, 0, 0, 0, 0, 0, b"memkv@1@0@0@half".ljust(150))
_LM_ANSWER_BYTES: Final = 36
_LM_SUCCESS: Final = struct.pack("i", 200)

# (what is sent, how the answer begins, who that is and what to do)
_STRANGERS: Final[tuple[tuple[bytes, tuple[bytes, ...], str], ...]] = (
    (
        b"",
        (b"\xff\0\0\0\0\0\0\0\1\x7f",),
        "an `lmcache server` (ZeroMQ) listens there; set MEMKV_SERVERS to the nodes of MemKV, port 9900 by default",
    ),
    (
        b"GET /v1/health HTTP/1.0\r\n\r\n",
        (b"HTTP/",),
        "an HTTP server listens there; a node's data port is its admin port less one, 9900 by default",
    ),
    (b"PING\r\n", (b"+PONG", b"-NOAUTH", b"-DENIED"), "a Redis server listens there; MEMKV_SERVERS names MemKV nodes"),
    (
        _LM_HEALTH,
        (_LM_SUCCESS,),
        "an `lm://` server of LMCache listens there; set MEMKV_SERVERS to the nodes of MemKV, port 9900 by default",
    ),
)


def stranger(server: str) -> str | None:
    """Who listens at ``host:port``, if it is one of the usual others; None where it says nothing that is known."""
    address = parse_address(server)
    for question, answers, words in _STRANGERS:
        try:
            answer = _ask(address, question)
        except OSError:  # refused, unreachable, closed: the client's own error says so better
            continue
        if answer.startswith(answers):
            return words
    return None


def unreachable_servers(client: Client, timeout_ms: int = CHECK_TIMEOUT_MS) -> dict[str, str]:
    """The servers that cannot be used, each with the cause in one line. Takes a second more at most."""
    # Enough keys that each server is asked for some, whatever the placement.
    keys = [_CHECK_KEY + b"-%d" % index for index in range(64 * len(client.servers))]
    for _ in range(BREAKER_FAILURES):  # a breaker opens at the third failure in a row, or at a spent deadline
        client.exists(keys, timeout_ms=timeout_ms)
    down = client.servers_down()
    return {server: stranger(server) or cause for server, cause in down.items()}


def report_strangers(client: Client, logger: logging.Logger) -> None:
    """Looks at every server once, on a thread of its own, and logs those that cannot be used: the start goes on."""
    threading.Thread(target=_report, args=(client, logger), name="memkv-first-look", daemon=True).start()


@_GUARD.guarded(miss=None)
def _report(client: Client, logger: logging.Logger) -> None:
    for server, cause in unreachable_servers(client).items():
        logger.error("MemKV server %s cannot be used: %s", server, cause)


def _ask(address: tuple[str, int], question: bytes) -> bytes:
    with socket.create_connection(address, timeout=_QUIET_S) as connection:
        if question:
            connection.sendall(question)
        answer = b""
        while len(answer) < _LM_ANSWER_BYTES:
            try:
                part = connection.recv(_LM_ANSWER_BYTES)
            except TimeoutError:
                break
            if not part:
                break
            answer += part
        return answer
