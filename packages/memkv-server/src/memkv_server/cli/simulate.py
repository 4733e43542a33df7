# SPDX-License-Identifier: Apache-2.0
"""``memkv simulate``: what a capacity and an eviction policy are worth on a trace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from memkv_core.errors import ConfigError
from memkv_server.cli.output import err, examples, note, print_json, print_table
from memkv_server.simulate import limits

if TYPE_CHECKING:
    from memkv_server.simulate.replay import Outcome
    from memkv_server.simulate.trace import Trace

EPILOG = examples(
    "memkv simulate --trace conversation_trace.jsonl --plot hits.svg",
    "memkv simulate --trace trace.jsonl --capacity 5%,10%,64GiB --policy lru,memkv --json",
    "memkv simulate --trace synthetic:conversations --block-bytes 4MiB --segments 64 --hits leading",
)
_SYNTHETIC = "synthetic:"
Say = Callable[[str, int, int], None]


def simulate(
    trace: Annotated[
        str, typer.Option(help="File of requests, a JSON line each with its hash_ids; or synthetic:NAME.")
    ],
    capacity: Annotated[
        list[str] | None,
        typer.Option(help="Blocks (9000), bytes (64GiB) or a share of the distinct blocks (5%); several with commas."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="fifo, lru, s3-fifo, sieve, memkv (a node's own); several with commas. Default: all."),
    ] = None,
    block_bytes: Annotated[str, typer.Option(help="Size of a block: sets how large a node's segments are.")] = "1MiB",
    segments: Annotated[
        int | None,
        typer.Option(min=1, max=limits.SEGMENTS_MAX, help="Cut a node into so many, in place of its default."),
    ] = None,
    hits: Annotated[str, typer.Option(help="What table and plot show: block, or leading (of a prefix).")] = "block",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    plot: Annotated[Path | None, typer.Option(help="File for an SVG of hit ratio against capacity.")] = None,
) -> None:
    """Replay a trace of blocks against eviction policies: hit ratio by capacity, and what it costs in writes.

    A request reads the leading run of its blocks that are there and puts the rest. memkv is a node's own policy: whole
    segments, with the copies that it makes. The others move single blocks for free, as no drive can. Capacities are
    5% to 50% of the distinct blocks unless given.
    """
    from memkv_server.simulate.replay import POLICIES, parse_capacities, sweep  # numpy with it: not for every command

    if hits not in ("leading", "block"):
        raise ConfigError(f"--hits {hits!r}", remedy="use block or leading")
    if plot is not None and not plot.parent.is_dir():
        raise ConfigError(f"--plot {plot}: there is no such folder", remedy="make it first")
    names = list(dict.fromkeys(_split(policy) or POLICIES))
    size = _size(block_bytes)
    loaded = _load(trace)
    capacities = parse_capacities(_split(capacity) or limits.CAPACITY_SHARES_DEFAULT, loaded.distinct_count, size)
    with _progress(len(loaded.requests) * len(names) * len(capacities)) as say:
        outcomes = list(sweep(loaded, names, capacities, block_bytes=size, segment_count=segments, progress=say))
    if plot is not None:
        from memkv_server.simulate.plot import plot_svg

        plot.write_text(plot_svg(outcomes, loaded.distinct_count, loaded.name, leading=hits == "leading"))
    if as_json:
        print_json(_described(loaded, size, outcomes))
    else:
        print_table(_table(loaded, names, outcomes, hits))
        if plot is not None:
            note(f"plot: {plot}")


def _split(values: Sequence[str] | None) -> list[str]:
    """``["5%,10%", "64GiB"]`` as three."""
    return [part.strip() for value in values or () for part in value.split(",")]


def _size(text: str) -> int:
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if not limits.BLOCK_BYTES_MIN <= size <= limits.BLOCK_BYTES_MAX:
        raise ConfigError(
            f"--block-bytes {text!r} is no size of a block",
            remedy=f"give {limits.BLOCK_BYTES_MIN} to {limits.BLOCK_BYTES_MAX} bytes, such as 64KiB or 1MiB",
        )
    return size


def _load(name: str) -> Trace:
    from memkv_server.simulate.synthetic import synthetic_trace
    from memkv_server.simulate.trace import read_trace

    if name.startswith(_SYNTHETIC):
        return synthetic_trace(name.removeprefix(_SYNTHETIC))
    return read_trace(Path(name))


def _described(trace: Trace, block_bytes: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "trace": trace.name,
        "requests": len(trace.requests),
        "references": trace.reference_count,
        "distinct_blocks": trace.distinct_count,
        "block_bytes": block_bytes,
        "outcomes": [outcome.as_json() for outcome in outcomes],
    }


def _table(trace: Trace, names: Sequence[str], outcomes: Sequence[Outcome], hits: str) -> Table:
    """A row for each capacity: the ratios, the best of them bold; how far memkv is from the best other; its writes.

    The headings wrap at spaces: with all policies it is as wide as a terminal of 80 columns.
    """
    from memkv_server.simulate.replay import OURS

    caption = f"{hits} hits, % of {trace.reference_count:,} references to {trace.distinct_count:,} distinct blocks"
    others = [name for name in names if name != OURS]
    judged = ("to best",) if OURS in names and others else ()
    table = Table("share", "blocks", *names, *judged, title=trace.name, caption=caption)
    if OURS in names:
        table.add_column("write amp.")
    for column in table.columns:
        column.justify = "right"
    rows: dict[int, dict[str, float]] = {}
    writes: dict[int, float] = {}
    for outcome in outcomes:
        ratio = outcome.leading_hit_ratio if hits == "leading" else outcome.block_hit_ratio
        rows.setdefault(outcome.capacity_blocks, {})[outcome.policy] = 100 * ratio
        if outcome.policy == OURS:
            writes[outcome.capacity_blocks] = outcome.write_amplification
    for capacity, row in rows.items():
        cells = [f"{100 * capacity / trace.distinct_count:.1f} %", f"{capacity:,}"]
        cells += [
            f"[bold]{row[name]:.2f}[/]" if row[name] == max(row.values()) else f"{row[name]:.2f}" for name in names
        ]
        cells += [f"{row[OURS] - max(row[name] for name in others):+.2f}" for _ in judged]
        cells += [f"{writes[capacity]:.3f}"] if capacity in writes else []
        table.add_row(*cells)
    return table


@contextmanager
def _progress(total: int) -> Iterator[Say]:
    """A bar on a terminal, a line for each replay elsewhere; always on stderr."""
    if not sys.stderr.isatty():
        last: list[tuple[str, int]] = []

        def line(name: str, capacity: int, _: int) -> None:
            if (name, capacity) not in last:
                last[:] = [(name, capacity)]
                note(f"{name}, {capacity:,} blocks")

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=total)

        def say(name: str, capacity: int, count: int) -> None:
            bar.update(task, description=f"{name}, {capacity:,} blocks", advance=count)

        yield say
