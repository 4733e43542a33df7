# SPDX-License-Identifier: Apache-2.0
"""``memkv-sglang``: what an operator runs beside the engine. Errors are one line, exit code 2."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from memkv_core.errors import ConfigError, MemKVError
from memkv_sglang import __version__
from memkv_sglang.prompts import read_prompts
from memkv_sglang.warm import WarmReport, warm

app = typer.Typer(no_args_is_help=True, add_completion=False, help="MemKV beside a running sglang server.")


def _examples(*lines: str) -> str:
    """The end of a command's help: one example a line (typer joins lines that no blank line parts)."""
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines)])


@app.callback()
def _root() -> None:
    """Without a second command typer would make the only one the program itself."""


@app.command("version", epilog=_examples("memkv-sglang version"))
def version_command() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command(
    "warm",
    epilog=_examples(
        "memkv-sglang warm prompts.jsonl --url http://127.0.0.1:30000",
        "memkv-sglang warm prompts.jsonl --url http://127.0.0.1:30000 --concurrency 16 --json",
    ),
)
def warm_command(
    file: Annotated[Path, typer.Argument(help="JSONL: a prompt a line, text or token ids.")],
    url: Annotated[str, typer.Option(help="The sglang server's address.")],
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Prompts under way at once.")] = 4,
    timeout_s: Annotated[float, typer.Option(min=1, help="Longest wait for one prompt, in seconds.")] = 300,
    api_key: Annotated[str | None, typer.Option(envvar="SGLANG_API_KEY", help="The server's API key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Walk the prompts of FILE through a running sglang server and report what MemKV gave back."""
    prompts = list(read_prompts(file))
    if not prompts:
        raise ConfigError(f"{file} has no prompts", remedy="write one a line")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with _client(url, timeout_s, headers) as client:
        _check(client, url)
        with _progress() as progress:
            task = progress.add_task("warming", total=len(prompts), restored=0, recomputed=0)

            def show(report: WarmReport) -> None:
                progress.update(
                    task, completed=report.prompt_count + len(report.failures),
                    restored=report.restored_tokens, recomputed=report.recomputed_tokens,
                )  # fmt: skip

            report = warm(prompts, client, concurrency=concurrency, on_prompt=show)
    _print(report, as_json=as_json)
    if report.failures:
        line, reason = report.failures[0]
        _fail(f"{len(report.failures)} of {len(prompts)} prompts failed, the first in line {line}: {reason}", code=1)


def main() -> None:
    """The console script: one line on stderr for what goes wrong."""
    try:
        app(standalone_mode=True)
    except MemKVError as error:
        _fail(str(error), code=2)
    except KeyboardInterrupt:
        _fail("interrupted", code=130)


def _fail(line: str, *, code: int) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"memkv-sglang: {line}", markup=False)
    sys.exit(code)


def _client(url: str, timeout_s: float, headers: dict[str, str]) -> httpx.Client:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"--url {url}: {error}", remedy="write http://HOST:PORT") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"--url {url} is no http address", remedy="write http://HOST:PORT")
    return httpx.Client(base_url=parsed, timeout=httpx.Timeout(timeout_s, connect=10), headers=headers)


def _check(client: httpx.Client, url: str) -> None:
    """Before hundreds of prompts fail one by one: is a server there, and is it up?"""
    try:
        status = client.get("/health").status_code
    except httpx.HTTPError as error:
        raise ConfigError(f"no answer from {url}: {error}", remedy="start sglang there, or give its --url") from error
    if status != 200:
        raise ConfigError(f"{url}/health says {status}", remedy="wait until the server is ready")


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("restored {task.fields[restored]:,}  recomputed {task.fields[recomputed]:,}"),
        console=Console(stderr=True),
    )  # fmt: skip


def _print(report: WarmReport, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    table = Table("tokens", "count", "share", title=f"{report.prompt_count} prompts")
    rows = (
        ("restored from MemKV", report.restored_tokens),
        ("in the server's memory already", report.cached_tokens),
        ("recomputed", report.recomputed_tokens),
        ("all", report.token_count),
    )
    for name, count in rows:
        share = f"{100 * count / report.token_count:.1f} %" if report.token_count else ""
        table.add_row(name, f"{count:,}", share)
    Console().print(table)
    if report.without_details:
        typer.echo("The server does not say where cached tokens came from: start it with --enable-cache-report.")
