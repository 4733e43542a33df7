# SPDX-License-Identifier: Apache-2.0
"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table

err: Final = Console(stderr=True, highlight=False)
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def examples(*lines: str) -> str:
    """The epilog of a command's ``--help``: one example a line (typer joins lines that no blank line parts)."""
    return "\n\n".join(["Examples:", *(f"  {line.replace('[', chr(92) + '[')}" for line in lines)])


def print_json(value: Any) -> None:
    """``value`` as JSON on stdout, and nothing else."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(table: Table) -> None:
    """``table`` on stdout. Where stdout is no terminal it is as wide as it needs, so that nothing is cut off."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=240)
    console.print(table)


def note(text: str) -> None:
    """One line for a person, on stderr."""
    err.print(text, markup=False, soft_wrap=True)


def format_bytes(count: float) -> str:
    """``1536`` as ``1.5 KiB``."""
    for unit in _UNITS:
        if abs(count) < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """``93784`` as ``1d 2h``; the two largest units."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(int(seconds), size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
