# SPDX-License-Identifier: Apache-2.0
"""Whether MemKV has become slower: ratios to yardsticks of the same run, against ``baseline.json``.

    nox -s perfcheck                     # exit code 1 where one is worse than the tolerance allows
    nox -s perfcheck -- --write          # this run becomes the baseline

What is worse the first time is measured again, and the better of both counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from memkv_benchmarks.regression import TOLERANCE_DEFAULT, Verdict, better, compare, ratios
from memkv_benchmarks.rounds import SHAPES, Shape, run
from memkv_server.bench.machine import describe_machine, describe_versions

BASELINE = Path(__file__).with_name("baseline.json")
CONTENDERS = ("memkv-tcp", "memkv-shm", "raw", "memmove")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kib", action="append", type=int, help="a block size; repeat it. Default: 16, 64, 1024")
    parser.add_argument("--write", action="store_true", help="make this run the baseline")
    given = parser.parse_args()
    wanted = set(given.kib or (16, 64, 1024))
    shapes = [shape for shape in SHAPES if shape.block_bytes >> 10 in wanted]
    measured = measure(shapes, given.rounds)
    if given.write:
        write(given.baseline, measured)
        return
    baseline = json.loads(given.baseline.read_text())
    verdicts = compare(measured, baseline)
    if any(verdict.is_worse for verdict in verdicts):
        print("worse than the baseline allows: measured again", file=sys.stderr)
        verdicts = compare(better(measured, measure(shapes, given.rounds)), baseline)
    show(verdicts)
    if not any(verdict.measured and verdict.baseline for verdict in verdicts):
        raise SystemExit("nothing could be compared")
    if any(verdict.is_worse for verdict in verdicts):
        raise SystemExit(1)


def measure(shapes: Sequence[Shape], rounds: int) -> dict[str, float]:
    """The ratios of one run."""
    names = [*CONTENDERS, *(["redis"] if shutil.which("redis-server") else [])]
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    return ratios(run(dict.fromkeys(names, sys.executable), shapes, rounds, say=say))


def write(path: Path, measured: dict[str, float]) -> None:
    """Keeps the tolerances that are there."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    described = {
        "about": f"nox -s perfcheck -- --write; {describe_versions()}; {describe_machine()}",
        "tolerance": before.get("tolerance", TOLERANCE_DEFAULT),
        "tolerances": before.get("tolerances", {}),
        "ratios": {name: round(value, 3) for name, value in measured.items()},
    }
    path.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def show(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        figures = [
            "-" if value is None else f"{value:.2f}" for value in (verdict.measured, verdict.baseline, verdict.limit)
        ]
        word = "WORSE" if verdict.is_worse else "ok" if verdict.measured and verdict.baseline else "not compared"
        print(f"{word:12} {verdict.name}: {figures[0]}, baseline {figures[1]}, limit {figures[2]}")


if __name__ == "__main__":
    main()
