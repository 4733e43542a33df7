# SPDX-License-Identifier: Apache-2.0
"""The cluster as one page shows it: the views of all nodes brought together. Pure.

A node that does not answer is ``down``, with the reason and with what was last known of its lanes and drives; it
counts for nothing in the sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memkv_server.dashboard.node_view import clients_of, median_age_s
from memkv_server.engine.usage import add_usage, join_namespaces
from memkv_server.limits import SHOWN_NAMESPACES_MAX, SHOWN_PROBLEMS_MAX

_MERGED: Final = ("namespaces", "clients", "problems")  # shown for the cluster, and not of each node


@dataclass(frozen=True)
class NodeState:
    """A node as the one that shows the page knows it. ``view`` is the last one there was."""

    name: str
    view: Mapping[str, Any] | None
    error: str | None = None
    silent_s: float = 0.0  # since it last answered
    own: bool = False

    @property
    def up(self) -> bool:
        """Whether it answered the last time it was asked."""
        return self.view is not None and self.error is None


def cluster_state(nodes: Sequence[NodeState], at_s: float) -> dict[str, Any]:
    """What is sent to a page, but for the points of its plots."""
    views = [node.view for node in nodes if node.up and node.view is not None]
    storage: dict[str, Any] = {}
    eviction: dict[str, Any] = {}
    for view in views:
        add_usage(storage, {name: value for name, value in view["storage"].items() if name != "mode"})
        add_usage(eviction, view["eviction"])
    ages = eviction.pop("age_buckets", {})
    return {
        "at": round(at_s, 3),
        "health": worst(nodes),
        "versions": sorted({str(view["version"]) for view in views}),
        "nodes": [_node(node) for node in nodes],
        "storage": storage,
        "eviction": {**eviction, "median_age_seconds": median_age_s(ages)},
        "connections": sum(int(view["connections"]) for view in views),
        "sessions": sum(int(view["sessions"]) for view in views),
        "namespace_count": max((int(view["namespace_count"]) for view in views), default=0),
        "namespaces": _namespaces(view["namespaces"] for view in views),
        "clients": clients_of(views),
        "problems": _problems(nodes),
    }


def worst(nodes: Iterable[NodeState]) -> str:
    """``healthy``: all nodes are; ``unhealthy``: none serves; else ``degraded``."""
    states = [str(node.view["health"]["status"]) if node.up and node.view is not None else "down" for node in nodes]
    if all(state == "healthy" for state in states):
        return "healthy"
    return "degraded" if any(state in ("healthy", "degraded") for state in states) else "unhealthy"


def _node(node: NodeState) -> dict[str, Any]:
    view = node.view or {}
    status = "down" if not node.up else ("draining" if view["draining"] else view["health"]["status"])
    return {
        **{name: value for name, value in view.items() if name not in (*_MERGED, "eviction")},
        "name": node.name,
        "own": node.own,
        "status": status,
        "error": node.error,
        "silent_seconds": round(node.silent_s, 1),
        "evicted_bytes": view["eviction"]["evicted_bytes"] if view else 0,
    }


def _namespaces(parts: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    identities: dict[str, str | None] = {}
    for rows in parts:
        for row in rows:
            identities[row["name"]] = row.get("identity") or identities.get(row["name"])
        bare = [{name: value for name, value in row.items() if name != "identity"} for row in rows]
        merged = join_namespaces(merged, bare)
    largest = sorted(merged, key=lambda row: (-int(row["bytes"]), str(row["name"])))[:SHOWN_NAMESPACES_MAX]
    return [{**row, "identity": identities.get(row["name"])} for row in largest]


def _problems(nodes: Iterable[NodeState]) -> list[dict[str, Any]]:
    found = [
        {**problem, "node": node.name} for node in nodes if node.view is not None for problem in node.view["problems"]
    ]
    return sorted(found, key=lambda problem: -float(problem["at"]))[:SHOWN_PROBLEMS_MAX]
