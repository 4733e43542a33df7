# SPDX-License-Identifier: Apache-2.0
"""Figures of the peers as files, as tables and as pictures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from memkv_benchmarks.contenders import ENTRIES
from memkv_benchmarks.rounds import SHAPES, Figures, Shape
from memkv_server.bench.machine import describe_load, describe_machine, describe_versions
from memkv_server.bench.plan import median_ratio
from memkv_server.plot import Bars, bar_chart, linear_axis

_YARDSTICK: Final = "raw"
_PICTURED_MAX: Final = 3.0  # of the yardstick; what is faster reaches the upper edge


def save(folder: Path, shape: Shape, figures: Mapping[str, Figures], command: str) -> None:
    """One size as a file: all its contenders are of one run."""
    path = folder / f"{shape.block_bytes >> 10}KiB.json"
    described = {
        "machine": f"{describe_machine()}, {describe_load()}",
        "versions": describe_versions(),
        "command": command,
        "shape": asdict(shape),
        "figures": {name: asdict(figure) for name, figure in figures.items()},
    }
    path.write_text(json.dumps(described, indent=1) + "\n")


def table(shape: Shape, figures: Mapping[str, Figures]) -> str:
    """Markdown: medians, and the median of the ratios round by round to the C program."""
    rows = [
        f"| {shape.words} | put | beside C | get | beside C | exists, the batch | exists, one key |",
        "|---|---|---|---|---|---|---|",
    ]
    yardstick = figures.get(_YARDSTICK)
    most = max((len(figure.put_bytes_per_s) for figure in figures.values()), default=0)
    for name, figure in figures.items():
        title = ENTRIES[name].title
        if figure.error is not None or not figure.put_bytes_per_s:
            rows.append(f"| {title} | not measured: {figure.error or 'no round'} | | | | | |")
            continue
        count = len(figure.put_bytes_per_s)
        cells = [title if count == most else f"{title} ({count} of {most} rounds)"]
        for mine, theirs in (
            (figure.put_bytes_per_s, yardstick.put_bytes_per_s if yardstick else []),
            (figure.get_bytes_per_s, yardstick.get_bytes_per_s if yardstick else []),
        ):
            cells.append(f"{statistics.median(mine) / 1e9:.2f} GB/s")
            cells.append(f"{_ratio(mine, theirs):.2f}" if theirs else "-")
        if name in ("raw", "memmove"):
            cells += ["-", "-"]
        else:
            cells += [f"{statistics.median(each) * 1e6:,.0f} us" for each in (figure.exists_s, figure.one_s)]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def render(folder: Path, docs: Path) -> None:
    """``benchmarks-peers.md`` and a picture each of put and get, from the files of ``folder``."""
    found = _load(folder)
    parts = [
        "<!-- made by benchmarks/bench_peers.py --render; see benchmarks.md for what it says -->",
        "# MemKV and its peers",
        "",
    ]
    for shape, figures, _ in found:
        parts += [table(shape, figures)]
    described = found[-1][2]
    versions: dict[str, str] = {}
    for _, figures, _ in found:
        versions.update({name: figure.versions for name, figure in figures.items() if figure.versions})
    parts += [f"{described['machine']}; {described['versions']}. `{described['command']}`", ""]
    parts += [f"- {ENTRIES[name].title}: {words}" for name, words in versions.items()]
    (docs / "benchmarks-peers.md").write_text("\n".join(parts) + "\n")
    for operation in ("get", "put"):
        picture = _picture(operation, found)
        (docs / f"benchmarks-peers-{operation}.svg").write_text(picture)


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the rounds that both did: they are the first ones."""
    count = min(len(mine), len(theirs))
    return median_ratio(mine[:count], theirs[:count])


def _load(folder: Path) -> list[tuple[Shape, dict[str, Figures], dict[str, Any]]]:
    found = []
    for shape in SHAPES:
        path = folder / f"{shape.block_bytes >> 10}KiB.json"
        if path.exists():
            described = json.loads(path.read_text())
            figures = {name: Figures(**figure) for name, figure in described["figures"].items()}
            found.append((Shape(**described["shape"]), figures, described))
    if not found:
        raise SystemExit(f"{folder} holds no figures: run the benchmark first")
    return found


def _picture(operation: str, found: list[tuple[Shape, dict[str, Figures], dict[str, Any]]]) -> str:
    names = [name for name in ENTRIES if name != _YARDSTICK and any(name in figures for _, figures, _ in found)]
    bars = []
    for name in names:
        values: list[float | None] = []
        for _, figures, _ in found:
            both = (figures.get(each, Figures()) for each in (name, _YARDSTICK))
            mine, theirs = (getattr(each, f"{operation}_bytes_per_s") for each in both)
            values.append(_ratio(mine, theirs) if mine and theirs else None)
        bars.append(Bars(ENTRIES[name].title, values))
    described = found[-1][2]
    about = f"{described['versions']}; {described['machine']}"
    return bar_chart(
        f"{operation}: beside a C program over the same loopback TCP",
        [shape.words for shape, _, _ in found],
        bars,
        linear_axis("times the C program's bytes a second", 0, _PICTURED_MAX),
        [about, f"{described['command']}; higher is faster; every block is compared with what was put"],
        label="block size × blocks of a batch",
        mark=1.0,
    )
