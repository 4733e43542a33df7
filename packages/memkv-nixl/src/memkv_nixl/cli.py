# SPDX-License-Identifier: Apache-2.0
"""``memkv-nixl``: puts the plugin where NIXL finds it, and says whether it works there.

Errors are one line, exit code 2; a failed check is 1.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from memkv_core.errors import MemKVError
from memkv_nixl import __version__
from memkv_nixl._compat import installed_builds, require_builds
from memkv_nixl.bench import Row, bench
from memkv_nixl.check import check
from memkv_nixl.links import ALIASES, NAME, Place, install, place_of, uninstall
from memkv_nixl.mirror import mirror

app = typer.Typer(no_args_is_help=True, add_completion=False, help="MemKV as a storage backend of NIXL.")

_STYLES: Final = {"ok": "green", "warning": "yellow", "error": "red"}
_STATES: Final = {"ours": "MemKV", "stale": "a link to a MemKV that is gone", "theirs": "NIXL's own", "absent": "-"}
_Plugins = Annotated[Path | None, typer.Option(help="The folder of plugins. Default: each installed NIXL's own.")]
_Alias = Annotated[list[str] | None, typer.Option(help=f"Stand in for this plugin too: {', '.join(ALIASES)}.")]


def _examples(*lines: str) -> str:
    """The end of a command's help: one example a line (typer joins lines that no blank line parts)."""
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines)])


@app.command("version", epilog=_examples("memkv-nixl version"))
def version_command() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command("install", epilog=_examples("memkv-nixl install", "memkv-nixl install --alias OBJ"))
def install_command(plugins: _Plugins = None, alias: _Alias = None) -> None:
    """Link the plugin into the installed NIXL's folder of plugins. Again after NIXL was upgraded."""
    for folder in _folders(plugins):
        _show(install(folder, tuple(alias or ())))


@app.command("uninstall", epilog=_examples("memkv-nixl uninstall"))
def uninstall_command(plugins: _Plugins = None) -> None:
    """Take the plugin and its aliases away, and put back what they stood for."""
    for folder in _folders(plugins):
        _show(uninstall(folder))


@app.command("status", epilog=_examples("memkv-nixl status", "memkv-nixl status --json"))
def status_command(
    plugins: _Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Say which NIXL is installed and what stands under our names there. Exit code 1 where the plugin is not."""
    builds = [] if plugins else installed_builds()
    folders = [plugins] if plugins else [build.plugins for build in builds]
    places = [place_of(folder, name) for folder in folders for name in (NAME, *ALIASES)]
    if as_json:
        described = [{**asdict(place), "path": str(place.path)} for place in places]
        versions = {build.module: build.version for build in builds}
        typer.echo(json.dumps({"nixl": versions, "places": described}))
    else:
        for build in builds:
            typer.echo(f"{build.module} {build.version}")
        _show(places)
    raise typer.Exit(0 if any(place.name == NAME and place.state == "ours" for place in places) else 1)


@app.command("env", epilog=_examples('eval "$(memkv-nixl env)"', "memkv-nixl env --alias OBJ"))
def env_command(alias: _Alias = None) -> None:
    """Print what a shell must export where NIXL's folder cannot be written: eval "$(memkv-nixl env)"."""
    build = require_builds()[0]
    typer.echo(f"export NIXL_PLUGIN_DIR={shlex.quote(str(mirror(build, tuple(alias or ()))))}")


@app.command("check", epilog=_examples("memkv-nixl check", "memkv-nixl check --json"))
def check_command(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Say whether NIXL would load the plugin, reach the cluster, and read what it wrote."""
    findings = list(check())
    failed = any(finding.verdict == "error" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            console.print(f"{finding.verdict:8}", style=_STYLES[finding.verdict], end="")
            console.print(finding.text, markup=False)
    raise typer.Exit(1 if failed else 0)


@app.command("bench", epilog=_examples("memkv-nixl bench", "memkv-nixl bench --sizes 64,1024 --rounds 15 --json"))
def bench_command(
    sizes: Annotated[str, typer.Option(help="Sizes of a block in KiB, separated by commas.")] = "16,64,1024",
    batch_mib: Annotated[int, typer.Option(min=1, max=1024, help="A batch's size in MiB.")] = 64,
    blocks_max: Annotated[int, typer.Option(min=1, max=4096, help="Blocks of a batch at most.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds; medians are shown.")] = 7,
    posix: Annotated[bool, typer.Option(help="NIXL's POSIX plugin too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Measure write, read and query through an agent, beside MemKV's Python client and NIXL's POSIX plugin."""
    build = require_builds()[0]
    rows: list[Row] = []
    for size in sizes.split(","):
        if not size.strip().isdigit() or not 1 <= int(size) <= 262_144:
            raise typer.BadParameter(f"{size!r} is no size in KiB from 1 to 262144", param_hint="--sizes")
        block_bytes = int(size) * 1024
        count = max(1, min(blocks_max, batch_mib * 1024 * 1024 // block_bytes))
        rows += bench(build, block_bytes, count, rounds=rounds, posix=posix)
    if as_json:
        typer.echo(json.dumps({"nixl": build.version, "rows": [asdict(row) for row in rows]}))
    else:
        _table(rows, f"NIXL {build.version}")


def main() -> None:
    """The console script: one line on stderr for what goes wrong."""
    try:
        app(standalone_mode=True)
    except MemKVError as error:
        _fail(str(error), code=2)
    except KeyboardInterrupt:
        _fail("interrupted", code=130)


def _folders(plugins: Path | None) -> list[Path]:
    return [plugins] if plugins else [build.plugins for build in require_builds()]


def _show(places: Iterable[Place]) -> None:
    for place in places:
        note = " (NIXL's own is kept beside it)" if place.kept else ""
        typer.echo(f"{place.name:6} {_STATES[place.state]}{note}: {place.path}")


def _table(rows: Iterable[Row], title: str) -> None:
    table = Table("block", "blocks", "", "write GB/s", "read GB/s", "query ms", title=title)
    for row in rows:
        speeds = (f"{row.rate(row.write_s):.2f}", f"{row.rate(row.read_s):.2f}", f"{row.query_s * 1000:.2f}")
        table.add_row(f"{row.block_bytes // 1024} KiB", str(row.block_count), row.name, *speeds)
    Console(highlight=False).print(table)


def _fail(line: str, *, code: int) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"memkv-nixl: {line}", markup=False)
    sys.exit(code)
