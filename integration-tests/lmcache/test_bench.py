# SPDX-License-Identifier: Apache-2.0
"""LMCache's own qualification command, with our adapter: all stored, all found, all loaded, every byte compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lmcache_rig.server import Server

ROUND = re.compile(r"\[(\w+)\] Round \d+: [0-9.]+ ms, \w+=(\d+)/(\d+)")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("in_flight", [1, 4])
def test_lmcache_bench_l2(in_flight: int) -> None:
    command = [
        str(Path(sys.executable).with_name("lmcache")),
        "bench",
        "l2",
        "--l2-adapter",
        json.dumps(Server.ADAPTER),
    ]
    command += ["--num-keys", "16", "--data-size-kb", "1024", "--rounds", "2", "--in-flight", str(in_flight)]
    command += ["--no-skip-verify", "--lookup-max-hit-rate", "1.0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False, env=os.environ)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    rounds = ROUND.findall(ran.stdout)
    assert [operation for operation, _, _ in rounds] == ["Store"] * 3 + ["Lookup"] * 3 + ["Load"] * 3
    assert all(done == asked == str(16 * in_flight) for _, done, asked in rounds)
    assert re.search(r"[Vv]erif[^\n]*(PASS|OK|ok|match|success)", ran.stdout), ran.stdout[-3000:]
