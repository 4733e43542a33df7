# SPDX-License-Identifier: Apache-2.0
"""The plugin's client under gcc's sanitizers: many threads against a live cluster, nothing said, exit code 0."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from memkv_rig.cluster import Cluster

NATIVE = Path(__file__).parents[2] / "packages/memkv-nixl/native"
# A leak at the exit counts for address. With randomised addresses gcc 12's thread sanitizer may find its shadow taken.
OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=0"},
}


@pytest.mark.parametrize("sanitizer", sorted(OPTIONS))
def test_many_threads_on_one_client(cluster: Cluster, sanitizer: str) -> None:
    command = [sys.executable, str(NATIVE / "build.py"), "--sanitize", sanitizer, "--program", "stress"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    program = ["setarch", platform.machine(), "-R", str(NATIVE.parent / "build/stress")]
    env = {**os.environ, **cluster.env, **OPTIONS[sanitizer]}
    ran = subprocess.run(program, capture_output=True, text=True, check=False, env=env, timeout=300)
    said = [word for word in ("Sanitizer", "runtime error") if word in ran.stderr]
    assert not said, ran.stderr[-8000:]
    assert ran.returncode == 0, ran.stderr[-8000:]
