# SPDX-License-Identifier: Apache-2.0
"""Fixtures on the real NIXL. Its plugin manager looks into one folder, once in a process: the one with our plugin."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# importlib mode leaves them out, so that test files may share names
sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
sys.path.insert(0, str(Path(__file__).parent))

from memkv_nixl import PLUGIN

# A sanitizer's run names another build of it.
os.environ["NIXL_PLUGIN_DIR"] = os.environ.get("MEMKV_TEST_PLUGINS", str(PLUGIN.parent))

from memkv_rig.cluster import Cluster
from nixl_rig.transfers import Rig

from memkv_core import Client, ClientConfig


def pytest_configure(config: pytest.Config) -> None:
    """NIXL and torch warn of much that is not ours to mend: no errors from that here."""
    config.addinivalue_line("filterwarnings", "default")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, empty at the start of each test file."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), nodes=2, capacity="1GiB")
    yield made
    made.down()


@pytest.fixture(autouse=True)
def memkv_env(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's settings, and no others, in this process's environment."""
    for name in [name for name in os.environ if name.startswith("MEMKV_")]:
        monkeypatch.delenv(name)
    if "cluster" in request.fixturenames:
        made: Cluster = request.getfixturevalue("cluster")
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def rig(cluster: Cluster, namespace: str) -> Iterator[Rig]:
    with Rig(namespace) as made:
        yield made


@pytest.fixture
def client(cluster: Cluster, namespace: str) -> Iterator[Client]:
    """MemKV's own client, in the same namespace."""
    with Client(ClientConfig.load(namespace=namespace)) as made:
        yield made


@pytest.fixture
def keys() -> Callable[[int], list[str]]:
    return lambda count: [f"{uuid.uuid4().hex}/{number}" for number in range(count)]
