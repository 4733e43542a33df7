# SPDX-License-Identifier: Apache-2.0
"""The guide's command line on a CPU, word for word, and ``memkv-sglang warm`` against it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memkv_rig.cluster import Cluster
from sglang_rig.checkpoint import prompt, write_checkpoint
from sglang_rig.http_server import HttpServer

PROMPTS, TOKENS = 6, 600


@pytest.fixture(scope="module")
def server(module_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("http")
    made = HttpServer(write_checkpoint(folder / "model"), {}, module_cluster.env, folder / "server.log")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(prompt(number, TOKENS))}\n" for number in range(PROMPTS)))
    return path


def warm(url: str, prompts: Path) -> dict[str, Any]:
    command = Path(sys.executable).with_name("memkv-sglang")
    ran = subprocess.run(
        [command, "warm", str(prompts), "--url", url, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def test_warm_restores_what_the_cluster_holds(server: HttpServer, prompts: Path) -> None:
    cold = warm(server.url, prompts)
    assert (cold["prompt_count"], cold["token_count"], cold["recomputed_tokens"]) == (PROMPTS, 3600, 3600)
    again = warm(server.url, prompts)  # in the server's own memory now
    assert again["restored_tokens"] == 0
    assert again["cached_tokens"] >= PROMPTS * 576
    server.flush()
    restored = warm(server.url, prompts)
    assert restored["restored_tokens"] >= PROMPTS * 576
    assert restored["restored_tokens"] + restored["recomputed_tokens"] == 3600
    assert restored["failures"] == []


def test_the_guides_config_lacks_interface_v1_and_the_log_says_so(server: HttpServer) -> None:
    assert '"interface_v1": 1' in server.log()
    assert "MemKVHiCacheStorage ready" in server.log()
