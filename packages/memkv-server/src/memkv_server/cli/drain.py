# SPDX-License-Identifier: Apache-2.0
"""``memkv admin drain``: takes nodes out of service without an error for their clients, and puts them back."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer
from rich.table import Table

from memkv_core.auth import admin_token
from memkv_core.errors import ConfigError
from memkv_server.admin_client import Reply, ask_all
from memkv_server.cli.admin_flags import AsJson, KeyFile, Servers, cluster_key, nodes_of, reply_as_json
from memkv_server.cli.output import examples, print_json, print_table

EPILOG: Final = examples(
    "memkv admin drain --server host-a:9901            before an upgrade; what it stored stays",
    "memkv admin drain --server host-a:9901 --undo     it serves again",
)
_POLL_S: Final = 0.2


def drain(
    server: Servers = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until every connection has ended.")] = 10.0,
    undo: Annotated[bool, typer.Option("--undo", help="Take clients again.")] = False,
    auth_key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a node's clients go between two requests and take no others, until --undo or a restart.

    Their keys of this node miss at once; with replicas they are read from the others. Exit code 1 where a node does not
    answer, or still has connections after --wait seconds.
    """
    if not server:
        raise ConfigError(
            "no node is named", remedy="give --server HOST:9901; a whole cluster is not drained by mistake"
        )
    nodes, token = nodes_of(server), admin_token(cluster_key(auth_key_file))
    end_s = time.monotonic() + wait
    while True:
        replies = ask_all(nodes, "/v1/drain", token, method="DELETE" if undo else "POST")
        if all(_done(reply, undo) or reply.error for reply in replies) or time.monotonic() >= end_s:
            break
        time.sleep(_POLL_S)
    if as_json:
        print_json({"nodes": [reply_as_json(reply) for reply in replies]})
    else:
        print_table(_table(replies))
    raise typer.Exit(0 if all(_done(reply, undo) for reply in replies) else 1)


def _done(reply: Reply, undo: bool) -> bool:
    body = reply.body or {}
    return body.get("draining") is (not undo) and (undo or body.get("connections") == 0)


def _table(replies: list[Reply]) -> Table:
    table = Table("node", "state", "connections")
    for reply in replies:
        if reply.error or reply.body is None:
            table.add_row(reply.node, f"[red]{reply.error or 'no MemKV node'}[/]")
        else:
            state = "drained" if reply.body["draining"] else "serving"
            table.add_row(reply.node, state, str(reply.body["connections"]))
    return table
