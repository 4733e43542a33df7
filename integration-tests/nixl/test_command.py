# SPDX-License-Identifier: Apache-2.0
"""``memkv-nixl`` on the installed NIXL: the plugin is put in its place, found there, measured, and taken away again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memkv_rig.cluster import Cluster

from memkv_nixl._compat import require_builds
from memkv_nixl.links import place_of

Variables = dict[str, str]


def command(variables: Variables, *words: str) -> subprocess.CompletedProcess[str]:
    program = [str(Path(sys.executable).with_name("memkv-nixl")), *words]
    return subprocess.run(program, env=variables, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def variables(cluster: Cluster) -> Variables:
    """What a user's shell has: NIXL looks into its own folder."""
    return {name: value for name, value in os.environ.items() if name != "NIXL_PLUGIN_DIR"}


@pytest.fixture
def installed(variables: Variables) -> Iterator[Variables]:
    assert command(variables, "install").returncode == 0
    yield variables
    assert command(variables, "uninstall").returncode == 0
    assert place_of(require_builds()[0].plugins, "MEMKV").state == "absent"


def findings(variables: Variables) -> tuple[int, str]:
    """(the exit code, what was found, a line each)."""
    ran = command(variables, "check", "--json")
    found: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])["findings"]
    return ran.returncode, "\n".join(f"{one['verdict']}: {one['text']}" for one in found)


def test_check(installed: Variables) -> None:
    code, said = findings(installed)
    assert code == 0, said
    assert "ok: an agent wrote and read blocks, and MemKV's own client read what it wrote" in said
    assert "is a version that the plugin was tested with" in said


def test_check_without_the_plugin(variables: Variables) -> None:
    code, said = findings(variables)
    assert code == 1
    assert "error: the plugin is not in" in said


def test_check_with_telemetry(installed: Variables, tmp_path: Path) -> None:
    """NIXL then keeps books on each transfer, in a layout that changed between its versions."""
    code, said = findings({**installed, "NIXL_TELEMETRY_ENABLE": "1", "NIXL_TELEMETRY_DIR": str(tmp_path)})
    assert code == 0, said


def test_env(variables: Variables, tmp_path: Path) -> None:
    """The mirror has every plugin that NIXL's own folder has, and MemKV."""
    ran = command({**variables, "XDG_CACHE_HOME": str(tmp_path)}, "env", "--alias", "OBJ")
    assert ran.returncode == 0, ran.stderr
    name, _, folder = shlex.split(ran.stdout)[1].partition("=")
    assert name == "NIXL_PLUGIN_DIR"
    build = require_builds()[0]
    script = (
        f"import json; from {build.module}._api import nixl_agent, nixl_agent_config\n"
        "agent = nixl_agent('a', nixl_agent_config(backends=[]))\n"
        "plugins = agent.get_plugin_list()\n"
        "agent.create_backend('OBJ', {'bucket': 'from-the-mirror'})\n"
        "print(json.dumps([plugins, agent.get_backend_params('OBJ')['bucket']]))"
    )
    environment = {**variables, name: folder}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    plugins, bucket = json.loads(ran.stdout.splitlines()[-1])
    assert {"MEMKV", "OBJ", "POSIX", "UCX"} <= set(plugins)
    assert bucket == "from-the-mirror"


def test_bench(installed: Variables) -> None:
    words = ("bench", "--sizes", "16,64", "--batch-mib", "1", "--rounds", "2", "--json")
    ran = command(installed, *words)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])["rows"]
    names = ["MEMKV plugin", "Python client", "NIXL POSIX"]
    assert [(row["block_bytes"], row["name"]) for row in said] == [
        (size, one) for size in (16_384, 65_536) for one in names
    ]
    assert all(row[f"{what}_s"] > 0 for row in said for what in ("write", "read", "query"))
