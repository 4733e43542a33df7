# SPDX-License-Identifier: Apache-2.0
"""Keys and proofs: what both ends compute from the 32-byte cluster key, which itself never crosses the wire.

    key_id        first 8 bytes of HMAC(key, "memkv key id v1")            names a key without telling it (rotation)
    server proof  HMAC(key, "memkv server proof v1" │ SHA-256(HELLO) │ version u8 │ lane u16 │ server nonce)
    client proof  HMAC(key, "memkv client proof v1" │ SHA-256(HELLO │ CHALLENGE))
    session keys  HKDF-SHA256(key, salt = SHA-256(HELLO │ CHALLENGE), info = "memkv session v1"), 64 bytes:
                  the first 32 for client → server, the last 32 for server → client
    admin token   HMAC(key, "memkv admin v1"), hex

Both nonces are in what is hashed, so neither a proof nor a session key can be used twice.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from memkv_core import limits
from memkv_core.errors import ConfigError


class SessionKeys(NamedTuple):
    """One 32-byte key for each direction."""

    client_to_server: bytes
    server_to_client: bytes


def nonce() -> bytes:
    """32 fresh random bytes."""
    return secrets.token_bytes(limits.NONCE_BYTES)


def key_id(key: bytes) -> bytes:
    """The 8 bytes that name a key."""
    return hmac.digest(key, b"memkv key id v1", "sha256")[:8]


def admin_token(key: bytes) -> str:
    """The bearer token of the admin endpoint: whoever holds the cluster key can compute it."""
    return hmac.digest(key, b"memkv admin v1", "sha256").hex()


def server_proof(key: bytes, hello: bytes, version: int, lane: int, server_nonce: bytes) -> bytes:
    """What the server shows for its key."""
    said = hashlib.sha256(hello).digest() + bytes([version]) + lane.to_bytes(2, "little") + server_nonce
    return hmac.digest(key, b"memkv server proof v1" + said, "sha256")


def client_proof(key: bytes, hello: bytes, challenge: bytes) -> bytes:
    """What the client shows for its key."""
    return hmac.digest(key, b"memkv client proof v1" + hashlib.sha256(hello + challenge).digest(), "sha256")


def session_keys(key: bytes, hello: bytes, challenge: bytes) -> SessionKeys:
    """The keys of both directions; both sides derive the same."""
    salt = hashlib.sha256(hello + challenge).digest()
    material = HKDF(algorithm=SHA256(), length=64, salt=salt, info=b"memkv session v1").derive(key)
    return SessionKeys(material[:32], material[32:])


class Keyring:
    """The keys that a server accepts: the current one and, while it is being rotated, the one before. Immutable."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys = {key_id(key): key for key in keys}
        if not self._keys or any(len(key) != limits.AUTH_KEY_BYTES for key in self._keys.values()):
            raise ConfigError("an auth key is 32 bytes", remedy="make one with `memkv keygen`")

    def find(self, wanted: bytes) -> bytes | None:
        return self._keys.get(wanted)
