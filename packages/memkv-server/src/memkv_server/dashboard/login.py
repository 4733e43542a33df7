# SPDX-License-Identifier: Apache-2.0
"""Who may see the dashboard: an admin token as bearer, or a cookie that was given for one.

The cookie is a date and its seal, so a node remembers nothing and a page survives its restart::

    expiry (seconds since the epoch, decimal) │ "." │ nonce (16 hex) │ "." │ HMAC-SHA256(session key, both) in hex

``session key = HMAC-SHA256(admin token, "memkv dashboard session v1")``: the token itself is in no cookie, and what is
in the cookie opens the page and nothing else of the API. It ends with its date, or with the cluster's key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from memkv_core.log import protect

SESSION_S: Final = 12 * 3600
_KEY: Final = b"memkv dashboard session v1"
_NONCE_BYTES: Final = 8
_COOKIE_CHARS_MAX: Final = 128


class Sessions:
    """``tokens`` are the admin tokens, the current one first. Immutable; thread-safe."""

    def __init__(self, tokens: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._tokens = list(tokens)
        self._keys = [hmac.digest(token.encode(), _KEY, "sha256") for token in tokens]
        self._clock = clock
        for key in self._keys:
            protect(key.hex())

    @property
    def cookie_name(self) -> str:
        """One name for a cluster: cookies know no ports, and two clusters may share a host."""
        return f"memkv_{hashlib.sha256(self._keys[0]).hexdigest()[:12]}"

    def is_token(self, presented: str) -> bool:
        """Whether it is an admin token of this cluster."""
        return any(hmac.compare_digest(presented.strip().encode(), token.encode()) for token in self._tokens)

    def issue(self) -> str:
        """A cookie for SESSION_S from now."""
        said = f"{int(self._clock()) + SESSION_S}.{secrets.token_hex(_NONCE_BYTES)}"
        return f"{said}.{_seal(self._keys[0], said)}"

    def is_open(self, cookie: str | None) -> bool:
        """Whether the cookie is one of ours and its time is not over."""
        if not cookie or len(cookie) > _COOKIE_CHARS_MAX or not cookie.isascii():
            return False
        said, _, seal = cookie.rpartition(".")
        if not any(hmac.compare_digest(seal, _seal(key, said)) for key in self._keys):
            return False
        return int(said.partition(".")[0]) > self._clock()


def _seal(key: bytes, said: str) -> str:
    return hmac.digest(key, said.encode(), "sha256").hex()
