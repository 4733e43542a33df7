# SPDX-License-Identifier: Apache-2.0
"""The public keys whose licenses are trusted, each with the one algorithm that it may verify.

A token's own ``alg`` never chooses how it is verified: the key does (Ed25519: EdDSA, P-384: ES384). Everything else,
``none`` and the HMAC family above all, has no key here and so no way in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from memkv_core.errors import LicenseError
from memkv_core.files import config_folders, read_regular_file, reason_of
from memkv_core.limits import LICENSE_BYTES_MAX, LICENSE_KEYS_MAX

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

ALGORITHMS: Final = ("EdDSA", "ES384")
_REMEDY: Final = "put the authority's public key (PEM) there, or name it in MEMKV_LICENSE_KEYS"


@dataclass(frozen=True)
class TrustedKey:
    """One public key: its fingerprint is what a token's ``kid`` names."""

    kid: str
    algorithm: str
    key: PublicKey
    source: str


@dataclass(frozen=True)
class TrustedKeys:
    """The keys found, by fingerprint, and where they were looked for (for the messages)."""

    keys: dict[str, TrustedKey]
    sources: tuple[str, ...]


def fingerprint(key: PublicKey) -> str:
    """The first 32 hexadecimal digits of the SHA-256 of the key's SubjectPublicKeyInfo (DER)."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:32]


def algorithm_of(key: object) -> str | None:
    """The signature algorithm that a public key verifies; None where licenses use no such key."""
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP384R1):
        return "ES384"
    return None


def read_public_key(path: Path) -> TrustedKey:
    """Reads one PEM file. Raises LicenseError naming it."""
    try:
        pem = read_regular_file(path, LICENSE_BYTES_MAX)
    except OSError as error:
        raise LicenseError(f"license key {path} cannot be read: {reason_of(error)}", remedy=_REMEDY) from error
    if b"PRIVATE KEY" in pem:
        raise LicenseError(
            f"license key {path} is a private key", remedy="keep it with the authority; here goes the public key"
        )
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise LicenseError(f"license key {path} is no public key in PEM form", remedy=_REMEDY) from None
    algorithm = algorithm_of(key)
    if algorithm is None or not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
        raise LicenseError(
            f"license key {path} is of a kind that licenses do not use", remedy="use an Ed25519 or a P-384 key"
        )
    return TrustedKey(fingerprint(key), algorithm, key, str(path))


def load_trusted_keys(configured: str | None, source: str = "MEMKV_LICENSE_KEYS") -> TrustedKeys:
    """The trusted keys: from ``configured`` (files and folders, separated by ``os.pathsep``) or, where it is None,
    from ``license-keys/*.pem`` in the user's and the system's config folder.

    Raises LicenseError for a configured path that is not there, and for any file that is no usable public key: a key
    that cannot be read must not turn into "unknown key" later.
    """
    if configured is None:
        folders = [folder / "license-keys" for folder in config_folders()]
        files = [file for folder in folders if folder.is_dir() for file in _pem_files(folder)]
        return _collect(files, tuple(str(folder) for folder in folders))
    if any(part.startswith("eyJ") for part in configured.split(os.pathsep)):  # as the base64 of every token does
        raise LicenseError(f"{source} holds a license token, not the paths of public keys", remedy=_REMEDY)
    paths = [Path(part).expanduser() for part in configured.split(os.pathsep) if part]
    named: list[Path] = []
    for path in paths:
        if path.is_dir():
            named.extend(_pem_files(path))
        else:
            named.append(path)
    return _collect(named, tuple(f"{path} ({source})" for path in paths))


def _pem_files(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix == ".pem")
    except OSError as error:
        raise LicenseError(f"{folder} cannot be read: {reason_of(error)}", remedy=_REMEDY) from error


def _collect(files: Iterable[Path], sources: tuple[str, ...]) -> TrustedKeys:
    paths = list(files)
    if len(paths) > LICENSE_KEYS_MAX:
        raise LicenseError(f"{len(paths)} license keys", remedy=f"keep at most {LICENSE_KEYS_MAX}")
    return TrustedKeys({key.kid: key for key in map(read_public_key, paths)}, sources)
