# SPDX-License-Identifier: Apache-2.0
"""Asks the admin endpoints of nodes, all at once; a node that does not answer is a result, not an exception."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from memkv_core.address import Address

TIMEOUT_S: Final = 5.0
REPLY_BYTES_MAX: Final = 64 * 1024 * 1024
THREADS_MAX: Final = 32


@dataclass(frozen=True)
class Reply:
    """What one node answered: ``body`` where it is JSON, else ``error`` with the cause in words.

    ``date_s`` is the node's own clock in whole seconds since the epoch, where the answer tells.
    """

    node: str
    code: int | None
    body: dict[str, Any] | None
    error: str | None
    date_s: float | None = None


def admin_of(address: Address) -> Address:
    """The admin address of a data address: the port after it."""
    return Address(address.host, address.port + 1)


def ask_all(
    nodes: Sequence[str], path: str, token: str | None, timeout_s: float = TIMEOUT_S, method: str = "GET"
) -> list[Reply]:
    """Asks every node (``host:port`` or a base URL) for ``path``, in the order given."""
    if not nodes:
        return []
    with ThreadPoolExecutor(min(THREADS_MAX, len(nodes))) as threads:
        return list(threads.map(lambda node: ask(node, path, token, timeout_s, method), nodes))


def ask(node: str, path: str, token: str | None, timeout_s: float = TIMEOUT_S, method: str = "GET") -> Reply:
    """Asks one node for ``path``."""
    base = node if "://" in node else f"http://{node}"
    request = urllib.request.Request(base.rstrip("/") + path, method=method)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    # A proxy for the outside world has no business between an operator and a node.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return _reply(node, response.status, response.read(REPLY_BYTES_MAX), response.headers.get("Date"))
    except urllib.error.HTTPError as error:
        with error:
            return _reply(node, error.code, error.read(REPLY_BYTES_MAX), error.headers.get("Date"))
    except urllib.error.URLError as error:
        return Reply(node, None, None, _words(error.reason))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Reply(node, None, None, _words(error))


def _reply(node: str, code: int, data: bytes, date: str | None) -> Reply:
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return Reply(node, code, None, f"answered {code}, and not as a MemKV node does")
    error = str(body["error"]) if "error" in body else None
    return Reply(node, code, body, error, _seconds(date))


def _seconds(date: str | None) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except ValueError:  # no date as HTTP writes it
        return None


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError | socket.timeout):
        return "no answer in time"
    if isinstance(reason, ConnectionRefusedError):
        return "connection refused: no node is listening there"
    if isinstance(reason, ssl.SSLError):
        return f"TLS failed: {reason.reason or reason}"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    if isinstance(reason, http.client.HTTPException):
        return "the answer is not HTTP"
    return str(reason)
