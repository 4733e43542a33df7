# SPDX-License-Identifier: Apache-2.0
"""A run as a picture: latency by quantile, a line for each operation, and what it was measured on."""

from __future__ import annotations

import math
from typing import Final

from memkv_server.bench.machine import describe_machine, describe_versions
from memkv_server.bench.plan import MOVING, Outcome, quantile
from memkv_server.bench.run import Report
from memkv_server.plot import Axis, Line, line_chart, log_axis

_QUANTILES: Final = ((0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"))
_BETWEEN: Final = (0.25, 0.75, 0.95, 0.97, 0.995, 0.998)


def plot_svg(report: Report, command: str) -> str:
    """The picture. Each further nine of the quantile is as wide as the one before."""
    lines = [Line(_words(name, outcome), _points(outcome)) for name, outcome in report.outcomes.items()]
    values = [value for line in lines for _, value in line.points]
    plan = report.plan
    title = f"memkv bench: {plan.clients} client(s), {plan.batch} × {plan.block_bytes / 1024:g} KiB a call"
    x = Axis("calls that took no longer", [(_nines(q), words) for q, words in _QUANTILES])
    y = log_axis("milliseconds of a call", min(values), max(values))
    return line_chart(title, lines, x, y, caption(command))


def caption(command: str) -> list[str]:
    """The lines that stand under every picture of figures."""
    return [f"{describe_versions()}; {describe_machine()}", command]


def _points(outcome: Outcome) -> list[tuple[float, float]]:
    latencies_s = outcome.latencies_s()
    shares = sorted({q for q, _ in _QUANTILES} | set(_BETWEEN))
    shares = [q for q in shares if q <= 1 - 1 / (len(latencies_s) + 1)]  # what this many calls can tell
    return [(_nines(q), max(quantile(latencies_s, q) * 1e3, 1e-3)) for q in shares]


def _words(name: str, outcome: Outcome) -> str:
    return f"{name}, {outcome.bytes_per_second / 1e9:.2f} GB/s" if name in MOVING else name


def _nines(q: float) -> float:
    return -math.log10(1 - q)
