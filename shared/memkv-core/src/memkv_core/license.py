# SPDX-License-Identifier: Apache-2.0
"""Finds and verifies the license, offline, before anything connects.

The first source that names a license is the one that counts; if that one is bad, the error says so and no later
source is tried: ``license`` of the settings (keyword, yaml, MEMKV_LICENSE: a token or a path), MINIO_LICENSE,
AISTOR_LICENSE, then ``minio.license`` in the working directory, the user's and the system's config folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import jwt

from memkv_core.authority import AUDIENCE, Authority
from memkv_core.config import ClientConfig, looks_like_token
from memkv_core.errors import LicenseError
from memkv_core.files import config_folders, read_regular_file, reason_of
from memkv_core.license_keys import ALGORITHMS, TrustedKey, TrustedKeys, load_trusted_keys
from memkv_core.limits import LICENSE_BYTES_MAX, LICENSE_LEEWAY_S, LICENSE_TEXT_MAX
from memkv_core.settings import DEFAULT

__all__ = [
    "Authority",
    "License",
    "UntrustedLicense",
    "find_license",
    "load_license",
    "load_trusted_keys",
    "read_license",
    "show_license",
    "verify_license",
]

FILE_NAME: Final = "minio.license"
_GET_ONE: Final = (
    "ask the operator of your cluster for one and set MEMKV_LICENSE to it or its path; "
    "`memkv license issue` makes one, `memkv dev up` does for a local cluster"
)
_TRUST: Final = "put the authority's public key into a license-keys folder, or name it in MEMKV_LICENSE_KEYS"


@dataclass(frozen=True)
class License:
    """A verified license. ``source`` says where it was found, for the log."""

    plan: str
    licensee: str
    authority: str
    expires_at: datetime  # UTC
    max_servers: int | None  # None: no bound
    source: str


@dataclass(frozen=True)
class UntrustedLicense:
    """What a token says about itself. Nothing of it was verified."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    source: str
    trusted: bool = False


def load_license(config: ClientConfig, *, now_s: float | None = None) -> License:
    """The verified license for this client's settings. Raises LicenseError: which source, what is wrong, what to do."""
    token, source = find_license(config.license, config.source_of("license"))
    keys = load_trusted_keys(config.license_keys, config.source_of("license_keys"))
    return verify_license(token, keys, source=source, servers=len(config.servers), now_s=now_s)


def find_license(configured: str | None = None, configured_source: str = DEFAULT) -> tuple[str, str]:
    """The license token and the name of its source, by the order above. Raises LicenseError where there is none."""
    if configured is not None:
        return read_license(configured, f"license ({configured_source})")
    for name in ("MINIO_LICENSE", "AISTOR_LICENSE"):
        value = os.environ.get(name, "").strip()
        if value:
            return read_license(value, name)
    paths = [Path(FILE_NAME).absolute(), *(folder / FILE_NAME for folder in config_folders())]
    for path in paths:
        # A file that is there but cannot be read is an error, not a reason to look further.
        if os.path.lexists(path):
            return read_license(str(path), "file")
    looked = ["`license:` in MEMKV_CONFIG", "MEMKV_LICENSE", "MINIO_LICENSE", "AISTOR_LICENSE", *map(str, paths)]
    raise LicenseError(f"no license found; looked at {', '.join(looked)}", remedy=_GET_ONE)


def read_license(value: str, source: str) -> tuple[str, str]:
    """The token that ``value`` is, or that the file it names holds; and ``source``, with the file's path added."""
    text = value.strip()
    if looks_like_token(text):
        return "".join(text.split()), source  # a token pasted over several lines is still one token
    if not text.isprintable():
        raise LicenseError(f"{source}: neither a token nor the path of a file", remedy=_GET_ONE)
    path = Path(text).expanduser()
    try:
        token = read_regular_file(path, LICENSE_BYTES_MAX).decode("ascii").strip()
    except UnicodeDecodeError:
        raise LicenseError(f"{source}: {path} is no license file (it is not text)", remedy=_GET_ONE) from None
    except OSError as error:
        raise LicenseError(f"{source}: {path} cannot be read: {reason_of(error)}", remedy=_GET_ONE) from error
    if not token:
        raise LicenseError(f"{source}: {path} is empty", remedy=_GET_ONE)
    return token, f"{source} {path}"


def show_license(value: str, source: str = "given") -> UntrustedLicense:
    """What a token (or the file that ``value`` names) says, unverified. Raises LicenseError where it is no token."""
    token, source = read_license(value, source)
    header = _header(token, source)
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, RecursionError):
        raise LicenseError(f"{source}: not a license token", remedy=_GET_ONE) from None
    return UntrustedLicense(header, claims, source)


