# SPDX-License-Identifier: Apache-2.0
"""Hit ratio against capacity, as an SVG with nothing but shapes and text in it, for light pages and dark ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final
from xml.sax.saxutils import escape

from memkv_server.simulate.replay import OURS, Outcome

_WIDTH: Final = 760
_HEIGHT: Final = 460
_LEFT: Final = 64
_RIGHT: Final = 140  # room for the legend
_TOP: Final = 56
_BOTTOM: Final = 60
_STEPS: Final = (1, 2, 2.5, 5, 10)
# Told apart by people who see red and green alike (after Okabe and Ito), and in grey by dashes and marks.
_COLORS: Final = {  # on white, on dark
    "paper": ("#ffffff", "#1b1d23"),
    "ink": ("#2b2f36", "#d9dce3"),
    "grid": ("#e4e6ea", "#353943"),
    "fifo": ("#7a7f87", "#9aa0aa"),
    "lru": ("#0072b2", "#56b4e9"),
    "s3-fifo": ("#00805f", "#2fc79c"),
    "sieve": ("#b0579a", "#dd94c6"),
    OURS: ("#c84e00", "#ff9d4d"),
}
_DASHES: Final = {"fifo": "2 3", "lru": "7 4", "s3-fifo": "9 3 2 3", "sieve": "4 4"}


def plot_svg(outcomes: Sequence[Outcome], distinct_count: int, title: str, *, leading: bool = True) -> str:
    """The picture: a line for each policy, percent of the distinct blocks to the right, hit ratio upwards.

    It follows the reader's preference for light or dark; a program that does not know of it shows it light.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for outcome in outcomes:
        ratio = outcome.leading_hit_ratio if leading else outcome.block_hit_ratio
        points.setdefault(outcome.policy, []).append((100 * outcome.capacity_blocks / distinct_count, 100 * ratio))
    flat = [point for line in points.values() for point in line]
    x_ticks = ticks(0, max(x for x, _ in flat))
    frame = _Frame(x_ticks, ticks(min(y for _, y in flat), max(y for _, y in flat)))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"',
        '     font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}: hit ratio against capacity</title>",
        f"<style>\n{_style(0)}\n@media (prefers-color-scheme: dark) {{\n{_style(1)}\n}}\n</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>',
        _text(_LEFT, 30, title, "start", 'font-size="16" font-weight="600"'),
        *frame.axes("capacity, % of the distinct blocks", f"{'leading' if leading else 'block'} hits, % of references"),
    ]
    order = sorted(points, key=lambda name: (name == OURS, list(_COLORS).index(name) if name in _COLORS else 0))
    for place, name in enumerate(order):  # ours last: on top of the others
        parts += frame.line(name, sorted(points[name]))
        parts += _legend(name, place)
    return "\n".join([*parts, "</svg>", ""])


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that enclose both."""
    span = max(high - low, 1e-9)
    base = 10 ** math.floor(math.log10(span / 5))
    step = next(base * factor for factor in _STEPS if span / (base * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


class _Frame:
    """From percent to pixels."""

    def __init__(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        self._x_ticks, self._y_ticks = x_ticks, y_ticks

    def x(self, value: float) -> float:
        first, last = self._x_ticks[0], self._x_ticks[-1]
        return round(_LEFT + (value - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        first, last = self._y_ticks[0], self._y_ticks[-1]
        return round(_HEIGHT - _BOTTOM - (value - first) / (last - first) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def axes(self, x_label: str, y_label: str) -> Iterable[str]:
        left, right = self.x(self._x_ticks[0]), self.x(self._x_ticks[-1])
        bottom, top = self.y(self._y_ticks[0]), self.y(self._y_ticks[-1])
        for value in self._y_ticks:
            y = self.y(value)
            yield f'<path class="grid" d="M{left} {y}H{right}"/>'
            yield _text(left - 8, y + 4, f"{value:g}", "end")
        for value in self._x_ticks:
            x = self.x(value)
            yield f'<path class="axis" d="M{x} {bottom}v5"/>'
            yield _text(x, bottom + 20, f"{value:g}", "middle")
        yield f'<path class="axis" d="M{left} {bottom}H{right}"/>'
        yield _text((left + right) / 2, _HEIGHT - 16, x_label, "middle")
        middle = (top + bottom) / 2
        yield _text(18, middle, y_label, "middle", f'transform="rotate(-90 18 {middle})"')

    def line(self, name: str, points: Sequence[tuple[float, float]]) -> Iterable[str]:
        path = "L".join(f"{self.x(x)} {self.y(y)}" for x, y in points)
        yield f'<path class="line {_class(name)}" d="M{path}"/>'
        for x, y in points:
            yield f'<circle class="{_class(name)}" cx="{self.x(x)}" cy="{self.y(y)}" r="{_radius(name)}"/>'


def _legend(name: str, place: int) -> Iterable[str]:
    x, y = _WIDTH - _RIGHT + 18, _TOP + 12 + 24 * place
    yield f'<path class="line {_class(name)}" d="M{x} {y}h34"/>'
    yield f'<circle class="{_class(name)}" cx="{x + 17}" cy="{y}" r="{_radius(name)}"/>'
    yield _text(x + 44, y + 4, name, "start", 'font-weight="600"' if name == OURS else "")


def _style(scheme: int) -> str:
    """The colours of one scheme; what both have in common comes with the first."""
    color = {name: colors[scheme] for name, colors in _COLORS.items()}
    rules = [
        f".paper {{ fill: {color['paper']} }}",
        f"text {{ fill: {color['ink']} }}",
        f".grid {{ stroke: {color['grid']} }}",
        f".axis {{ stroke: {color['ink']} }}",
    ]
    for name in (name for name in color if name not in ("paper", "ink", "grid")):
        rules += [f"path.{_class(name)} {{ stroke: {color[name]} }} circle.{_class(name)} {{ fill: {color[name]} }}"]
    if scheme == 0:
        rules += [".line { fill: none; stroke-width: 1.75 }", f".line.{_class(OURS)} {{ stroke-width: 2.75 }}"]
        rules += [f".{_class(name)} {{ stroke-dasharray: {dash} }}" for name, dash in _DASHES.items()]
    return "\n".join(rules)


def _class(name: str) -> str:
    return f"policy-{name}"


def _radius(name: str) -> float:
    return 3.25 if name == OURS else 2.25


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {more}>{escape(text)}</text>'.replace(" >", ">")
