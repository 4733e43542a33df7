# SPDX-License-Identifier: Apache-2.0
"""Fixtures on the real sglang. Engines take half a minute to start, so they are few and shared by their module."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# importlib mode leaves them out, so that test files may share names
sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
sys.path.insert(0, str(Path(__file__).parent))
os.environ["OMP_NUM_THREADS"] = "1"  # torch's threads fight over a small machine

from memkv_rig.cluster import Cluster


def pytest_configure(config: pytest.Config) -> None:
    """The engine and torch warn of much that is not ours to mend: no errors from that here."""
    config.addinivalue_line("filterwarnings", "default")


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node, empty at the start of each test file."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.down()


@pytest.fixture
def memkv_env(module_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster's settings in this process's environment."""
    for name in [name for name in os.environ if name.startswith("MEMKV_")]:
        monkeypatch.delenv(name)
    for name, value in module_cluster.env.items():
        monkeypatch.setenv(name, value)
    return module_cluster
