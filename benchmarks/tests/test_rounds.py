# SPDX-License-Identifier: Apache-2.0
"""The benchmarks measure what they say, and say what they could not measure."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from memkv_benchmarks import contenders, peers_report, worker
from memkv_benchmarks.contenders.base import Blocks, ContenderError
from memkv_benchmarks.contenders.memmove import Memmove
from memkv_benchmarks.engines import report
from memkv_benchmarks.engines.results import Curve, load, save
from memkv_benchmarks.regression import Verdict, better, compare, ratios
from memkv_benchmarks.rounds import Figures, Shape, run

SHAPE = Shape(4096, 8, 3)


class Forgetful(Memmove):
    """Gives back what it likes."""

    def get(self, keys: Sequence[str]) -> None:
        np.copyto(self._target, 7)


class Stuck(Memmove):
    def put(self, keys: Sequence[str]) -> None:
        raise ContenderError("no room")


def talk(monkeypatch: pytest.MonkeyPatch, contender: Any, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of a worker of this contender."""
    monkeypatch.setattr(worker, "make", lambda name: contender())
    lines, answers = io.StringIO("".join(json.dumps(each) + "\n" for each in commands)), io.StringIO()
    worker.serve("x", lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_round_verifies_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"do": "shape", "block_bytes": 4096, "block_count": 8}
    ready, described, answer = talk(monkeypatch, Memmove, shape, {"do": "round", "sets": 3, "questions": 5})
    assert ready == {"ready": True}
    assert "memmove" in described["versions"]
    assert answer["verified_bytes"] == 3 * 8 * 4096
    assert [len(answer[name]) for name in ("put_s", "get_s", "exists_s", "one_s")] == [3, 3, 3, 5]


@pytest.mark.parametrize(("contender", "why"), [(Forgetful, "other bytes came back"), (Stuck, "no room")])
def test_what_a_contender_does_wrong_is_said(monkeypatch: pytest.MonkeyPatch, contender: Any, why: str) -> None:
    shape = {"do": "shape", "block_bytes": 4096, "block_count": 8}
    *_, last = talk(monkeypatch, contender, shape, {"do": "round", "sets": 1, "questions": 1}, {"do": "stop"})
    assert why in last["error"]


def test_each_batch_of_a_round_holds_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mixed(Memmove):
        """Gives the last batch for each."""

        def get(self, keys: Sequence[str]) -> None:
            last: Blocks = list(self._kept.values())[-1]
            np.copyto(self._target, last)

    shape = {"do": "shape", "block_bytes": 4096, "block_count": 8}
    *_, last = talk(monkeypatch, Mixed, shape, {"do": "round", "sets": 2, "questions": 1})
    assert "other bytes came back" in last["error"]


def test_a_slow_contender_does_fewer_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_MOVE_S_MAX", 0.0)
    shape = {"do": "shape", "block_bytes": 4096, "block_count": 8}
    *_, answer = talk(monkeypatch, Memmove, shape, {"do": "round", "sets": 3, "questions": 5})
    assert (len(answer["put_s"]), len(answer["get_s"]), answer["verified_bytes"]) == (1, 1, 8 * 4096)


def test_processes_take_turns_and_one_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    names = {"memmove": sys.executable, "lmcache": sys.executable}  # no LMCache in this environment
    figures = run(names, [SHAPE], 2, questions=3, say=said.append)
    assert figures["memmove"][4096].error is None
    assert len(figures["memmove"][4096].get_bytes_per_s) == 2  # and one that only warmed
    assert figures["memmove"][4096].verified_bytes == 2 * 3 * 8 * 4096
    assert "ModuleNotFoundError" in str(figures["lmcache"][4096].error)
    assert any(line.startswith("lmcache: ") for line in said)
    table = peers_report.table(SHAPE, {name: by[4096] for name, by in figures.items()})
    assert "not measured: ModuleNotFoundError" in table


def test_tables_and_pictures(tmp_path: Path) -> None:
    def figures(speed: float) -> Figures:
        return Figures("v1", [speed] * 3, [2 * speed] * 3, [1e-3] * 3, [1e-4] * 3, 10)

    by_name = {"memkv-tcp": figures(2e9), "raw": figures(4e9), "redis": Figures(error="no redis-server")}
    peers_report.save(tmp_path, Shape(1 << 20, 64, 2), by_name, "bench_peers.py --rounds 3")
    peers_report.render(tmp_path, tmp_path)
    page = (tmp_path / "benchmarks-peers.md").read_text()
    assert "| MemKV tcp | 2.00 GB/s | 0.50 | 4.00 GB/s | 0.50 | 1,000 us | 100 us |" in page
    assert "| Redis | not measured: no redis-server |" in page
    assert "bench_peers.py --rounds 3" in page
    assert "MemKV tcp" in (tmp_path / "benchmarks-peers-get.svg").read_text()
    with pytest.raises(SystemExit, match="holds no figures"):
        peers_report.render(tmp_path / "none", tmp_path)


