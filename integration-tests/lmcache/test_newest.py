# SPDX-License-Identifier: Apache-2.0
"""The same tests on the newest LMCache: contract, MP mode, in-process engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lmcache_rig.versions import NEWEST

HERE = Path(__file__).parent


@pytest.mark.skipif("LMCACHE_NEWEST" in os.environ, reason="this is the run on the newest version")
@pytest.mark.parametrize("name", ["test_contract.py", "test_storage_manager.py", "test_engine.py"])
def test_on_the_newest_version(name: str) -> None:
    assert NEWEST.is_dir(), "prepare.py makes it"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / name)]
    environment = {**os.environ, "PYTHONPATH": str(NEWEST), "LMCACHE_NEWEST": "1"}
    ran = subprocess.run(
        command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
    assert " skipped" not in ran.stdout
