# SPDX-License-Identifier: Apache-2.0
"""``memkv admin namespaces`` and ``memkv admin drop``: what is kept for whom, on all nodes, and the end of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Table

from memkv_core.auth import admin_token
from memkv_core.errors import ConfigError
from memkv_server.admin_client import Reply, ask_all
from memkv_server.cli.admin_flags import AsJson, KeyFile, Servers, cluster_key, nodes_of, reply_as_json
from memkv_server.cli.output import examples, format_bytes, format_seconds, note, print_json, print_table
from memkv_server.engine.usage import join_namespaces

LIST_EPILOG: Final = examples(
    "memkv admin namespaces                    all nodes of MEMKV_SERVERS, added up",
    "memkv admin namespaces --json             each node by itself",
)
DROP_EPILOG: Final = examples(
    "memkv admin drop llama-3-test             asks before it does",
    "memkv admin drop llama-3-test --yes --json",
)
_TIMEOUT_S: Final = 30.0


def namespaces(server: Servers = None, auth_key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Records, bytes and hits of each namespace, over all nodes. Exit code 1 where a node does not answer."""
    replies = ask_all(nodes_of(server), "/v1/namespaces", admin_token(cluster_key(auth_key_file)), _TIMEOUT_S)
    if as_json:
        print_json({"nodes": [reply_as_json(reply) for reply in replies]})
    else:
        print_table(_table(_added_up(replies)))
        _note_failures(replies)
    raise typer.Exit(1 if any(_failed(reply) for reply in replies) else 0)


def drop(
    namespace: Annotated[str, typer.Argument(help="Its name, as `memkv admin namespaces` shows it.")],
    server: Servers = None,
    auth_key_file: KeyFile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop a namespace on all nodes, at once: no record of it is found again. Its space comes back by eviction.

    Clients that use it go on, with an empty namespace. Exit code 1 where a node has not dropped it everywhere.
    """
    nodes, token = nodes_of(server), admin_token(cluster_key(auth_key_file))
    if not yes:
        _confirm(namespace, nodes, token)
    path = f"/v1/namespaces/{quote(namespace, safe='')}"
    replies = ask_all(nodes, path, token, _TIMEOUT_S, "DELETE")
    if replies and all(reply.code == 404 for reply in replies):
        raise _unknown(namespace)
    if as_json:
        print_json({"nodes": [reply_as_json(reply) for reply in replies]})
    else:
        print_table(_dropped_table(replies))
    raise typer.Exit(0 if all(reply.code in (200, 404) for reply in replies) else 1)


def _confirm(namespace: str, nodes: Sequence[str], token: str) -> None:
    """Says what would go and asks. ConfigError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask on", remedy="give --yes to drop it without a question")
    replies = ask_all(nodes, "/v1/namespaces", token, _TIMEOUT_S)
    _note_failures(replies)
    found = next((row for row in _added_up(replies) if row["name"] == namespace), None)
    if found is None and not any(map(_failed, replies)):
        raise _unknown(namespace)
    if found is None:
        found = {"records": 0, "bytes": 0}
    what = f"{found['records']:,} records, {format_bytes(found['bytes'])}"
    typer.confirm(f"Drop namespace {namespace!r} on {len(nodes)} nodes ({what})?", abort=True, err=True)


def _unknown(namespace: str) -> ConfigError:
    return ConfigError(f"no node knows a namespace {namespace!r}", remedy="`memkv admin namespaces` lists them")


# -- replies ---------------------------------------------------------------------------------------------------------
def _failed(reply: Reply) -> str | None:
    """Why a reply is not the whole truth, or None."""
    if reply.error or reply.body is None or "namespaces" not in reply.body:
        return reply.error or "no MemKV node"
    lanes = reply.body["lanes"]
    return None if lanes["serving"] == lanes["total"] else f"{lanes['serving']} of {lanes['total']} lanes answered"


def _note_failures(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if (failure := _failed(reply)) is not None:
            note(f"{reply.node}: {failure}")


def _added_up(replies: Sequence[Reply]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for reply in replies:
        rows = join_namespaces(rows, (reply.body or {}).get("namespaces", []))
    return sorted(rows, key=lambda row: -int(row["bytes"]))


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "namespace", "identity", "records", "bytes", "quota", "ttl", "hits", "misses", "expired", "over quota"
    )
    for row in rows:
        table.add_row(
            escape(row["name"]),
            row["identity_digest"][:12],
            f"{row['records']:,}",
            format_bytes(row["bytes"]),
            format_bytes(row["quota_bytes"]) if row.get("quota_bytes") is not None else "-",
            format_seconds(row["ttl_seconds"]) if row.get("ttl_seconds") is not None else "-",
            *(f"{row.get(count, 0):,}" for count in ("hits", "misses", "expired_records", "over_quota_records")),
        )
    return table


def _dropped_table(replies: Sequence[Reply]) -> Table:
    table = Table("node", "dropped", "records", "bytes", "lanes", "seconds", "drives away")
    for reply in replies:
        body = reply.body
        if reply.code == 404 and body is not None and "lanes" in body:
            table.add_row(reply.node, "not known")
        elif reply.error or body is None or "lanes" not in body:
            table.add_row(reply.node, f"[red]{escape(reply.error or 'no MemKV node')}[/]")
        else:
            table.add_row(
                reply.node,
                "[green]yes[/]",
                f"{body['records']:,}",
                format_bytes(body["bytes"]),
                f"{body['lanes']['dropped']}/{body['lanes']['total']}",
                f"{body['seconds']:.3f}",
                escape(", ".join(body["away"])) or "-",
            )
    return table