def verify_license(
    token: str,
    keys: TrustedKeys,
    *,
    source: str = "given",
    servers: int | None = None,
    now_s: float | None = None,
) -> License:
    """Verifies signature, audience, times and server count. Raises LicenseError; the token is never quoted."""
    header = _header(token, source)
    key = _key_for(header, keys, source)
    claims = _verified_claims(token, key, source)
    plan = _text_claim(claims, "plan", source)
    licensee = _text_claim(claims, "licensee", source)
    authority = _text_claim(claims, "iss", source)
    expires_at = _check_times(claims, source, time.time() if now_s is None else now_s)
    max_servers = claims.get("max_servers")
    if max_servers is not None and (type(max_servers) is not int or max_servers < 1):
        raise LicenseError(f"{source}: max_servers of the license is no positive number", remedy=_GET_ONE)
    if max_servers is not None and servers is not None and servers > max_servers:
        raise LicenseError(
            f"{source}: the license is for {max_servers} server{'s' if max_servers > 1 else ''}, "
            f"and {servers} are configured",
            remedy="list fewer servers, or get a license for more",
        )
    return License(plan, licensee, authority, expires_at, max_servers, source)


def _header(token: str, source: str) -> dict[str, Any]:
    if len(token) > LICENSE_BYTES_MAX:
        raise LicenseError(f"{source}: longer than {LICENSE_BYTES_MAX} bytes, not a license token", remedy=_GET_ONE)
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise LicenseError(f"{source}: not a license token", remedy=_GET_ONE) from None


def _key_for(header: Mapping[str, Any], keys: TrustedKeys, source: str) -> TrustedKey:
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise LicenseError(
            f"{source}: the license is signed with {str(algorithm)[:20]!r}",
            remedy=f"only {' and '.join(ALGORITHMS)} count",
        )
    where = ", ".join(keys.sources)
    if not keys.keys:
        raise LicenseError(f"{source}: no authority is trusted here; looked in {where}", remedy=_TRUST)
    key = keys.keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise LicenseError(
            f"{source}: the license is signed by key {str(kid)[:64]!r}, which is not among the trusted keys in {where}",
            remedy=_TRUST,
        )
    if key.algorithm != algorithm:
        raise LicenseError(
            f"{source}: the license claims {algorithm}, but its key {key.source} is for {key.algorithm}",
            remedy=f"it is forged; {_GET_ONE}",
        )
    return key


def _verified_claims(token: str, key: TrustedKey, source: str) -> dict[str, Any]:
    required = ["aud", "iss", "exp", "iat", "plan", "licensee"]
    try:
        return jwt.decode(
            token, key.key, algorithms=[key.algorithm], audience=AUDIENCE,
            # The times are checked in _check_times: there the clock can be given, and the bounds are ours.
            options={"require": required, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )  # fmt: skip
    except jwt.InvalidSignatureError:
        cause, remedy = f"the signature does not verify with {key.source}: altered or forged", _GET_ONE
    except jwt.InvalidAudienceError:
        cause, remedy = f"the license is for another product, not for {AUDIENCE!r}", _GET_ONE
    except jwt.MissingRequiredClaimError as error:
        cause, remedy = f"the license lacks {error.claim!r}", _GET_ONE
    except (jwt.PyJWTError, ValueError, RecursionError):
        cause, remedy = "the license is malformed", _GET_ONE
    raise LicenseError(f"{source}: {cause}", remedy=remedy)


def _check_times(claims: Mapping[str, Any], source: str, now_s: float) -> datetime:
    times: dict[str, datetime] = {}
    for name in ("iat", "nbf", "exp"):
        value = claims.get(name, claims["iat"])
        try:
            if type(value) not in (int, float):
                raise ValueError(name)
            times[name] = datetime.fromtimestamp(value, timezone.utc)
        except (ValueError, OverflowError, OSError):
            raise LicenseError(f"{source}: {name!r} of the license is no time", remedy=_GET_ONE) from None
    start = max(times["iat"], times["nbf"])
    if start.timestamp() > now_s + LICENSE_LEEWAY_S:
        raise LicenseError(
            f"{source}: the license is not valid before {start:%Y-%m-%d %H:%M} UTC", remedy="check this host's clock"
        )
    if times["exp"].timestamp() <= now_s - LICENSE_LEEWAY_S:
        raise LicenseError(f"{source}: the license expired at {times['exp']:%Y-%m-%d %H:%M} UTC", remedy=_GET_ONE)
    return times["exp"]


def _text_claim(claims: Mapping[str, Any], name: str, source: str) -> str:
    value = claims.get(name)
    # These words go into a log line: no line breaks, no escape sequences.
    if not isinstance(value, str) or not 1 <= len(value) <= LICENSE_TEXT_MAX or not value.isprintable():
        raise LicenseError(f"{source}: {name!r} of the license is no short text", remedy=_GET_ONE)
    return value
