# SPDX-License-Identifier: Apache-2.0
"""Traces are read, runs are planned, and ``memkv simulate`` tells what came of them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.errors import ConfigError
from memkv_server.plot import ticks
from memkv_server.simulate.plot import plot_svg
from memkv_server.simulate.replay import POLICIES, Outcome, parse_capacities, sweep
from memkv_server.simulate.synthetic import SYNTHETIC, synthetic_trace
from memkv_server.simulate.trace import Trace, read_trace

Cli = Callable[..., Any]
Refused = Callable[..., str]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    """40 conversations of 5 turns, one after the other in twos."""
    file = tmp_path / "trace.jsonl"
    lines = []
    for number in range(40):
        for turn in range(1, 6):
            for conversation in (2 * number, 2 * number + 1):
                ids = [1_000 * (conversation + 1) + place for place in range(4 * turn)]
                lines.append(json.dumps({"timestamp": 0, "input_length": 2048 * turn, "hash_ids": [0, *ids]}))
    file.write_text("\n".join(lines) + "\n\n")
    return file


# -- traces -----------------------------------------------------------------------------------------------------------
def test_a_trace_is_read(trace_file: Path) -> None:
    trace = read_trace(trace_file)
    assert (trace.name, len(trace.requests)) == ("trace.jsonl", 400)
    assert trace.requests[2] == (0, *range(1_000, 1_008))
    assert trace.distinct_count == 80 * 20 + 1
    assert trace.reference_count == sum(map(len, trace.requests))


def test_a_block_that_a_request_repeats_counts_once() -> None:
    trace = Trace.of("t", [[1, 2, 1, 3], [2, 2]])
    assert (trace.requests, trace.reference_count, trace.distinct_count) == ([(1, 2, 3), (2,)], 4, 3)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", ":2: this is no request"),
        ("[1]", ":2: this is no request"),
        ('{"ids": [1]}', ":2: this is no request"),
        ('{"hash_ids": 5}', ":2: hash_ids is no list of integers"),
        ('{"hash_ids": [1, "2"]}', ":2: hash_ids is no list of integers"),
        ('{"hash_ids": [true]}', ":2: hash_ids is no list of integers"),
        ("\xff\xfe", ":2: this is no request"),
        ("[" * 100_000, ":2: this is no request"),
    ],
)
def test_a_line_that_is_no_request(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_bytes(b'{"hash_ids": [1]}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(ConfigError) as caught:
        read_trace(file)
    assert expected in str(caught.value)


def test_a_trace_without_blocks(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"hash_ids": []}\n')
    with pytest.raises(ConfigError, match="refers to no block"):
        read_trace(file)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_synthetic_trace_is_the_same_every_time(name: str) -> None:
    trace = synthetic_trace(name)
    assert trace.requests == synthetic_trace(name).requests
    assert trace.reference_count > 90_000
    assert 5_000 < trace.distinct_count < 0.6 * trace.reference_count


# -- runs -------------------------------------------------------------------------------------------------------------
def test_capacities() -> None:
    assert parse_capacities(["50%", "7", "2.5%", "7", "12KiB", "5000B"], 1_000, 1024) == [4, 7, 12, 25, 500]


@pytest.mark.parametrize(
    "text", ["0", "-1", "0%", "101%", "x", "5 %%", "", "%", "1e3", "0.01%", "nan%", "inf%", "1023B", "5 apples"]
)
def test_capacities_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_capacities([text], 1_000, 1024)


def test_too_many_capacities() -> None:
    with pytest.raises(ConfigError, match="201 capacities"):
        parse_capacities(["5"] * 201, 1_000, 1)


def test_a_sweep_tells_how_far_it_is_and_plans_before_it_runs(trace_file: Path) -> None:
    trace = read_trace(trace_file)
    told: list[tuple[str, int, int]] = []
    outcomes = list(
        sweep(trace, ["lru", "memkv"], [100, 200], segment_count=10, progress=lambda *step: told.append(step))
    )
    assert [(outcome.policy, outcome.capacity_blocks) for outcome in outcomes] == [
        ("lru", 100), ("memkv", 100), ("lru", 200), ("memkv", 200),
    ]  # fmt: skip
    assert sum(count for _, _, count in told) == 4 * len(trace.requests)
    assert all(outcome.reference_count == trace.reference_count for outcome in outcomes)
    with pytest.raises(ConfigError, match="unknown"):
        next(sweep(trace, ["lru", "mru"], [100]))


def test_more_capacity_hits_more_until_everything_fits(trace_file: Path) -> None:
    trace = read_trace(trace_file)
    possible = trace.reference_count - trace.distinct_count
    for name in POLICIES:
        outcomes = list(sweep(trace, [name], [20, 100, 4_000], block_bytes=1024, segment_count=5))
        assert outcomes[0].block_hits < outcomes[1].block_hits <= possible
        assert outcomes[2].leading_hits == outcomes[2].block_hits == possible
        assert outcomes[2].write_amplification == 1.0


# -- plot -------------------------------------------------------------------------------------------------------------
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose_and_are_few(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 9
    assert found[0] <= low + 1e-6
    assert found[-1] >= low + span - 1e-6 * max(1, abs(low + span))
    assert found == sorted(set(found))


def test_the_plot_has_a_line_for_each_policy_and_stays_in_its_frame() -> None:
    outcomes = [
        Outcome(name, blocks, 1_000, 5 * blocks + index, 5 * blocks, 1, 0)
        for index, name in enumerate(POLICIES)
        for blocks in (10, 50, 100)
    ]
    picture = ET.fromstring(plot_svg(outcomes, 1_000, "a <title> & more"))
    texts = [text.text for text in picture.iter(SVG + "text")]
    assert set(POLICIES) < set(texts)
    assert "a <title> & more" in texts
    assert "leading hits, % of references" in texts
    circles = list(picture.iter(SVG + "circle"))
    assert len(circles) == 5 * 3 + 5
    width, height = (float(side) for side in (picture.attrib["width"], picture.attrib["height"]))
    assert all(0 < float(circle.attrib["cx"]) < width for circle in circles)
    assert all(0 < float(circle.attrib["cy"]) < height for circle in circles)
    assert "script" not in {element.tag.removeprefix(SVG) for element in picture.iter()}


def test_a_plot_of_a_single_point() -> None:
    picture = plot_svg([Outcome("lru", 10, 100, 0, 0, 1, 0)], 1_000, "one", leading=False)
    assert "block hits" in picture
    assert "nan" not in picture


# -- the command ------------------------------------------------------------------------------------------------------
def test_simulate_prints_a_table(cli: Cli, trace_file: Path, tmp_path: Path) -> None:
    plot = tmp_path / "hits.svg"
    done = cli(
        "simulate", "--trace", str(trace_file), "--segments", "16", "--capacity", "5%,10%", "--capacity", "400",
        "--plot", str(plot),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*POLICIES, "share", "to best", "write amp.", "10.0 %", "25.0 %"))
    assert "block hits, % of 5,200 references to 1,601 distinct blocks" in done.stdout
    assert f"plot: {plot}" in done.stderr
    assert "memkv, 400 blocks" in done.stderr
    ET.parse(plot)


def test_simulate_as_json(cli: Cli) -> None:
    arguments = ["--capacity", "10%", "--policy", "memkv, lru", "--block-bytes", "4MiB", "--json"]
    done = cli("simulate", "--trace", "synthetic:zipf", *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["trace"], report["references"], report["block_bytes"]) == ("zipf", 120_000, 4 << 20)
    ours, lru = report["outcomes"]
    assert (ours["policy"], lru["policy"]) == ("memkv", "lru")
    assert ours["capacity_blocks"] == lru["capacity_blocks"] == report["distinct_blocks"] // 10
    assert 1 < ours["write_amplification"] <= 1.29
    assert lru["write_amplification"] == 1
    assert 0.4 < ours["leading_hit_ratio"] == ours["block_hit_ratio"] < 0.7  # requests of one block


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--trace", "none.jsonl"], "none.jsonl: no such file"),
        (["--trace", "."], "is a directory"),
        (["--trace", "synthetic:x"], "no synthetic trace is called 'x'; use zipf"),
        (["--policy", "mru"], "--policy 'mru' is unknown; use fifo"),
        (["--capacity", "many"], "--capacity 'many'; give blocks"),
        (["--block-bytes", "0"], "--block-bytes '0' is no size"),
        (["--block-bytes", "1TiB"], "is no size of a block; give 1 to"),
        (["--capacity", "5%,"], "--capacity ''; give blocks"),
        (["--policy", "lru,mru"], "--policy 'mru' is unknown; use fifo"),
        (["--segments", "0"], "invalid value for '--segments'"),
        (["--segments", "three"], "invalid value for '--segments'"),
        (["--segments", "3"], "cannot be cut into 3 segments; give it more blocks, and 4 segments at least"),
        (["--capacity", "2"], "a store of 2 blocks cannot be cut into 2 segments"),
        (["--hits", "some"], "--hits 'some'; use block or leading"),
        (["--plot", "no/such/folder/x.svg", "--policy", "lru"], "there is no such folder"),
    ],
)
def test_simulate_with_bad_input(refused: Refused, trace_file: Path, arguments: list[str], expected: str) -> None:
    trace = [] if arguments[0] == "--trace" else ["--trace", str(trace_file)]
    assert expected in refused("simulate", *trace, *arguments).lower().replace(str(trace_file).lower(), "trace")
