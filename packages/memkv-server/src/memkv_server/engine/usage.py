# SPDX-License-Identifier: Apache-2.0
"""Adding up what the drives of a lane say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Drives are opened one after the other, but reported as the worst; a TTL is the same on all.
_LARGEST: Final = frozenset({"recovery_seconds", "ttl_seconds"})
_SAME: Final = frozenset({"name", "identity_digest"})  # text, the same on every drive


def add_usage(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Adds ``part`` to ``total``, in place: numbers are summed, drives listed, namespaces joined by name."""
    for name, value in part.items():
        if name == "drives":
            total.setdefault(name, []).extend(value)
        elif name == "namespaces":
            total[name] = join_namespaces(total.get(name, []), value)
        elif isinstance(value, Mapping):
            nested = total.setdefault(name, {})
            largest = max(nested.get("bytes", 0), value.get("bytes", 0))
            add_usage(nested, value)
            if name == "segments":
                nested["bytes"] = largest  # of one segment
        elif name in _SAME or value is None:
            total[name] = value
        elif name in _LARGEST:
            total[name] = max(total.get(name) or 0, value)
        else:
            total[name] = (total.get(name) or 0) + value


def join_namespaces(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two lists of namespaces as one: those of the same name are added up."""
    joined = {namespace["name"]: dict(namespace) for namespace in first}
    for namespace in second:
        if namespace["name"] in joined:
            add_usage(joined[namespace["name"]], namespace)
        else:
            joined[namespace["name"]] = dict(namespace)
    return list(joined.values())
