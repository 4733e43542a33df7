# SPDX-License-Identifier: Apache-2.0
"""Lines and grouped bars. A picture follows the reader's preference for light or dark.

A program that does not know of it shows it light.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from memkv_server.plot.axes import Axis
from memkv_server.plot.page import BOTTOM, HEIGHT, TOP, WIDTH, Frame, page, text

_LEGEND_LEFT: Final = 18
_LETTER: Final = 7.2  # pixels of a letter, about
_RIGHT_MIN: Final = 140
_RIGHT_MAX: Final = 250
_GROUP_FILL: Final = 0.84  # of a group's width


@dataclass(frozen=True)
class Line:
    """A named line through (x, y) points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bars:
    """A named bar in each group; None where there is no figure."""

    name: str
    values: Sequence[float | None]


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, caption: Sequence[str] = ()) -> str:
    """A picture of lines. The first is drawn heaviest, on top of the others, and stands last in the legend."""
    frame = Frame(x, y, _right(lines))
    parts = list(frame.axes())
    order = [*range(1, len(lines)), 0] if lines else []
    for place, number in enumerate(order):
        points = sorted(lines[number].points)
        path = "L".join(f"{frame.x(at)} {frame.y(value)}" for at, value in points)
        parts.append(f'<path class="line s{number}" d="M{path}"/>')
        parts += [_dot(number, frame.x(at), frame.y(value)) for at, value in points]
        left, top = frame.right + _LEGEND_LEFT, TOP + 12 + 24 * place
        parts.append(f'<path class="line s{number}" d="M{left} {top}h34"/>')
        parts.append(_dot(number, left + 17, top))
        parts.append(text(left + 44, top + 4, lines[number].name, "start", _weight(number)))
    return page(title, f"{y.label} against {x.label}", parts, len(lines), caption)


def bar_chart(
    title: str,
    groups: Sequence[str],
    bars: Sequence[Bars],
    y: Axis,
    caption: Sequence[str] = (),
    *,
    label: str = "",
    mark: float | None = None,
) -> str:
    """A picture of bars side by side in each group. ``mark`` draws a line across, such as at 1."""
    x = Axis(label, [(0, ""), (len(groups), "")])
    frame = Frame(x, y, _right(bars))
    parts = list(frame.axes(x_ticks=False))
    width = (frame.right - frame.left) / len(groups) * _GROUP_FILL / len(bars)
    for place, group in enumerate(groups):
        middle = frame.x(place + 0.5)
        parts.append(text(middle, HEIGHT - BOTTOM + 20, group, "middle"))
        left = middle - width * len(bars) / 2
        for number, bar in enumerate(bars):
            parts += _bar(number, left + number * width, width, bar.values[place], frame, y)
    if mark is not None:
        parts.append(f'<path class="axis" stroke-dasharray="5 4" d="M{frame.left} {frame.y(mark)}H{frame.right}"/>')
    for number, bar in enumerate(bars):
        left, top = frame.right + _LEGEND_LEFT, TOP + 6 + 22 * number
        parts.append(f'<rect class="s{number}" x="{left}" y="{top}" width="14" height="12"/>')
        parts.append(text(left + 22, top + 10, bar.name, "start", _weight(number)))
    return page(title, f"{y.label} by {label or 'group'}", parts, len(bars), caption)


def _bar(number: int, left: float, width: float, value: float | None, frame: Frame, y: Axis) -> Iterable[str]:
    bottom = HEIGHT - BOTTOM
    if value is None:
        yield text(left + width / 2, bottom - 4, "–", "middle", 'font-size="10"')
        return
    first, last = y.ticks[0][0], y.ticks[-1][0]
    top = frame.y(min(max(value, first), last))
    yield (
        f'<rect class="s{number}" x="{left + 0.5:.1f}" y="{top}" width="{max(width - 1, 1):.1f}" '
        f'height="{max(bottom - top, 0.5):.1f}"/>'
    )


def _dot(number: int, x: float, y: float) -> str:
    return f'<circle class="s{number}" cx="{x}" cy="{y}" r="{3.25 if number == 0 else 2.25}"/>'


def _weight(number: int) -> str:
    return 'font-weight="600"' if number == 0 else ""


def _right(series: Sequence[Line] | Sequence[Bars]) -> int:
    """Room for the legend."""
    longest = max((len(each.name) for each in series), default=0)
    return int(min(max(_RIGHT_MIN, _LEGEND_LEFT + 48 + _LETTER * longest), _RIGHT_MAX, WIDTH / 2))
