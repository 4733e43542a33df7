# SPDX-License-Identifier: Apache-2.0
"""Which servers are on this host, and whether their Unix socket can be used: what a WELCOME says, and what came of it.

unknown ──WELCOME──► elsewhere (its reason)         no socket, or another host: final until the next WELCOME
            │
            └──► offered ◄──► paused (its reason)   the socket could not be used; tried again after a while
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from memkv_core.same_host import host_digest

_LOG: Final = logging.getLogger("memkv_core.transport")
_PAUSE_S_MIN: Final = 0.5
_PAUSE_S_MAX: Final = 60.0


@dataclass
class _Server:
    path: str = ""
    node: str = ""
    reason: str | None = None  # why it is not used; None: it is
    connected: bool = False  # it could be, the last time
    retry_at_s: float | None = None  # None: not before another WELCOME
    pause_s: float = 0.0


class LocalNodes:
    """Thread-safe. Each change is logged once, at INFO."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: dict[str, _Server] = {}

    def heard(self, server: str, welcome: Mapping[str, Any], key_id: bytes) -> None:
        """What a server said of itself over TCP."""
        path, node, reason = _read_offer(welcome.get("shm"), key_id)
        with self._lock:
            known = self._servers.get(server)
            if known is not None and (known.path, known.node) == (path, node):
                return  # what came of it is known, too
            self._servers[server] = _Server(path, node, reason)
        if reason is not None and (known is None or known.reason != reason):
            _LOG.info("%s is reached over tcp: %s", server, reason)

    def is_node(self, server: str, welcome: Mapping[str, Any]) -> bool:
        """Whether it is this server that was reached on its socket, and none that shares its key and path."""
        known = self._servers.get(server)
        offer = welcome.get("shm")
        return known is not None and isinstance(offer, dict) and offer.get("node") == known.node

    def reason(self, server: str) -> str | None:
        """Why a server is not reached by its socket; None: it is, or may be."""
        known = self._servers.get(server)
        return "it has not said yet whether it can be" if known is None else known.reason

    def is_here(self, server: str) -> bool:
        """Whether a server is on this host and shares memory, with this client or with others."""
        known = self._servers.get(server)
        return known is not None and bool(known.path)

    def worth_trying(self, server: str) -> bool:
        """Whether ``connect`` may give a socket now."""
        known = self._servers.get(server)
        if known is None or not known.path:
            return False
        return known.reason is None or (known.retry_at_s is not None and time.monotonic() >= known.retry_at_s)

    def refusal(self, server: str) -> str | None:
        """Why a server cannot be reached by its socket, after a try where none was made; None: it can."""
        known = self._servers.get(server)
        if known is None or not known.connected:
            sock = self.connect(server)
            if sock is not None:
                sock.close()
        return self.reason(server)

    def connect(self, server: str) -> socket.socket | None:
        """A connected socket, at once; None where there is none for now."""
        if not self.worth_trying(server):
            return None
        known = self._servers[server]
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(known.path)
        except OSError as error:
            sock.close()
            self.failed(server, f"its socket {known.path} cannot be used: {error.strerror}")
            return None
        with self._lock:
            was, known.reason, known.connected = known.reason, None, True
        if was is not None:
            _LOG.info("%s is reached through its socket %s again", server, known.path)
        return sock

    def worked(self, server: str) -> None:
        """A session was opened through the socket and memory is shared."""
        known = self._servers.get(server)
        if known is not None and known.pause_s:
            known.pause_s = 0.0

    def failed(self, server: str, reason: str) -> None:
        """It is not used for a while."""
        with self._lock:
            known = self._servers.get(server)
            if known is None:
                return
            changed, known.reason, known.connected = known.reason != reason, reason, False
            known.pause_s = min(2 * known.pause_s, _PAUSE_S_MAX) if known.pause_s else _PAUSE_S_MIN
            known.retry_at_s = time.monotonic() + known.pause_s
        if changed:
            _LOG.info("%s is reached over tcp for now: %s", server, reason)

    def forget(self, server: str) -> None:
        """It is another than it was: its next WELCOME counts."""
        with self._lock:
            self._servers.pop(server, None)

    def after_fork(self) -> None:
        self._lock = threading.Lock()


def _read_offer(offer: object, key_id: bytes) -> tuple[str, str, str | None]:
    """(path, node, reason why not)."""
    if not isinstance(offer, dict):
        return "", "", "it shares no memory (network.socket)"
    path, node, host = offer.get("socket"), offer.get("node"), offer.get("host")
    if not (isinstance(path, str) and path.startswith("/") and isinstance(node, str) and node):
        return "", "", "what it says of its socket is not understood"
    mine = host_digest(key_id)
    if not mine or host != mine:
        return "", node, "it runs on another host"
    return path, node, None
