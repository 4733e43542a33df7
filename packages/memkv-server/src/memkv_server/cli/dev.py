# SPDX-License-Identifier: Apache-2.0
"""``memkv dev``: a real cluster on this machine, in one command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from memkv_server import admin_client
from memkv_server import dev as cluster_of
from memkv_server.cli.output import err, examples, note, print_json, print_table
from memkv_server.dev_state import DevCluster

app = typer.Typer(help="Run a real cluster on this machine, for development.", no_args_is_help=True)

_EXAMPLES: Final = (
    "memkv dev up                                   one node on 127.0.0.1:9900, under ./memkv-dev",
    "memkv dev up --dir /tmp/kv --nodes 2 --port 0  two nodes on free ports",
    'eval "$(memkv dev up)"                         and set MEMKV_* in this shell',
    "memkv dev up --mode direct --memory-max-size 256MiB",
    "memkv dev status",
    "memkv dev down",
)
Dir = Annotated[Path, typer.Option(help="The cluster's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
DIR_DEFAULT: Final = Path("memkv-dev")


@app.command("up", epilog=examples(*_EXAMPLES))
def up(
    dir: Dir = DIR_DEFAULT,
    nodes: Annotated[int | None, typer.Option(help="Number of nodes. Default: 1, or as it was.")] = None,
    port: Annotated[
        int | None, typer.Option(help="First data port; the next nodes add 10. 0: free ports. Default: 9900.")
    ] = None,
    capacity: Annotated[str | None, typer.Option(help="Hard bound of each node. Default: 4GiB.")] = None,
    mode: Annotated[str | None, typer.Option(help="file, direct or memory. Default: file.")] = None,
    memory_max_size: Annotated[
        str | None, typer.Option(help="RAM pool of each node in mode direct. Default: 1GiB.")
    ] = None,
    durability: Annotated[str | None, typer.Option(help="relaxed or strict. Default: relaxed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start a cluster in the background and print what a client must export. Running nodes are left alone."""
    with _progress() as say:
        cluster = cluster_of.up(
            dir,
            nodes=nodes,
            port=port,
            capacity=capacity,
            mode=mode,
            memory_max_size=memory_max_size,
            durability=durability,
            progress=say,
        )
    if as_json:
        print_json(
            {
                "env": cluster.environment(),
                "nodes": [{"address": node.address, "admin": node.admin, "pid": node.pid} for node in cluster.nodes],
            }
        )
        return
    for name, value in cluster.environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    note(f"# {len(cluster.nodes)} node(s) ready; paste the lines above. Stop: memkv dev down --dir {dir}")
    note(f"# dashboard: http://{cluster.nodes[0].admin}/ with the token that `memkv admin token` prints")


@app.command("status", epilog=examples(*_EXAMPLES))
def status(dir: Dir = DIR_DEFAULT, as_json: AsJson = False) -> None:
    """Say which nodes run and how they are. Exit code 1 where one does not run."""
    cluster = cluster_of.require(dir)
    rows = _rows(cluster)
    if as_json:
        print_json({"dir": str(cluster.dir), "nodes": rows})
    else:
        table = Table("node", "admin", "pid", "state", title=str(cluster.dir))
        for row in rows:
            table.add_row(str(row["address"]), str(row["admin"]), str(row["pid"] or "-"), str(row["state"]))
        print_table(table)
    raise typer.Exit(0 if all(row["running"] for row in rows) else 1)


@app.command("down", epilog=examples(*_EXAMPLES))
def down(dir: Dir = DIR_DEFAULT) -> None:
    """Stop the cluster's nodes. Its folder stays, with every stored block; `memkv dev up` starts them again."""
    with _progress() as say:
        count = cluster_of.down(dir, progress=say)
    note(f"stopped {count} node(s); {dir} keeps their blocks" if count else "no node was running")


def _rows(cluster: DevCluster) -> list[dict[str, object]]:
    replies = admin_client.ask_all([node.admin for node in cluster.nodes], "/v1/health", None, timeout_s=2.0)
    rows: list[dict[str, object]] = []
    for node, reply in zip(cluster.nodes, replies, strict=True):
        running = cluster_of.node_running(node)
        state = (reply.body or {}).get("status", "starting") if running else "down"
        rows.append(
            {
                "address": node.address,
                "admin": node.admin,
                "pid": node.pid if running else None,
                "running": running,
                "state": state,
            }
        )
    return rows


@contextmanager
def _progress() -> Iterator[cluster_of.Progress]:
    """A spinner on a terminal, plain lines elsewhere; always on stderr."""
    if not sys.stderr.isatty():
        yield note
        return
    with err.status("") as spinner:
        yield spinner.update
