# SPDX-License-Identifier: Apache-2.0
"""What all pictures have in common: size, colours, title, legend, caption, grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from xml.sax.saxutils import escape

from memkv_server.plot.axes import Axis

WIDTH: Final = 760
HEIGHT: Final = 460
LEFT: Final = 64
TOP: Final = 56
BOTTOM: Final = 60
_CAPTION_LINE: Final = 16
_PAPER: Final = (("paper", "#ffffff", "#1b1d23"), ("ink", "#2b2f36", "#d9dce3"), ("grid", "#e4e6ea", "#353943"))
# Told apart by people who see red and green alike (after Okabe and Ito), and in grey by dashes and marks.
# The first is for what the picture is about.
COLORS: Final = (  # on white, on dark
    ("#c84e00", "#ff9d4d"),
    ("#0072b2", "#56b4e9"),
    ("#00805f", "#2fc79c"),
    ("#b0579a", "#dd94c6"),
    ("#7a7f87", "#9aa0aa"),
    ("#b38600", "#e8c34a"),
    ("#3d3f8f", "#9d9ff0"),
    ("#8a2f2f", "#e07f7f"),
    ("#4f7a1f", "#a3d067"),
    ("#00707a", "#4fd0dc"),
)
DASHES: Final = ("", "7 4", "9 3 2 3", "4 4", "2 3", "12 3", "6 2 2 2", "1 3", "10 5 3 5", "3 1")


class Frame:
    """From values to pixels."""

    def __init__(self, x: Axis, y: Axis, right: int) -> None:
        self._x, self._y, self._right = x, y, right

    @property
    def left(self) -> int:
        return LEFT

    @property
    def right(self) -> int:
        return WIDTH - self._right

    def x(self, value: float) -> float:
        return round(self.left + self._x.share(value) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - self._y.share(value) * (HEIGHT - TOP - BOTTOM), 1)

    def axes(self, *, x_ticks: bool = True) -> Iterable[str]:
        """Grid, ticks and labels."""
        bottom, top = HEIGHT - BOTTOM, TOP
        for value, words in self._y.ticks:
            yield f'<path class="grid" d="M{self.left} {self.y(value)}H{self.right}"/>'
            yield text(self.left - 8, self.y(value) + 4, words, "end")
        for value, words in self._x.ticks if x_ticks else ():
            yield f'<path class="axis" d="M{self.x(value)} {bottom}v5"/>'
            yield text(self.x(value), bottom + 20, words, "middle")
        yield f'<path class="axis" d="M{self.left} {bottom}H{self.right}"/>'
        yield text((self.left + self.right) / 2, HEIGHT - 16, self._x.label, "middle")
        middle = (top + bottom) / 2
        yield text(18, middle, self._y.label, "middle", f'transform="rotate(-90 18 {middle})"')


def page(title: str, description: str, parts: Iterable[str], series: int, caption: Sequence[str]) -> str:
    """The whole file. ``caption``: lines below, in small letters."""
    height = HEIGHT + _CAPTION_LINE * len(caption)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"',
        '     font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}: {escape(description)}</title>",
        f"<style>\n{_style(0, series)}\n@media (prefers-color-scheme: dark) {{\n{_style(1, series)}\n}}\n</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        text(LEFT, 30, title, "start", 'font-size="16" font-weight="600"'),
        *parts,
        *(
            text(LEFT, HEIGHT + 4 + _CAPTION_LINE * number, line, "start", 'font-size="10.5" opacity="0.75"')
            for number, line in enumerate(caption)
        ),
    ]
    return "\n".join([*lines, "</svg>", ""])


def text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    """A piece of text; ``more`` are further attributes."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {more}>{escape(words)}</text>'.replace(" >", ">")


def _style(scheme: int, series: int) -> str:
    """The colours of one scheme; what both have in common comes with the first."""
    paper, ink, grid = (row[1 + scheme] for row in _PAPER)
    rules = [
        f".paper {{ fill: {paper} }}",
        f"text {{ fill: {ink} }}",
        f".grid {{ stroke: {grid} }}",
        f".axis {{ stroke: {ink} }}",
    ]
    for number in range(series):
        color = COLORS[number % len(COLORS)][scheme]
        rules.append(f"path.s{number} {{ stroke: {color} }} circle.s{number}, rect.s{number} {{ fill: {color} }}")
    if scheme == 0:
        rules += [".line { fill: none; stroke-width: 1.75 }", ".line.s0 { stroke-width: 2.75 }"]
        dashes = ((number, DASHES[number % len(DASHES)]) for number in range(series))
        rules += [f".s{number} {{ stroke-dasharray: {dash} }}" for number, dash in dashes if dash]
    return "\n".join(rules)
