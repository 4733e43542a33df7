# SPDX-License-Identifier: Apache-2.0
"""Our class against sglang's abstract one, signature by signature: the installed version's, and the oldest one's.

``signatures-0.5.6.json`` holds names, order and defaults of the abstract class's parameters in the wheel
sglang-0.5.6-py3-none-any.whl, read from its sources with ``ast``; nothing of 0.5.6 is installed or run.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from memkv_sglang.backend import MemKVHiCacheStorage

HERE = Path(__file__).parent


def engines() -> dict[str, Any]:
    """The part of engines.toml about sglang, of which this needs two texts (tomllib is not in Python 3.10)."""
    ours = (HERE.parent / "engines.toml").read_text().partition("[sglang]")[2].partition("\n[")[0]
    pairs = [line.split("=", 1) for line in ours.splitlines() if "=" in line]
    return {name.strip(): json.loads(value) for name, value in pairs if not name.startswith("#")}


def installed_signatures() -> dict[str, list[list[Any]]]:
    """Method to [[parameter, has a default], ...] of the installed abstract class."""
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

    methods = {name: member for name, member in vars(HiCacheStorage).items() if inspect.isfunction(member)}
    return {
        name: [
            [parameter.name, parameter.default is not parameter.empty]
            for parameter in list(inspect.signature(member).parameters.values())[1:]
        ]
        for name, member in methods.items()
        if not name.startswith("_")
    }


def oldest_signatures() -> dict[str, list[list[Any]]]:
    signatures: dict[str, list[list[Any]]] = json.loads((HERE / "signatures-0.5.6.json").read_text())
    return signatures


def check(method: str, expected: list[list[Any]]) -> None:
    ours = vars(MemKVHiCacheStorage).get(method)
    assert ours is not None, f"{method} is left to the abstract class"
    parameters = list(inspect.signature(ours).parameters.values())[1:]
    assert [parameter.name for parameter in parameters][: len(expected)] == [name for name, _ in expected]
    for parameter, (name, optional) in zip(parameters, expected, strict=False):
        assert parameter.default is not parameter.empty or not optional, f"{method}: {name} must be optional"
    assert all(parameter.default is not parameter.empty for parameter in parameters[len(expected) :])


def test_the_pinned_version_is_installed() -> None:
    assert importlib.metadata.version("sglang") == engines()["version"]
    pinned = (HERE / "requirements-nodeps.txt").read_text().splitlines()
    assert f"sglang=={engines()['version']}" in pinned


def test_it_is_a_subclass_that_can_be_made() -> None:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

    assert issubclass(MemKVHiCacheStorage, HiCacheStorage)
    assert not inspect.isabstract(MemKVHiCacheStorage)
    inspect.signature(MemKVHiCacheStorage).bind(object(), {})  # positionally, as the factory does
    inspect.signature(MemKVHiCacheStorage).bind(object())


def test_the_lists_are_not_empty() -> None:
    assert len(installed_signatures()) >= 15
    assert len(oldest_signatures()) >= 8


@pytest.mark.parametrize("method", sorted(oldest_signatures()))
def test_methods_of_the_oldest_version(method: str) -> None:
    check(method, oldest_signatures()[method])


def test_every_method_of_the_installed_version() -> None:
    for method, expected in installed_signatures().items():
        check(method, expected)


def test_misses_of_the_v2_calls_are_sglangs_own_types() -> None:
    from sglang.srt.mem_cache.hicache_storage import PoolTransferResult
    from sglang.srt.observability.metrics_collector import StorageMetrics

    from memkv_sglang import _compat

    assert _compat.PoolTransferResult is PoolTransferResult
    assert _compat.storage_metrics_class() is StorageMetrics
    StorageMetrics(prefetch_pgs=[1], backup_pgs=[1], prefetch_bandwidth=[1.0], backup_bandwidth=[1.0])


def test_what_is_loaded_is_ours_and_no_others() -> None:
    """Another vendor has packages of this name on the public index."""
    metadata = importlib.metadata.metadata("memkv-sglang")
    assert metadata["Author"] == "The MemKV Authors"
    distribution = importlib.metadata.distribution("memkv-sglang")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    assert origin.get("url", "").startswith("file://")
