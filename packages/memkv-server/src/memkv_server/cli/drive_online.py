# SPDX-License-Identifier: Apache-2.0
"""The drives of running nodes, through their admin endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memkv_core.auth import admin_token
from memkv_server.admin_client import ask_all
from memkv_server.cli.admin_flags import cluster_key, nodes_of


def list_online(servers: Sequence[str] | None, key_file: Path | None) -> list[dict[str, Any]]:
    """One row a drive, as ``survey_drive`` makes them; one row for a node that does not answer."""
    rows: list[dict[str, Any]] = []
    for reply in ask_all(nodes_of(servers), "/v1/status", admin_token(cluster_key(key_file))):
        if reply.body is None or reply.error or "storage" not in reply.body:
            failure = reply.error or "it is no MemKV node"
            rows.append({"node": reply.node, "path": None, "state": "no answer", "failure": f"{reply.node}: {failure}"})
            continue
        rows += [{"node": reply.node, **drive} for drive in reply.body["storage"]["drives"]]
    return rows
