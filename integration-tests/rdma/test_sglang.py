# SPDX-License-Identifier: Apache-2.0
"""sglang's backend over RDMA: its host pools are registered once, and pages move from and to them without a copy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memkv_core.authority import Authority
from memkv_core.stats import ClientStats
from memkv_core.testing.transport_tests import KEY
from memkv_core.transports import pyverbs_binding
from memkv_server.engine import DriveSet
from memkv_server.rdma import RdmaSource
from memkv_server.testing.local_lane import LocalLane
from memkv_sglang.backend import MemKVHiCacheStorage

sys.path.insert(0, str(Path(__file__).parents[2] / "packages/memkv-sglang/tests"))
fakes: Any = importlib.import_module("sglang_fakes")

PAGES = 12
POOLS: dict[str, Callable[[str], Any]] = {
    "mha": lambda layout: fakes.MHATokenToKVPoolHost(
        layout=layout, layers=4, page_size=16, page_count=32, heads=4, dim=64
    ),
    "mla": lambda layout: fakes.MLATokenToKVPoolHost(layout=layout, layers=4, page_size=16, page_count=32, dim=288),
}


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLane]:
    def open_source(engine: DriveSet) -> RdmaSource:
        return RdmaSource.open(["rxe0"], engine.fixed_memory(), 8 << 20, pyverbs_binding.load)

    lane = LocalLane(tmp_path_factory.mktemp("lane"), KEY, rdma=open_source, mode="memory")
    yield lane
    lane.stop()


@pytest.fixture
def settings(lane: LocalLane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    authority = Authority.create(tmp_path / "authority")
    for name, value in {
        "SERVERS": lane.address,
        "AUTH_KEY": KEY.hex(),
        "LICENSE": authority.issue("tests"),
        "LICENSE_KEYS": str(authority.public_keys),
        "TRANSPORT": "rdma",
        "RDMA_DEVICES": "rxe0",
        "STAGING_SIZE_MB": "16",
        "STAGING_SLOT_MB": "1",
    }.items():
        monkeypatch.setenv(f"MEMKV_{name}", value)
    return monkeypatch


def started(pool: Any, **fields: Any) -> MemKVHiCacheStorage:
    """A backend with the pool registered, as sglang does it. Calls may take long: the machine is emulated."""
    extra = {"interface_v1": 1, "timeout_ms": 7900}
    storage = MemKVHiCacheStorage(fakes.storage_config(extra_config=extra, **fields), {})
    storage.register_mem_pool_host(pool)
    return storage


def stats_of(storage: MemKVHiCacheStorage) -> ClientStats:
    return storage._pool("kv").client.stats()


@pytest.mark.parametrize(
    ("kind", "layout"),
    [("mha", "page_first"), ("mha", "layer_first"), ("mha", "page_first_direct"), ("mla", "page_first")],
)
def test_pages_go_from_one_pool_to_another_without_a_copy(settings: pytest.MonkeyPatch, kind: str, layout: str) -> None:
    keys = fakes.hashes(*range(PAGES))
    source, target = POOLS[kind](layout), POOLS[kind](layout)
    target.array[:] = 0
    is_mla = kind == "mla"
    first = started(source, is_mla_model=is_mla, model_name=f"org/{kind}-{layout}")
    assert first.batch_set_v1(keys, source.pages_at(*range(PAGES))) == [True] * PAGES
    second = started(target, is_mla_model=is_mla, model_name=f"org/{kind}-{layout}")
    wanted = list(range(20, 20 + PAGES))
    assert second.batch_exists(keys) == PAGES
    assert second.batch_get_v1([*keys, *fakes.hashes(999)], target.pages_at(*wanted, 3)) == [True] * PAGES + [False]
    for number, page in enumerate(wanted):
        assert target.page_bytes(page) == source.page_bytes(number)
    others = [page for page in range(32) if page not in wanted]
    assert not any(np.any(target.flat(page)) for page in others)

    moved_bytes = PAGES * len(source.page_bytes(0))
    for storage in (first, second):
        stats = stats_of(storage)
        # Generation records, of some bytes each, are in no pool: they go by the staging.
        assert stats.moved_registered_bytes == moved_bytes, stats
        assert stats.moved_staged_bytes < 4096, stats
        assert stats.moved_fallbacks == {}, stats
        storage.close()


def test_a_start_says_over_which_device(settings: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pool = POOLS["mla"]("page_first")
    storage = started(pool, is_mla_model=True)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("transport=rdma: ") for line in lines), lines
    assert any(line.startswith("Server mapped to rail server=") and line.endswith(' rail="rxe0"') for line in lines)
    assert any("ready (servers=" in line and "rdma=true" in line for line in lines), lines
    storage.close()
