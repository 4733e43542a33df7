# SPDX-License-Identifier: Apache-2.0
"""sglang's own NIXL backend, unpatched, on MemKV: under the name OBJ that it knows, and under MemKV's own, by path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from memkv_rig.cluster import Cluster

from memkv_nixl._compat import require_builds
from memkv_nixl.mirror import mirror

SCRIPT = Path(__file__).parent / "nixl_rig/sglang_backend.py"


@pytest.mark.skipif("NIXL_TESTED_VERSION" in os.environ, reason="sglang runs with the pinned NIXL only")
@pytest.mark.parametrize(("plugin", "kind"), [("obj", "OBJ"), ("memkv", "FILE")])
def test_pages_of_sglang(cluster: Cluster, namespace: str, tmp_path: Path, plugin: str, kind: str) -> None:
    params = {"bucket" if plugin == "obj" else "namespace": namespace, "server": cluster.env["MEMKV_SERVERS"]}
    environment = {
        **os.environ,
        "NIXL_PLUGIN_DIR": str(mirror(require_builds()[0], ("OBJ",), cache=tmp_path / "cache")),
        "SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR": str(tmp_path / "pages"),
    }
    command = [sys.executable, str(SCRIPT), plugin, json.dumps(params)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "kind": kind,
        "before": 0,
        "set": 32,
        "exists": 32,
        "prefix": 5,
        "get": 32,
        "equal": True,
        "missing": [False, False],
    }
