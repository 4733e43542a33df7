# SPDX-License-Identifier: Apache-2.0
"""``memkv admin``: asks the nodes of a cluster how they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from memkv_core.address import parse_address
from memkv_core.auth import admin_token
from memkv_core.errors import ConfigError
from memkv_core.settings import SettingProblem
from memkv_server.admin_client import Reply, admin_of, ask_all
from memkv_server.cli.client_settings import client_setting
from memkv_server.cli.output import examples, format_bytes, format_seconds, print_json, print_table
from memkv_server.keyfile import read_key_file, resolve_key

app = typer.Typer(help="Ask the nodes of a cluster how they are.", no_args_is_help=True)

_EXAMPLES: Final = (
    "memkv admin status                        all nodes of MEMKV_SERVERS",
    "memkv admin status --server host-a:9901   one node, by its admin address",
    "memkv admin health --json",
)
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", "-s", help="Admin address of a node; repeat it. Default: all of MEMKV_SERVERS."),
]
KeyFile = Annotated[
    Path | None, typer.Option(help="File with the cluster key. Default: MEMKV_CONFIG, then MEMKV_AUTH_KEY.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@app.command("status", epilog=examples(*_EXAMPLES))
def status(server: Servers = None, auth_key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Version, memory, storage, connections and health of each node. Exit code 1 where a node does not answer."""
    replies = ask_all(_nodes(server), "/v1/status", admin_token(_key(auth_key_file)))
    if as_json:
        print_json({"nodes": [_as_json(reply) for reply in replies]})
    else:
        print_table(_status_table(replies))
    raise typer.Exit(1 if any(reply.error for reply in replies) else 0)


@app.command("health", epilog=examples(*_EXAMPLES))
def health(server: Servers = None, as_json: AsJson = False) -> None:
    """Health of each node; needs no key. Exit code 1 where one is unhealthy or does not answer."""
    replies = ask_all(_nodes(server), "/v1/health", None)
    if as_json:
        print_json({"nodes": [_as_json(reply) for reply in replies]})
    else:
        print_table(_health_table(replies))
    raise typer.Exit(0 if all(reply.code == 200 and not reply.error for reply in replies) else 1)


@app.command("token", epilog=examples('curl -H "Authorization: Bearer $(memkv admin token)" host-a:9901/v1/metrics'))
def token(auth_key_file: KeyFile = None) -> None:
    """Print the bearer token for /v1/status and /v1/metrics. It follows from the cluster key: keep it as safe."""
    typer.echo(admin_token(_key(auth_key_file)))


# -- which nodes, which key ------------------------------------------------------------------------------------------
def _nodes(servers: Sequence[str] | None) -> list[str]:
    if servers:
        return [text if "://" in text else str(parse_address(text, 9901)) for text in servers]
    found, _source = client_setting("servers")
    if found is None:
        raise ConfigError("no node is named", remedy="give --server HOST:9901, or set MEMKV_SERVERS")
    texts = found.split(",") if isinstance(found, str) else [str(text) for text in found]
    return [str(admin_of(parse_address(text))) for text in texts]


def _key(path: Path | None) -> bytes:
    if path is not None:
        return bytes.fromhex(read_key_file(path))
    found, _source = client_setting("auth_key")
    if found is None:
        raise ConfigError("no cluster key", remedy="give --auth-key-file FILE, or set MEMKV_AUTH_KEY")
    try:
        return bytes.fromhex(resolve_key(found))
    except SettingProblem as problem:
        raise ConfigError(f"auth_key: {problem.cause}", remedy=f"accepted: {problem.accepted}") from None


# -- tables ----------------------------------------------------------------------------------------------------------
def _as_json(reply: Reply) -> dict[str, Any]:
    return {"node": reply.node, "code": reply.code, "error": reply.error, **(reply.body or {})}


def _colour(status: str) -> str:
    colours = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
    return f"[{colours.get(status, 'red')}]{status}[/]"


def _status_table(replies: Sequence[Reply]) -> Table:
    table = Table("node", "health", "version", "up", "lanes", "drives", "used", "capacity", "records", "conns", "rss")
    for reply in replies:
        body = reply.body
        if body is None or reply.error or "storage" not in body:
            table.add_row(reply.node, f"[red]{reply.error or 'no MemKV node'}[/]")
            continue
        well, storage = body["health"], body["storage"]
        table.add_row(
            reply.node,
            _colour(well["status"]),
            body["version"],
            format_seconds(body["uptime_seconds"]),
            f"{well['lanes']['serving']}/{well['lanes']['total']}",
            f"{well['drives_online']}/{well['drives_total']}",
            format_bytes(storage["used_bytes"]),
            format_bytes(storage["capacity_bytes"]),
            f"{storage['records']:,}",
            f"{body['connections']:,}",
            format_bytes(body["memory"]["rss_bytes"]),
        )
    return table


def _health_table(replies: Sequence[Reply]) -> Table:
    table = Table("node", "health", "lanes", "drives", "rdma")
    for reply in replies:
        body = reply.body
        if body is None or "status" not in body:
            table.add_row(reply.node, f"[red]{reply.error or 'no MemKV node'}[/]")
            continue
        table.add_row(
            reply.node,
            _colour(body["status"]),
            f"{body['lanes']['serving']}/{body['lanes']['total']}",
            f"{body['drives_online']}/{body['drives_total']}",
            "active" if body["rdma_active"] else "-",
        )
    return table
