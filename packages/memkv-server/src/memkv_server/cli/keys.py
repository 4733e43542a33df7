# SPDX-License-Identifier: Apache-2.0
"""``memkv keygen``: makes a cluster key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memkv_server.cli.output import examples, note
from memkv_server.keyfile import generate_key, write_private

EPILOG = examples(
    "memkv keygen --out auth.key",
    "export MEMKV_AUTH_KEY=$(memkv keygen)",
)


def keygen(
    out: Annotated[Path | None, typer.Option(help="Write it to this new file, mode 0600, instead of stdout.")] = None,
) -> None:
    """Make a cluster key: 32 random bytes as 64 hex digits. Every node and client of a cluster has the same."""
    key = generate_key()
    if out is None:
        typer.echo(key)
        return
    write_private(out, key + "\n")
    note(f"wrote a new cluster key to {out}")
