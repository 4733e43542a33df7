# SPDX-License-Identifier: Apache-2.0
"""MemKV beside its peers, in turns, every block verified; ``nox -s bench-peers`` makes the environments and runs this.

    python benchmarks/bench_peers.py --out build/peers                      # all contenders, all sizes
    python benchmarks/bench_peers.py --out build/peers --only memkv-tcp --only raw --kib 1024 --rounds 3
    python benchmarks/bench_peers.py --out build/peers --render docs        # tables and pictures of what was measured

Each size is a file in ``--out``, so that a run can be made in pieces. A contender that cannot be measured is reported
with its reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from memkv_benchmarks import peers_report
from memkv_benchmarks.contenders import ENTRIES
from memkv_benchmarks.rounds import SHAPES, python_of, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/peers"), help="folder of the figures")
    parser.add_argument("--only", action="append", choices=list(ENTRIES), help="a contender; repeat it")
    parser.add_argument("--kib", action="append", type=int, help="a block size; repeat it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--python", action="append", default=[], metavar="ENVIRONMENT=PATH", help="its interpreter")
    parser.add_argument("--render", type=Path, metavar="DOCS", help="write tables and pictures of --out there")
    given = parser.parse_args()
    if given.render is not None:
        peers_report.render(given.out, given.render)
        return
    pythons = dict(word.split("=", 1) for word in given.python)
    contenders = {name: python_of(ENTRIES[name].environment, pythons) for name in given.only or ENTRIES}
    given.out.mkdir(parents=True, exist_ok=True)
    shapes = [shape for shape in SHAPES if not given.kib or shape.block_bytes >> 10 in given.kib]
    figures = run(contenders, shapes, given.rounds, say=lambda line: print(line, file=sys.stderr, flush=True))
    failed: set[str] = set()
    for shape in shapes:
        by_name = {name: by_size[shape.block_bytes] for name, by_size in figures.items()}
        peers_report.save(given.out, shape, by_name, f"nox -s bench-peers -- --rounds {given.rounds}")
        print(peers_report.table(shape, by_name), flush=True)
        failed |= {name for name, figure in by_name.items() if figure.error is not None}
    if failed:
        print(f"not measured: {', '.join(sorted(failed))}; see above", file=sys.stderr)


if __name__ == "__main__":
    main()
