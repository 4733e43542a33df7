# SPDX-License-Identifier: Apache-2.0
"""A license authority: the key pairs that sign licenses. An operator runs it with ``memkv license authority|issue``.

Its folder::

    authority.json            {"format": 1, "name": ...}
    private/eddsa.key         PKCS #8 PEM, mode 0600; never leaves this folder
    private/es384.key
    license-keys/NAME-eddsa.pem   the public keys: copy these to where licenses are verified
    license-keys/NAME-es384.pem

License claims (JWT): ``aud`` "memkv", ``iss`` the authority's name, ``licensee``, ``plan``, ``iat``, ``nbf``, ``exp``
and, where the number of servers is bounded, ``max_servers``. The header holds ``alg`` and ``kid``.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from memkv_core.errors import InvalidArgumentError, LicenseError
from memkv_core.files import read_regular_file, reason_of
from memkv_core.license_keys import ALGORITHMS, algorithm_of, fingerprint
from memkv_core.limits import LICENSE_BYTES_MAX, LICENSE_DAYS_MAX, LICENSE_TEXT_MAX, SERVERS_MAX

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey

AUDIENCE: Final = "memkv"
_DAY_S: Final = 86_400


class Authority:
    """Signs licenses. Make one with ``create`` or ``load``; holds private keys in memory, shows none."""

    def __init__(self, directory: Path, name: str, keys: dict[str, PrivateKey]) -> None:
        self.directory = directory
        self.name = name
        self._keys = keys

    def __repr__(self) -> str:
        return f"Authority(name={self.name!r}, directory={str(self.directory)!r})"

    @property
    def public_keys(self) -> Path:
        """The folder to trust: what MEMKV_LICENSE_KEYS names."""
        return self.directory / "license-keys"

    @classmethod
    def create(cls, directory: str | os.PathLike[str], *, name: str = "memkv") -> Authority:
        """Makes a new authority in ``directory``. Raises LicenseError where there is one, or it cannot be written."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise InvalidArgumentError(
                f"{name!r} is no authority name", remedy="use 1 to 64 letters, digits, '.', '_' and '-'"
            )
        folder = Path(directory)
        if (folder / "authority.json").exists() or (folder / "private").exists():
            raise LicenseError(f"{folder} holds an authority already", remedy="use it, or name another folder")
        keys: dict[str, PrivateKey] = {
            "EdDSA": Ed25519PrivateKey.generate(),
            "ES384": ec.generate_private_key(ec.SECP384R1()),
        }
        try:
            for part, mode in ((folder, 0o755), (folder / "private", 0o700), (folder / "license-keys", 0o755)):
                part.mkdir(mode=mode, parents=True, exist_ok=True)
            for algorithm, key in keys.items():
                private_pem = key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
                public_pem = key.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
                _write_new(_private_path(folder, algorithm), private_pem, 0o600)
                _write_new(folder / "license-keys" / f"{name}-{algorithm.lower()}.pem", public_pem, 0o644)
            description = json.dumps({"format": 1, "name": name}).encode()
            _write_new(folder / "authority.json", description, 0o644)
        except OSError as error:
            raise LicenseError(
                f"no authority can be made in {folder}: {reason_of(error)}", remedy="name a folder you can write to"
            ) from error
        return cls(folder, name, keys)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Authority:
        """The authority that ``create`` made there. Raises LicenseError naming the file that is wrong."""
        folder = Path(directory)
        path = folder / "authority.json"
        remedy = "make one with `memkv license authority`"
        try:
            described = json.loads(read_regular_file(path, LICENSE_BYTES_MAX))
            name = described["name"] if described["format"] == 1 else None
        except OSError as error:
            raise LicenseError(f"{folder} holds no license authority: {reason_of(error)}", remedy=remedy) from error
        except (ValueError, KeyError, TypeError, RecursionError):
            name = None
        if not isinstance(name, str):
            raise LicenseError(f"{path} is not an authority of this version", remedy=remedy)
        return cls(folder, name, {algorithm: _read_private(folder, algorithm) for algorithm in ALGORITHMS})

    def issue(
        self,
        licensee: str,
        *,
        plan: str = "standard",
        days: int = 365,
        max_servers: int | None = None,
        algorithm: str = "EdDSA",
        now_s: float | None = None,
    ) -> str:
        """A signed license token, valid for ``days`` from now (``now_s``: seconds since 1970, for tests).

        Raises InvalidArgumentError for an empty text, a day or server count out of bounds, an unknown algorithm.
        """
        for what, text in (("licensee", licensee), ("plan", plan)):
            if not 1 <= len(text) <= LICENSE_TEXT_MAX or not text.isprintable():
                raise InvalidArgumentError(
                    f"{what} {text!r} is empty, too long or not printable",
                    remedy=f"use 1 to {LICENSE_TEXT_MAX} printable characters",
                )
        if not 1 <= days <= LICENSE_DAYS_MAX:
            raise InvalidArgumentError(f"days = {days}", remedy=f"use 1 to {LICENSE_DAYS_MAX}")
        if max_servers is not None and not 1 <= max_servers <= SERVERS_MAX:
            raise InvalidArgumentError(f"max_servers = {max_servers}", remedy=f"use 1 to {SERVERS_MAX}")
        if algorithm not in self._keys:
            raise InvalidArgumentError(f"algorithm {algorithm!r}", remedy=f"use {' or '.join(ALGORITHMS)}")
        key = self._keys[algorithm]
        now = int(time.time() if now_s is None else now_s)
        claims: dict[str, Any] = {
            "aud": AUDIENCE, "iss": self.name, "licensee": licensee, "plan": plan,
            "iat": now, "nbf": now, "exp": now + days * _DAY_S,
        }  # fmt: skip
        if max_servers is not None:
            claims["max_servers"] = max_servers
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": fingerprint(key.public_key())})


def _private_path(folder: Path, algorithm: str) -> Path:
    return folder / "private" / f"{algorithm.lower()}.key"


def _read_private(folder: Path, algorithm: str) -> PrivateKey:
    path = _private_path(folder, algorithm)
    remedy = "restore it from your backup; licenses signed by another key would not verify"
    try:
        mode = path.stat().st_mode
        pem = read_regular_file(path, LICENSE_BYTES_MAX)
    except OSError as error:
        raise LicenseError(f"{path} cannot be read: {reason_of(error)}", remedy=remedy) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise LicenseError(f"{path} can be read by others (mode {mode & 0o777:o})", remedy=f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise LicenseError(f"{path} is no private key", remedy=remedy) from None
    if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey) or (
        algorithm_of(key.public_key()) != algorithm
    ):
        raise LicenseError(f"{path} is no key for {algorithm}", remedy=remedy)
    return key


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Writes a file that was not there, with its mode from the first instant on."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
