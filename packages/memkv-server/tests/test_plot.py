# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_server.plot import Axis, Bars, Line, bar_chart, line_chart, linear_axis, log_axis

SVG = "{http://www.w3.org/2000/svg}"


@given(st.floats(1e-6, 1e9), st.floats(1, 1e6))
def test_a_logarithmic_axis_encloses(low: float, factor: float) -> None:
    axis = log_axis("x", low, low * factor)
    values = [value for value, _ in axis.ticks]
    assert len(values) >= 2
    assert values == sorted(set(values))
    assert -1e-6 <= axis.share(low) <= axis.share(low * factor) <= 1 + 1e-6


def test_decades_are_equally_wide() -> None:
    axis = log_axis("blocks", 1_000, 1_000_000, "{:,.0f}".format)
    assert axis.share(10_000) == pytest.approx(1 / 3)
    assert axis.ticks[0] == (1_000.0, "1,000")
    assert log_axis("few", 10, 10).ticks[0] == (10.0, "10")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (-1, 1)])
def test_what_has_no_logarithm(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no logarithmic axis"):
        log_axis("x", low, high)


def test_bars_stay_in_their_frame_and_say_where_there_is_none() -> None:
    bars = [Bars("ours & theirs", [1.0, 2.0]), Bars("other", [None, 99.0])]
    picture = ET.fromstring(
        bar_chart("title", ["16 KiB", "1 MiB"], bars, linear_axis("GB/s", 0, 2), ["line one", "line two"], mark=1.0)
    )
    height = float(picture.attrib["height"])
    rects = [rect for rect in picture.iter(SVG + "rect") if rect.attrib["class"] != "paper"]
    assert len(rects) == 3 + 2  # and two of the legend
    assert all(float(rect.attrib["y"]) >= 50 for rect in rects)
    assert all(float(rect.attrib["y"]) + float(rect.attrib["height"]) < height - 32 for rect in rects)
    texts = [text.text for text in picture.iter(SVG + "text")]
    assert {"ours & theirs", "16 KiB", "line two", "–"} < set(texts)


def test_the_first_line_is_on_top() -> None:
    lines = [Line("ours", [(1, 1), (10, 2)]), Line("other", [(10, 1), (1, 2)])]
    picture = line_chart("t", lines, log_axis("x", 1, 10), Axis("y", [(0, "0"), (2, "2")]))
    assert picture.index("line s1") < picture.index("line s0")
    ET.fromstring(picture)
