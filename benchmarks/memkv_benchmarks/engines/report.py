# SPDX-License-Identifier: Apache-2.0
"""Tables and pictures of what was measured on engines, and of how MemKV scales."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from memkv_benchmarks.engines.results import Curve, load
from memkv_server.plot import Line, line_chart, linear_axis, log_axis

_PAGE: Final = "benchmarks-engines.md"
_ENGINES: Final = ("sglang", "vllm")


def render(folder: Path, docs: Path) -> None:
    """``benchmarks-engines.md`` and its pictures, of the parts that ``folder`` has."""
    parts = [
        "<!-- made by benchmarks/bench_engines.py --render; see benchmarks.md for what it says -->",
        "# Engines, and how MemKV scales",
        "",
    ]
    found = {path.stem: load(path) for path in sorted(folder.glob("*.json"))}
    if not found:
        raise SystemExit(f"{folder} holds no figures: run the benchmark first")
    for name in _ENGINES:
        if name in found:
            about, curves = found[name]
            parts += _first_token(name, about, curves, docs)
    if "blocks" in found:
        parts += _blocks(*found["blocks"], docs)
    for name in ("clients", "nodes"):
        if name in found:
            parts += _throughput(name, *found[name], docs)
    (docs / _PAGE).write_text("\n".join(parts) + "\n")


def first_token_curves(curves: Sequence[Curve]) -> list[Curve]:
    """MemKV's lines first, and one line for what was computed: of all runs together."""
    together = Curve("computed")
    for curve in curves:
        if curve.name.startswith("computed"):
            for x, values in curve.samples.items():
                together.samples.setdefault(x, []).extend(values)
    loaded = sorted((c for c in curves if not c.name.startswith("computed")), key=lambda c: "MemKV" not in c.name)
    return [*loaded, together]


def _first_token(name: str, about: dict[str, Any], curves: Sequence[Curve], docs: Path) -> list[str]:
    lines = first_token_curves(curves)
    measured = [curve for curve in lines if curve.samples]
    title = f"Time to the first token, {about['title']}"
    picture = f"benchmarks-{name}.svg"
    _draw(docs / picture, title, measured, about, "tokens of the prompt", "milliseconds", scale=1e3)
    computed = dict(lines[-1].points())
    lengths = sorted({x for curve in measured for x in curve.samples})
    table = [
        f"## {title}",
        "",
        f"![{title}]({picture})",
        "",
        "| | " + " | ".join(f"{length:,} tokens" for length in lengths) + " |",
        "|---|" + "---|" * len(lengths),
    ]
    for curve in lines:
        points = dict(curve.points())
        if not points:
            table.append(f"| {curve.name} | {curve.note} |" + " |" * (len(lengths) - 1))
            continue
        cells = []
        for length in lengths:
            if length not in points:
                cells.append("-")
                continue
            words = f"{1e3 * points[length]:,.0f} ms"
            ratio = points[length] / computed[length] if length in computed else None
            cells.append(f"{words}, {ratio:.2f}" if ratio is not None and curve is not lines[-1] else words)
        table.append(f"| {curve.name} | " + " | ".join(cells) + " |")
    return [*table, "", f"Medians, and beside the computed one. {about['versions']}; {about['machine']}.", ""]


def _blocks(about: dict[str, Any], curves: Sequence[Curve], docs: Path) -> list[str]:
    title, picture = "Latency of a get by stored blocks", "benchmarks-blocks.svg"
    _draw(
        docs / picture, title, curves, about, "stored blocks of 1 KiB", "milliseconds of a get", scale=1e3, log_x=True
    )
    rows = [f"## {title}", "", f"![{title}]({picture})", ""]
    counts = sorted({x for curve in curves for x in curve.samples})
    rows += ["| p50, p99 | " + " | ".join(f"{count:,}" for count in counts) + " | last / first |"]
    rows += ["|---|" + "---|" * (len(counts) + 1)]
    for curve in curves:
        points = dict(curve.points())
        cells = [f"{1e6 * points[x]:,.0f} us, {1e6 * curve.high[x]:,.0f} us" for x in counts]
        rows.append(f"| {curve.name} | " + " | ".join(cells) + f" | {points[counts[-1]] / points[counts[0]]:.2f} |")
    return [*rows, "", f"{about['versions']}; {about['machine']}.", ""]


def _throughput(name: str, about: dict[str, Any], curves: Sequence[Curve], docs: Path) -> list[str]:
    title, picture = f"64 × 1 MiB by {name}", f"benchmarks-{name}.svg"
    _draw(docs / picture, title, curves, about, name, "GB/s of all clients", scale=1e-9, log_x=True)
    counts = sorted({x for curve in curves for x in curve.samples})
    rows = [f"## {title}", "", f"![{title}]({picture})", ""]
    rows += [f"| {name} | " + " | ".join(str(count) for count in counts) + " |", "|---|" + "---|" * len(counts)]
    for curve in curves:
        cells = [f"{statistics.median(curve.samples[x]) / 1e9:.2f} GB/s" for x in counts]
        rows.append(f"| {curve.name} | " + " | ".join(cells) + " |")
    return [*rows, "", f"{about['versions']}; {about['machine']}.", ""]


def _draw(
    path: Path,
    title: str,
    curves: Sequence[Curve],
    about: dict[str, Any],
    x_label: str,
    y_label: str,
    *,
    scale: float,
    log_x: bool = False,
) -> None:
    lines = [Line(curve.name, [(x, y * scale) for x, y in curve.points()]) for curve in curves]
    flat = [point for line in lines for point in line.points]
    xs, ys = [x for x, _ in flat], [y for _, y in flat]
    x = (log_axis if log_x else linear_axis)(x_label, min(xs), max(xs), "{:,.0f}".format)
    caption = [f"{about['versions']}; {about['machine']}", about["command"]]
    path.write_text(line_chart(title, lines, x, linear_axis(y_label, 0, max(ys)), caption))
