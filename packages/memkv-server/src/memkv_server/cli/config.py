# SPDX-License-Identifier: Apache-2.0
"""``memkv config show``: every setting, where it came from, and what it shadows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from memkv_core.config import ClientConfig
from memkv_core.settings import Setting
from memkv_server.cli.output import examples, note, print_json, print_table
from memkv_server.config import ServerConfig

app = typer.Typer(help="Look at the settings.", no_args_is_help=True)

_EXAMPLES: Final = (
    "memkv config show                                      the client's, of this shell",
    "memkv config show --server /etc/memkv/config.yaml      a node's",
)


@app.callback()
def root() -> None:
    """Look at the settings."""


@app.command("show", epilog=examples(*_EXAMPLES))
def show(
    server: Annotated[Path | None, typer.Option(help="Show a node's settings from this file instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Print every setting with its source, secrets masked; warn where a value that someone set has no effect."""
    rows = ServerConfig.load(server).explain() if server is not None else ClientConfig.explain()
    if as_json:
        print_json({"settings": [dataclasses.asdict(row) for row in rows]})
    else:
        print_table(_table(rows))
    for row in rows:
        if row.warning:
            note(f"warning: {row.warning}")


def _table(rows: Sequence[Setting]) -> Table:
    table = Table("setting", "value", "source", "shadowed")
    for row in rows:
        table.add_row(row.name, row.value, row.source, ", ".join(row.shadowed))
    return table
