# SPDX-License-Identifier: Apache-2.0
"""What a user of an engine sees, and how MemKV scales; ``nox -s bench-engines`` makes the environments and runs this.

    python benchmarks/bench_engines.py --out build/engines --part blocks        # or clients, nodes, sglang, vllm
    python benchmarks/bench_engines.py --out build/engines --render docs        # tables and pictures

Each part is a file in ``--out``. ``--python sglang=PATH`` says where an engine's environment is; further words go to
the part's own program, such as ``--store tcp``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from memkv_benchmarks.engines import report

PROGRAMS = {
    "blocks": "scaling",
    "clients": "scaling",
    "nodes": "scaling",
    "sglang": "sglang_ttft",
    "vllm": "vllm_ttft",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/engines"))
    parser.add_argument("--part", action="append", choices=list(PROGRAMS))
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PATH")
    parser.add_argument("--render", type=Path, metavar="DOCS", help="write tables and pictures of --out there")
    given, more = parser.parse_known_args()
    if given.render is not None:
        report.render(given.out, given.render)
        return
    pythons = dict(word.split("=", 1) for word in given.python)
    failed = []
    for part in given.part or PROGRAMS:
        program = Path(__file__).parent / "memkv_benchmarks" / "engines" / f"{PROGRAMS[part]}.py"
        flags = ["--part", part] if PROGRAMS[part] == "scaling" else []
        command = [pythons.get(part, sys.executable), str(program), "--out", str(given.out), *flags, *more]
        if subprocess.run(command, check=False).returncode:
            failed.append(part)
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}; see above")


if __name__ == "__main__":
    main()
