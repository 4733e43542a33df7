# SPDX-License-Identifier: Apache-2.0
"""Pictures of figures as SVG, by hand: nothing but shapes and text in them, for light pages and dark ones."""

from __future__ import annotations

from memkv_server.plot.axes import Axis, linear_axis, log_axis, ticks
from memkv_server.plot.charts import Bars, Line, bar_chart, line_chart

__all__ = ["Axis", "Bars", "Line", "bar_chart", "line_chart", "linear_axis", "log_axis", "ticks"]
