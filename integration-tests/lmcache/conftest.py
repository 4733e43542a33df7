# SPDX-License-Identifier: Apache-2.0
"""Fixtures on the real LMCache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# importlib mode leaves them out, so that test files may share names
sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
sys.path.insert(0, str(Path(__file__).parent))
os.environ.update(OMP_NUM_THREADS="1", LMCACHE_TRACK_USAGE="false", PYTHONHASHSEED="0", LMCACHE_LOG_LEVEL="WARNING")

from memkv_rig.cluster import Cluster


def pytest_configure(config: pytest.Config) -> None:
    """LMCache and torch warn of much that is not ours to mend: no errors from that here."""
    config.addinivalue_line("filterwarnings", "default")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """One real node, its settings in this process's environment."""
    for name in [name for name in os.environ if name.startswith("MEMKV_")]:
        monkeypatch.delenv(name)
    made = Cluster(tmp_path / "cluster")
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    yield made
    made.down()


@pytest.fixture
def make_storage(cluster: Cluster) -> Iterator[Callable[..., Any]]:
    """Makes StorageManagers with our adapter, from ``adapter_params``."""
    from lmcache_rig.storage import Storage

    made: list[Storage] = []

    def make(**params: Any) -> Storage:
        made.append(Storage(**params))
        return made[-1]

    yield make
    for storage in made:
        storage.close()
