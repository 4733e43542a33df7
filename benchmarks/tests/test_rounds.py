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
