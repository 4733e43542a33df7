# SPDX-License-Identifier: Apache-2.0
"""The program that answers for the plugin's C++ parts, built once for a run and asked in JSON."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from memkv_core.testing.vectors import load_vectors

NATIVE = Path(__file__).parents[1] / "native"
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def probe_path() -> Path:
    build = runpy.run_path(str(NATIVE / "build.py"))
    path: Path = build["build_program"]("probe", NATIVE.parent / "build" / "probe")
    return path


@pytest.fixture(scope="session")
def ask(probe_path: Path) -> Iterator[Ask]:
    """``ask(op, **arguments)``: one answer of a program that runs as long as the tests do."""
    with subprocess.Popen([str(probe_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None

        def one(op: str, **arguments: Any) -> dict[str, Any]:
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            running.stdin.flush()
            answer = json.loads(running.stdout.readline())
            assert isinstance(answer, dict)
            return answer

        yield one
        running.stdin.close()
        assert running.wait(10) == 0


@pytest.fixture
def ask_with(probe_path: Path, tmp_path: Path) -> Ask:
    """``ask_with(variables, op, **arguments)``: asks a program with these MEMKV variables, a home and folder of its
    own, and no others."""

    def one(variables: Mapping[str, str], op: str, **arguments: Any) -> dict[str, Any]:
        kept = {name: value for name, value in os.environ.items() if "LICENSE" not in name and "MEMKV" not in name}
        clean = {**kept, "XDG_CONFIG_HOME": str(tmp_path / "config"), **variables}
        ran = subprocess.run(
            [str(probe_path)],
            input=json.dumps({"op": op, **arguments}) + "\n",
            capture_output=True,
            text=True,
            check=True,
            env=clean,
            cwd=tmp_path,
        )
        answer = json.loads(ran.stdout)
        assert isinstance(answer, dict)
        return {**answer, "stderr": ran.stderr}

    return one


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], dict[str, Any]]:
    return lambda name: load_vectors(name, Path(__file__).parent)
