# SPDX-License-Identifier: Apache-2.0
"""``memkv-lmcache``: what an operator runs beside LMCache. Errors are one line, exit code 2; a failed check is 1."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from memkv_core.errors import MemKVError
from memkv_lmcache import __version__
from memkv_lmcache.check import check

app = typer.Typer(no_args_is_help=True, add_completion=False, help="MemKV beside LMCache.")

_STYLES: Final = {"ok": "green", "warning": "yellow", "error": "red"}


def _examples(*lines: str) -> str:
    """The end of a command's help: one example a line (typer joins lines that no blank line parts)."""
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines)])


@app.callback()
def _root() -> None:
    """Without a second command typer would make the only one the program itself."""


@app.command("version", epilog=_examples("memkv-lmcache version"))
def version_command() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command(
    "check",
    epilog=_examples(
        "memkv-lmcache check --config lmcache.yaml",
        """memkv-lmcache check --l2-adapter '{"type":"plugin", ...}'   what `lmcache server` is given""",
    ),
)
def check_command(
    config: Annotated[
        Path | None, typer.Option(help="LMCache's yaml (in-process mode). Default: LMCACHE_CONFIG_FILE, if set.")
    ] = None,
    l2_adapter: Annotated[
        str | None, typer.Option(help="The JSON for `lmcache server --l2-adapter` (MP mode).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Say whether LMCache would load MemKV, reach the cluster, and hit what another process stored."""
    path = config or (Path(named) if l2_adapter is None and (named := os.environ.get("LMCACHE_CONFIG_FILE")) else None)
    findings = list(check(path, l2_adapter))
    failed = any(finding.verdict == "error" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            console.print(f"{finding.verdict:8}", style=_STYLES[finding.verdict], end="")
            console.print(finding.text, markup=False)
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """The console script: one line on stderr for what goes wrong."""
    try:
        app(standalone_mode=True)
    except MemKVError as error:
        _fail(str(error), code=2)
    except KeyboardInterrupt:
        _fail("interrupted", code=130)


def _fail(line: str, *, code: int) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"memkv-lmcache: {line}", markup=False)
    sys.exit(code)