def test_a_slow_contender_is_measured_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memkv_benchmarks.rounds._SLOW_S", 0.0)
    figures = run({"memmove": sys.executable}, [SHAPE], 5, questions=3)
    assert len(figures["memmove"][4096].get_bytes_per_s) == 1
    raw = Figures("v1", [2e9] * 5, [2e9] * 5, [1e-3] * 5, [1e-4] * 5)
    table = peers_report.table(SHAPE, {"memmove": figures["memmove"][4096], "raw": raw})
    assert "| memmove (1 of 5 rounds) |" in table


def test_every_contender_has_its_module() -> None:
    folder = Path(contenders.__file__).parent
    assert {entry.module for entry in contenders.ENTRIES.values()} == {
        path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "base")
    }


# -- perfcheck --------------------------------------------------------------------------------------------------------
def test_ratios_are_those_of_the_same_round() -> None:
    mine = Figures("", [2.0, 20.0, 6.0], [1.0, 1.0, 1.0], [1.0], [3e-4])
    raw = Figures("", [4.0, 40.0, 6.0], [2.0, 4.0, 1.0], [1.0], [1e-9])
    redis = Figures("", [], [], [], [1e-4])
    found = ratios({"memkv-tcp": {1 << 20: mine}, "raw": {1 << 20: raw}, "redis": {1 << 20: redis}, "memkv-shm": {}})
    assert found == {
        "get 1 MiB × 64, memkv-tcp / raw": 0.5,
        "put 1 MiB × 64, memkv-tcp / raw": 0.5,
        "exists, one key, memkv-tcp / redis": pytest.approx(3.0),
    }


@pytest.mark.parametrize(
    ("name", "measured", "baseline", "worse"),
    [
        ("get x", 0.76, 1.0, False),
        ("get x", 0.74, 1.0, True),
        ("get x", 9.0, 1.0, False),
        ("exists x", 1.24, 1.0, False),
        ("exists x", 1.26, 1.0, True),
        ("get x", None, 1.0, False),
        ("get x", 0.1, None, False),
    ],
)
def test_what_is_worse(name: str, measured: float | None, baseline: float | None, worse: bool) -> None:
    assert Verdict(name, measured, baseline, 0.25).is_worse is worse


def test_each_ratio_has_its_tolerance_and_none_is_left_out() -> None:
    known = {"tolerance": 0.1, "tolerances": {"put": 0.5}, "ratios": {"get": 1.0, "put": 1.0, "gone": 1.0}}
    found = {verdict.name: verdict for verdict in compare({"get": 0.85, "put": 0.6, "new": 1.0}, known)}
    assert list(found) == ["get", "put", "gone", "new"]
    assert [verdict.is_worse for verdict in found.values()] == [True, False, False, False]


def test_the_better_of_two_runs_counts() -> None:
    merged = better({"get": 1.0, "exists": 2.0, "put": 3.0}, {"get": 2.0, "exists": 1.0})
    assert merged == {"get": 2.0, "exists": 1.0, "put": 3.0}


# -- engines ----------------------------------------------------------------------------------------------------------
def test_a_part_may_be_measured_in_pieces_and_becomes_a_page(tmp_path: Path) -> None:
    about = {"command": "nox -s bench-engines", "versions": "engine 1", "title": "an engine"}
    computed = Curve("computed (MemKV beneath)", {512: [1.0, 3.0, 2.0], 1024: [4.0]})
    save(tmp_path / "sglang.json", about, [computed, Curve("MemKV tcp", {512: [0.5], 1024: [1.0]})])
    save(tmp_path / "sglang.json", about, [Curve("MemKV tcp", {512: [0.5], 1024: [0.4]}), Curve("files", note="none")])
    blocks = [Curve("get", {1_000: [1e-3], 1_000_000: [1.1e-3]}, high={1_000: 2e-3, 1_000_000: 2e-3})]
    save(tmp_path / "blocks.json", {"command": "nox -s bench-engines"}, blocks)
    save(tmp_path / "nodes.json", {"command": "nox -s bench-engines"}, [Curve("get", {1: [1e9], 2: [2e9]})])
    _, curves = load(tmp_path / "sglang.json")
    assert [curve.name for curve in curves] == ["computed (MemKV beneath)", "MemKV tcp", "files"]
    report.render(tmp_path, tmp_path)
    page = (tmp_path / "benchmarks-engines.md").read_text()
    assert "| MemKV tcp | 500 ms, 0.25 | 400 ms, 0.10 |" in page
    assert "| files | none | |" in page
    assert "| 1.10 |" in page
    assert "| get | 1.00 GB/s | 2.00 GB/s |" in page
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        "benchmarks-sglang.svg", "benchmarks-blocks.svg", "benchmarks-nodes.svg",
    }  # fmt: skip


def test_get_latency_among_stored_blocks_is_measured_on_a_real_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psutil", reason="the rig needs psutil")
    from memkv_benchmarks.engines import scaling

    monkeypatch.setattr(scaling, "_CALLS", 200)
    many, one = scaling.blocks([500, 1_500])
    assert [sorted(curve.samples) for curve in (many, one)] == [[500, 1_500]] * 2
    assert all(value > 0 for curve in (many, one) for value in curve.high.values())
