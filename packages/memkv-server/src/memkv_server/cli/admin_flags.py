# SPDX-License-Identifier: Apache-2.0
"""What the commands under ``memkv admin`` have in common: which nodes, with which key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from memkv_core.address import parse_address
from memkv_core.errors import ConfigError
from memkv_core.settings import SettingProblem
from memkv_server.admin_client import Reply, admin_of
from memkv_server.cli.client_settings import client_setting
from memkv_server.keyfile import read_key_file, resolve_key

Servers = Annotated[
    list[str] | None,
    typer.Option("--server", "-s", help="Admin address of a node; repeat it. Default: all of MEMKV_SERVERS."),
]
KeyFile = Annotated[
    Path | None, typer.Option(help="File with the cluster key. Default: MEMKV_CONFIG, then MEMKV_AUTH_KEY.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def nodes_of(servers: Sequence[str] | None) -> list[str]:
    """The admin addresses of those named, or of all of MEMKV_SERVERS."""
    if servers:
        return [text if "://" in text else str(parse_address(text, 9901)) for text in servers]
    found, _source = client_setting("servers")
    if found is None:
        raise ConfigError("no node is named", remedy="give --server HOST:9901, or set MEMKV_SERVERS")
    texts = found.split(",") if isinstance(found, str) else [str(text) for text in found]
    return [str(admin_of(parse_address(text))) for text in texts]


def cluster_key(path: Path | None) -> bytes:
    """The key of a file, or else of the client's settings."""
    if path is not None:
        return bytes.fromhex(read_key_file(path))
    found, _source = client_setting("auth_key")
    if found is None:
        raise ConfigError("no cluster key", remedy="give --auth-key-file FILE, or set MEMKV_AUTH_KEY")
    try:
        return bytes.fromhex(resolve_key(found))
    except SettingProblem as problem:
        raise ConfigError(f"auth_key: {problem.cause}", remedy=f"accepted: {problem.accepted}") from None


def reply_as_json(reply: Reply) -> dict[str, Any]:
    """A node's answer, with the node's name."""
    return {"node": reply.node, "code": reply.code, "error": reply.error, **(reply.body or {})}
