# SPDX-License-Identifier: Apache-2.0
"""``memkv admin``: asks the nodes of a cluster how they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import typer
from rich.table import Table

from memkv_core.auth import admin_token
from memkv_server.admin_client import Reply, ask_all
from memkv_server.cli import drain, namespaces
from memkv_server.cli.admin_flags import AsJson, KeyFile, Servers, cluster_key, nodes_of, reply_as_json
from memkv_server.cli.output import examples, format_bytes, format_seconds, print_json, print_table

app = typer.Typer(
    help="Ask the nodes of a cluster how they are, drain them, and drop namespaces.", no_args_is_help=True
)

_EXAMPLES: Final = (
    "memkv admin status                        all nodes of MEMKV_SERVERS",
    "memkv admin status --server host-a:9901   one node, by its admin address",
    "memkv admin health --json",
)


@app.command("status", epilog=examples(*_EXAMPLES))
def status(server: Servers = None, auth_key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Version, memory, storage, connections and health of each node. Exit code 1 where a node does not answer."""
    replies = ask_all(nodes_of(server), "/v1/status", admin_token(cluster_key(auth_key_file)))
    if as_json:
        print_json({"nodes": [reply_as_json(reply) for reply in replies]})
    else:
        print_table(_status_table(replies))
    raise typer.Exit(1 if any(reply.error for reply in replies) else 0)


@app.command("health", epilog=examples(*_EXAMPLES))
def health(server: Servers = None, as_json: AsJson = False) -> None:
    """Health of each node; needs no key. Exit code 1 where one is unhealthy or does not answer."""
    replies = ask_all(nodes_of(server), "/v1/health", None)
    if as_json:
        print_json({"nodes": [reply_as_json(reply) for reply in replies]})
    else:
        print_table(_health_table(replies))
    raise typer.Exit(0 if all(reply.code == 200 and not reply.error for reply in replies) else 1)


@app.command("token", epilog=examples('curl -H "Authorization: Bearer $(memkv admin token)" host-a:9901/v1/metrics'))
def token(auth_key_file: KeyFile = None) -> None:
    """Print the bearer token for /v1/status and /v1/metrics. It follows from the cluster key: keep it as safe."""
    typer.echo(admin_token(cluster_key(auth_key_file)))


app.command("drain", epilog=drain.EPILOG)(drain.drain)
app.command("namespaces", epilog=namespaces.LIST_EPILOG)(namespaces.namespaces)
app.command("drop", epilog=namespaces.DROP_EPILOG)(namespaces.drop)


# -- tables ----------------------------------------------------------------------------------------------------------
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
