# SPDX-License-Identifier: Apache-2.0
"""Namespaces and what they stand for: an identity as canonical JSON, and the name that is derived from it. Pure.

Two runs whose identity differs in anything (dtype, layout, weights, ranks) get different namespaces and never meet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from memkv_core.errors import ConfigError
from memkv_core.limits import IDENTITY_BYTES_MAX, NAMESPACE_BYTES_MAX

NAMESPACE_DEFAULT: Final = "default"
IDENTITY_DIGEST_NONE: Final = bytes(32)


def canonical_identity(identity: Mapping[str, Any] | None) -> bytes:
    """Canonical JSON of an identity (sorted keys, no spaces, ASCII), or empty for none. ConfigError when too long."""
    if identity is None:
        return b""
    try:
        encoded = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the namespace identity is not JSON: {error}", remedy="use str, int, bool, None") from error
    if len(encoded) > IDENTITY_BYTES_MAX:
        raise ConfigError(f"an identity of {len(encoded)} bytes", remedy=f"{IDENTITY_BYTES_MAX} at most")
    return encoded


def identity_digest(identity: bytes) -> bytes:
    """32 bytes; zeros for no identity."""
    return hashlib.sha256(identity).digest() if identity else IDENTITY_DIGEST_NONE


def choose_namespace(configured: str | None, identity: bytes) -> str:
    """The configured namespace, else one named by the identity's digest, else "default". ConfigError for a bad one."""
    if configured is not None:
        if not configured.isprintable() or not 1 <= len(configured.encode()) <= NAMESPACE_BYTES_MAX:
            raise ConfigError(
                f"namespace of {len(configured)} characters is empty, too long or not printable",
                remedy=f"1 to {NAMESPACE_BYTES_MAX} bytes without control characters",
            )
        return configured
    return f"auto-{identity_digest(identity).hex()[:32]}" if identity else NAMESPACE_DEFAULT
