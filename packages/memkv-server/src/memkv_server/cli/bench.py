# SPDX-License-Identifier: Apache-2.0
"""``memkv bench``: measures a running cluster from the client's side."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from memkv_core.errors import ConfigError
from memkv_server.bench.plan import MOVING, OPERATIONS, Moves, Outcome, Plan, median_ratio, quantile
from memkv_server.cli.output import err, examples, format_bytes, note, print_json, print_table

if TYPE_CHECKING:
    from memkv_server.bench.run import Progress, Report

EPILOG = examples(
    'eval "$(memkv dev up)" && memkv bench',
    "memkv bench --op get --op put --block-size 1MiB --batch 64 --fill 4GiB --compare raw",
    "memkv bench --op put --slices 11 --rounds 32   (32 x 64 MiB: a node of 2 GiB is written over eleven times)",
    "memkv bench --op mixed --clients 4 --duration 30 --transport tcp --plot latency.svg",
    "memkv bench --op exists --compare redis --redis-address 127.0.0.1:6379 --json",
)

_QUANTILES = (0.5, 0.99, 0.999)


def bench(
    op: Annotated[
        list[str] | None, typer.Option(help="put, get, exists, lookup or mixed; repeat it. Default: all.")
    ] = None,
    block_size: Annotated[str, typer.Option(help="Bytes of a block, such as 1MiB.")] = "1MiB",
    batch: Annotated[int, typer.Option(help="Blocks of one put or get call.")] = 64,
    batches: Annotated[int, typer.Option(help="Distinct batches that gets go through.")] = 4,
    exists_keys: Annotated[int, typer.Option(help="Keys of one exists call.")] = 1,
    lookup_keys: Annotated[int, typer.Option(help="Keys of one lookup call.")] = 2000,
    clients: Annotated[int, typer.Option(help="Client processes.")] = 1,
    duration: Annotated[float, typer.Option(help="Seconds for each operation.")] = 6.0,
    fill: Annotated[str, typer.Option(help="Bytes written before measuring: fresh space is slow at first.")] = "0",
    rounds: Annotated[int | None, typer.Option(help="Calls of each client and slice, in place of --duration.")] = None,
    transport: Annotated[str | None, typer.Option(help="auto, tcp, shm or rdma, in place of the setting.")] = None,
    slices: Annotated[int, typer.Option(help="Turns that an operation and a comparison take.")] = 3,
    namespace: Annotated[str, typer.Option(help="Namespace to write to.")] = "memkv-bench",
    compare: Annotated[list[str] | None, typer.Option(help="raw (a C program) or redis; repeat it.")] = None,
    redis_address: Annotated[str, typer.Option(help="host:port of a redis-server.")] = "127.0.0.1:6379",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    plot: Annotated[Path | None, typer.Option(help="File for an SVG of latency by quantile.")] = None,
) -> None:
    """Measure put, get, exists, lookup and a mix of them on the cluster that MEMKV_* names. Every block is verified.

    mixed is, of ten calls, six gets, two puts, one exists and one lookup. Blocks are written to a namespace of their
    own and deleted at the end; a full cluster evicts to make room. last/first is the speed of the last slice beside
    the first one's.
    Exit code 1 where a key that should have been there was not.
    """
    from memkv_server.bench.run import run  # numpy with it: not for every command to load

    wanted = compare or []
    if unknown := set(wanted) - {"raw", "redis"}:
        raise ConfigError(f"--compare {min(unknown)!r}", remedy="use raw or redis")
    if plot is not None and not plot.parent.is_dir():
        raise ConfigError(f"--plot {plot}: there is no such folder", remedy="make it first")
    plan = Plan(
        operations=tuple(op) if op else OPERATIONS,
        block_bytes=_size(block_size, "--block-size"),
        batch=batch,
        batches=batches,
        exists_keys=exists_keys,
        lookup_keys=lookup_keys,
        clients=clients,
        seconds=duration,
        slices=slices,
        fill_bytes=_size(fill, "--fill"),
        rounds=rounds,
        namespace=namespace,
        transport=transport,
        run=secrets.token_hex(8),
    )
    with _progress(plan) as progress:
        report = run(
            plan, raw="raw" in wanted, redis_address=redis_address if "redis" in wanted else None, progress=progress
        )
    if plot is not None:
        from memkv_server.bench.picture import plot_svg

        plot.write_text(plot_svg(report, shlex.join(["memkv", *sys.argv[1:]])))
        note(f"plot: {plot}")
    if as_json:
        print_json(report.as_json())
    else:
        print_table(_table(report))
        if report.moves or transport in ("shm", "rdma"):
            note(_moved(report.moves))
    if report.failures:
        note(f"{report.failures} keys that should have been there were not: evicted (raise the capacity) or in error")
        raise typer.Exit(1)


def _size(text: str, flag: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise ConfigError(f"{flag} {text!r} is no size", remedy="write bytes, or 64KiB, 1MiB") from None


def _table(report: Report) -> Table:
    plan = report.plan
    title = f"{plan.clients} client(s), {plan.batch} x {format_bytes(plan.block_bytes)} a call"
    compared = bool(report.raw_rates or report.redis_latencies_s)
    columns = ["operation", "calls", "keys/s", "GB/s", "last/first", "p50", "p99", "p99.9", "failures"]
    table = Table(*columns, *(["beside it", "ratio"] if compared else []), title=title)
    described = report.as_json()
    for name, outcome in report.outcomes.items():
        row = described["operations"][name]
        table.add_row(
            name,
            f"{row['calls']:,}",
            f"{outcome.keys_per_second:,.0f}",
            f"{outcome.bytes_per_second / 1e9:.2f}" if name in MOVING else "-",
            f"{outcome.last_to_first:.2f}" if name in MOVING and outcome.last_to_first is not None else "-",
            *(_latency(outcome.quantile_s(q)) for q in _QUANTILES),
            f"{row['failures']:,}",
            *(_beside(report, name, outcome) if compared else ()),
        )
        for kind in outcome.kinds():
            latencies_s = outcome.latencies_s(kind)
            of_kind = [_latency(quantile(latencies_s, q)) for q in _QUANTILES]
            table.add_row(f"  {kind}", f"{len(latencies_s):,}", "", "", "", *of_kind)
    return table


def _moved(moves: Moves) -> str:
    """How the payload went where servers move it."""
    fallbacks = ", ".join(f"{cause} {count}" for cause, count in sorted(moves.fallbacks.items())) or "none"
    return (
        f"moved from and to registered memory: {format_bytes(moves.registered_bytes)}, through staging: "
        f"{format_bytes(moves.staged_bytes)}; calls that went by tcp: {fallbacks}"
    )


def _beside(report: Report, name: str, outcome: Outcome) -> tuple[str, str]:
    if rates := report.raw_rates.get(name):
        mean = sum(rates) / len(rates)
        return f"C program {mean / 1e9:.2f} GB/s", f"{median_ratio(outcome.slice_rates(), rates):.2f}"
    if name == "exists" and report.redis_latencies_s:
        p50 = report.redis_p50_s()
        return f"redis {_latency(p50)}", f"{outcome.quantile_s(0.5) / p50:.2f}"
    return "-", "-"


def _latency(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 0.001 else f"{seconds * 1e3:.2f} ms"


@contextmanager
def _progress(plan: Plan) -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere; always on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(plan)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[speed]}"))
    with ProgressBar(*columns, console=err, transient=True) as bar:
        yield _Bar(plan, bar)


class _Lines:
    """A line for each slice."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def begin(self, operation: str) -> None:
        note(operation)

    def so_far(self, operation: str, index: int, calls: int, moved_bytes: int, seconds: float) -> None:
        """Nothing: a file or a log wants no line four times a second."""

    def end(self, operation: str, index: int, outcome: Outcome) -> None:
        speed = (
            f"{outcome.slice_rates()[-1] / 1e9:.2f} GB/s" if operation in MOVING else _latency(outcome.quantile_s(0.5))
        )
        note(f"{operation} {index + 1}/{self._plan.slices}: {speed}")


class _Bar:
    """A bar over all slices, and the speed of the one under way."""

    def __init__(self, plan: Plan, bar: ProgressBar) -> None:
        self._plan = plan
        self._bar = bar
        self._done = 0
        self._task = bar.add_task("prepare", total=len(plan.operations) * plan.slices, speed="")

    def begin(self, operation: str) -> None:
        self._bar.update(self._task, description=operation, speed="")

    def so_far(self, operation: str, index: int, calls: int, moved_bytes: int, seconds: float) -> None:
        plan = self._plan
        rounds = None if plan.rounds is None else plan.rounds * plan.clients
        share = seconds / plan.slice_seconds if rounds is None else calls / rounds
        speed = f"{moved_bytes / seconds / 1e9:.2f} GB/s, " if operation in MOVING else ""
        self._bar.update(
            self._task,
            description=f"{operation} {index + 1}/{plan.slices}",
            completed=self._done + min(share, 1.0),
            speed=f"{speed}{calls / seconds:,.0f} calls/s",
        )

    def end(self, operation: str, index: int, outcome: Outcome) -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done)
