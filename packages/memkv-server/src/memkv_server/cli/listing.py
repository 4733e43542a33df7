# SPDX-License-Identifier: Apache-2.0
"""``memkv ls``: the keys of a namespace, on all nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer
from rich.markup import escape
from rich.table import Table

from memkv_core.auth import admin_token
from memkv_core.errors import ConfigError
from memkv_core.namespaces import NAMESPACE_DEFAULT
from memkv_server.admin_client import ask
from memkv_server.cli.admin_flags import AsJson, KeyFile, Servers, cluster_key, nodes_of
from memkv_server.cli.block_client import NamespaceOf
from memkv_server.cli.client_settings import client_setting
from memkv_server.cli.output import examples, format_bytes, note, print_json, print_table
from memkv_server.limits import LISTED_KEYS_MAX

EPILOG: Final = examples(
    "memkv ls --namespace llama-3                     `memkv admin namespaces` lists the namespaces",
    "memkv ls -n llama-3 --prefix 'layer\\x00' --limit 1000",
    "memkv ls -n llama-3 --json | jq -r '.keys[].key'",
)
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Listed:
    """What one node answered. ``more``: there is more than was asked for."""

    node: str
    rows: list[dict[str, Any]]
    more: bool = False
    code: int | None = 200
    error: str | None = None


def ls(
    namespace: NamespaceOf = None,
    prefix: Annotated[str, typer.Option(help="Only keys that begin with this; escapes as they are printed.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Keys in all.")] = 100,
    server: Servers = None,
    auth_key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List the keys of a namespace, in no order, with the size of each block. Exit code 1 where a node does not answer.

    A key that is put or evicted meanwhile may be in the list or not. Each node goes through all its keys for it, a
    millisecond at a time between its clients' requests.
    """
    name = namespace or client_setting("namespace")[0] or NAMESPACE_DEFAULT
    token = admin_token(cluster_key(auth_key_file))
    answers: list[Listed] = []
    for node in nodes_of(server):
        left = limit - sum(len(each.rows) for each in answers)
        answers.append(_keys_of(node, token, {"namespace": name, "prefix": prefix}, left))
    if answers and all(each.code == 404 for each in answers):
        raise ConfigError(f"no node knows a namespace {name!r}", remedy="`memkv admin namespaces` lists them")
    refused = next((each.error for each in answers if each.code == 400), None)
    if refused is not None:
        raise ConfigError(refused)
    failed = [each for each in answers if each.error and each.code != 404]
    rows = [{**row, "node": each.node} for each in answers for row in each.rows]
    more = any(each.more for each in answers)
    if as_json:
        errors = {each.node: each.error for each in failed}
        print_json({"namespace": name, "keys": rows, "more": more, "errors": errors})
    else:
        print_table(_table(rows))
        for each in failed:
            note(f"{each.node}: {each.error}")
        if more:
            note(f"there are more than these {len(rows)}: raise --limit")
    raise typer.Exit(1 if failed else 0)


def _keys_of(node: str, token: str, query: dict[str, str], limit: int) -> Listed:
    """Up to ``limit`` keys of a node, page by page; one more is looked for, to know whether there is any."""
    rows: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None and len(rows) <= limit:
        asked = {**query, "limit": str(min(limit + 1 - len(rows), LISTED_KEYS_MAX)), "after": after}
        reply = ask(node, f"/v1/keys?{urlencode(asked)}", token, _TIMEOUT_S)
        if reply.error is not None or reply.body is None or "keys" not in reply.body:
            return Listed(node, rows[:limit], False, reply.code, reply.error or "no MemKV node")
        rows += reply.body["keys"]
        after = reply.body["after"]
    return Listed(node, rows[:limit], len(rows) > limit)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("key", "size", "meta", "node", "lane")
    for row in rows:
        table.add_row(
            escape(row["key"]), format_bytes(row["size"]), f"{row['meta_bytes']} B", row["node"], str(row["lane"])
        )
    return table
