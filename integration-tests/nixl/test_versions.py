# SPDX-License-Identifier: Apache-2.0
"""The same tests on the oldest NIXL that is supported; and what is installed is what ``engines.toml`` says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nixl_rig.versions import engine, folder_of

from memkv_nixl._compat import TESTED, require_builds

HERE = Path(__file__).parent
OTHER = os.environ.get("NIXL_TESTED_VERSION")  # this is the run on another version than the pinned one


def test_versions_agree() -> None:
    assert require_builds()[0].version == (OTHER or engine()["version"])
    assert f"nixl-cu12=={engine()['version']}\n" in (HERE / "requirements-nodeps.txt").read_text()
    assert tuple(engine()["all"]) == TESTED
    assert (engine()["oldest"], engine()["version"]) == (TESTED[0], TESTED[-1])


@pytest.mark.skipif(OTHER is not None, reason="this is the run on another version")
@pytest.mark.parametrize("name", ["transfers", "rules", "sharing", "first_contact", "vtable", "creation", "command"])
def test_on_the_oldest_version(name: str) -> None:
    version = engine()["oldest"]
    assert folder_of(version).is_dir(), "prepare.py makes it"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / f"test_{name}.py")]
    environment = {**os.environ, "PYTHONPATH": str(folder_of(version)), "NIXL_TESTED_VERSION": version}
    ran = subprocess.run(
        command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
