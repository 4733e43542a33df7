# SPDX-License-Identifier: Apache-2.0
"""Fixtures on the real vLLM. Its start takes about a minute, so there are few tests, each of a few starts."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The shared rigs too.
sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("vllm", "lmcache", "sglang", "rig"))
os.environ.update(OMP_NUM_THREADS="1", LMCACHE_TRACK_USAGE="false", LMCACHE_LOG_LEVEL="INFO")

from memkv_rig.cluster import Cluster
from sglang_rig.checkpoint import write_checkpoint

LIMIT_S = 1800


def pytest_configure(config: pytest.Config) -> None:
    """vLLM and torch warn of much that is not ours to mend: no errors from that here."""
    config.addinivalue_line("filterwarnings", "default")


@pytest.fixture(autouse=True)
def bound() -> Iterator[None]:
    """Three starts of vLLM take longer than the bound of every other test."""
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama whose output hangs on its KV."""
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """One real node, its settings in this process's environment."""
    for name in [name for name in os.environ if name.startswith("MEMKV_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)  # nothing may need it
    made = Cluster(tmp_path / "cluster")
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    yield made
    made.down()
