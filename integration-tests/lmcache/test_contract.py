# SPDX-License-Identifier: Apache-2.0
"""Our classes against LMCache's abstract ones, of the version that is imported; test_newest.py runs this on the other.

What LMCache adds to an abstract class makes ours impossible to construct, and what it renames is called in vain: both
would show as an engine that runs without a remote tier.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.distributed.l2_adapters.config import L2AdapterConfigBase
from lmcache.v1.storage_backend.abstract_backend import StoragePluginInterface
from lmcache.v1.storage_backend.connector import ConnectorAdapter
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector
from lmcache_rig.versions import engines

from memkv_lmcache import _compat
from memkv_lmcache.backend import MemKVStorageBackend
from memkv_lmcache.connector import MemKVConnector, MemKVConnectorAdapter
from memkv_lmcache.l2_adapter import MemKVL2Adapter, MemKVL2AdapterConfig

HERE = Path(__file__).parent
PAIRS = [
    (L2AdapterInterface, MemKVL2Adapter),
    (L2AdapterConfigBase, MemKVL2AdapterConfig),
    (StoragePluginInterface, MemKVStorageBackend),
    (RemoteConnector, MemKVConnector),
    (ConnectorAdapter, MemKVConnectorAdapter),
]
METHODS = [
    (base, ours, name)
    for base, ours in PAIRS
    for name, member in vars(ours).items()
    if inspect.isfunction(member) and not name.startswith("_") and hasattr(base, name)
]


def parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())[1:]


def test_the_version_is_the_one_that_is_meant() -> None:
    wanted = engines("lmcache")["newest" if "LMCACHE_NEWEST" in os.environ else "version"]
    assert importlib.metadata.version("lmcache") == wanted == _compat.version()
    assert f"lmcache=={engines('lmcache')['version']}" in (HERE / "requirements-nodeps.txt").read_text().splitlines()


@pytest.mark.parametrize(("base", "ours"), PAIRS, ids=lambda each: each.__name__)
def test_it_is_a_subclass_that_can_be_made(base: type, ours: type) -> None:
    assert issubclass(ours, base), "a stand-in was taken: LMCache has moved the class"
    assert not getattr(ours, "__abstractmethods__", frozenset())


def test_enough_methods_are_compared() -> None:
    assert len([name for _, ours, name in METHODS if ours is MemKVL2Adapter]) >= 14
    assert len([name for _, ours, name in METHODS if ours is MemKVStorageBackend]) >= 14
    assert len([name for _, ours, name in METHODS if ours is MemKVConnector]) >= 14


@pytest.mark.parametrize(("base", "ours", "name"), METHODS, ids=lambda each: getattr(each, "__name__", each))
def test_a_method_takes_what_lmcache_passes(base: type, ours: type, name: str) -> None:
    expected, taken = parameters(getattr(base, name)), parameters(getattr(ours, name))
    positional = [each for each in taken if each.kind is each.POSITIONAL_OR_KEYWORD]
    named = [each for each in expected if each.kind is each.POSITIONAL_OR_KEYWORD]
    if not any(each.kind is each.VAR_POSITIONAL for each in taken):
        assert len(positional) >= len(named)
    for mine, theirs in zip(positional, named, strict=False):
        assert mine.name == theirs.name, "LMCache may pass it by name"
        assert mine.default is not mine.empty or theirs.default is theirs.empty, f"{mine.name} must be optional"
    assert all(each.default is not each.empty for each in positional[len(named) :])
    assert inspect.iscoroutinefunction(getattr(ours, name)) == inspect.iscoroutinefunction(getattr(base, name))


def test_nothing_that_raises_is_left_to_the_abstract_class() -> None:
    """Methods that are not abstract and raise NotImplementedError all the same."""
    left = {
        f"{ours.__name__}.{name}"
        for base, ours in PAIRS
        for name, member in inspect.getmembers(base, inspect.isfunction)
        if "raise NotImplementedError" in inspect.getsource(member) and getattr(ours, name) is member
    }
    assert left == UNUSED


# Never called on a backend of this kind, in either version.
UNUSED = {"MemKVStorageBackend.async_batched_submit_put_task", "MemKVStorageBackend.get_non_blocking"}


def test_values_are_lmcaches_own() -> None:
    from lmcache.lmcache_native import Bitmap
    from lmcache.v1.distributed.internal_api import L2StoreResult

    assert _compat.Bitmap is Bitmap
    assert _compat.L2StoreResult is L2StoreResult
    assert _compat.create_event_notifier.__module__.startswith("lmcache.")
    assert _compat.KeyEntry.__module__ == _compat.KeyListPage.__module__ == "lmcache.v1.distributed.api"
    if "LMCACHE_NEWEST" in os.environ:
        assert type(_compat.remote_memory_tags()).__module__ == "lmcache.v1.distributed.api"


def test_what_is_loaded_is_ours_and_no_others() -> None:
    """Another vendor has a package of this name on the public index."""
    distribution = importlib.metadata.distribution("memkv-lmcache")
    assert distribution.metadata["Author"] == "The MemKV Authors"
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    assert origin.get("url", "").startswith("file://")
