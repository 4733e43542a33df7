# SPDX-License-Identifier: Apache-2.0
"""Hit ratio against capacity, as an SVG."""

from __future__ import annotations

from collections.abc import Sequence

from memkv_server.plot import Line, line_chart, linear_axis
from memkv_server.simulate.replay import OURS, POLICIES, Outcome


def plot_svg(outcomes: Sequence[Outcome], distinct_count: int, title: str, *, leading: bool = True) -> str:
    """The picture: a line for each policy, percent of the distinct blocks to the right, hit ratio upwards."""
    points: dict[str, list[tuple[float, float]]] = {}
    for outcome in outcomes:
        ratio = outcome.leading_hit_ratio if leading else outcome.block_hit_ratio
        points.setdefault(outcome.policy, []).append((100 * outcome.capacity_blocks / distinct_count, 100 * ratio))
    flat = [point for line in points.values() for point in line]
    order = sorted(points, key=lambda name: (name != OURS, POLICIES.index(name) if name in POLICIES else 0))
    return line_chart(
        title,
        [Line(name, points[name]) for name in order],
        linear_axis("capacity, % of the distinct blocks", 0, max(x for x, _ in flat)),
        linear_axis(
            f"{'leading' if leading else 'block'} hits, % of references",
            min(y for _, y in flat),
            max(y for _, y in flat),
        ),
    )
