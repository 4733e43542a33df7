# SPDX-License-Identifier: Apache-2.0
"""``memkv doctor``: finds what is wrong and says what to do."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from memkv_server.cli.output import err, examples, print_json, print_table
from memkv_server.doctor.finding import Finding, Verdict, exit_code

EPILOG = examples(
    "memkv doctor                                             this shell's way to the cluster",
    "memkv doctor --server-config /etc/memkv/config.yaml      on a node: its drives as well",
    "memkv doctor --json | jq '.findings[] | select(.verdict != \"ok\")'",
)

_COLOURS: Final[dict[Verdict, str]] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    server_config: Annotated[
        Path | None, typer.Option(help="A node's configuration file: its drives are examined as well.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Examine settings, key, license, nodes, versions, clocks, this machine, drives and engines.

    Each line is ok, warn or fail, with the remedy. Exit code 1 where one failed.
    """
    from memkv_server.doctor.examine import examine  # the client with it: not for every command to load

    findings: list[Finding] = []
    with err.status("examining") if sys.stderr.isatty() else contextlib.nullcontext():
        findings.extend(examine(server_config))
    if as_json:
        counts = {verdict: sum(each.verdict == verdict for each in findings) for verdict in _COLOURS}
        print_json({"findings": [dataclasses.asdict(each) for each in findings], "counts": counts})
    else:
        print_table(_table(findings))
    raise typer.Exit(exit_code(findings))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("", "what", "seen", "remedy")
    for each in findings:
        colour = _COLOURS[each.verdict]
        table.add_row(f"[{colour}]{each.verdict}[/]", each.area, each.text, each.remedy or "")
    return table
