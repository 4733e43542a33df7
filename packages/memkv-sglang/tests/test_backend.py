# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sglang_fakes import (
    AUTH_KEY,
    FakeTensor,
    MambaPoolHost,
    MHATokenToKVPoolHost,
    MLATokenToKVPoolHost,
    hashes,
    storage_config,
)

from memkv_core.errors import ConfigError, LicenseError
from memkv_sglang.backend import MemKVHiCacheStorage
from memkv_sglang.pools import ALL_PAGES, TRAILING_PAGES

MHA_LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head")
MLA_LAYOUTS = ("layer_first", "page_first", "page_first_direct")
KINDS = [("mha", name) for name in MHA_LAYOUTS] + [("mla", name) for name in MLA_LAYOUTS]


def pool_of(kind: str, layout: str, **shape: Any) -> Any:
    made = MHATokenToKVPoolHost if kind == "mha" else MLATokenToKVPoolHost
    return made(layout=layout, layers=3, page_size=4, **shape)


def transfer(name: str, keys: list[str], host_indices: Any = None, policy: str = ALL_PAGES) -> SimpleNamespace:
    return SimpleNamespace(name=name, keys=keys, host_indices=host_indices, hit_policy=policy)


class Wire:
    """The two ways sglang moves KV pages, under one pair of names."""

    def __init__(self, storage: MemKVHiCacheStorage, pool: Any, *, v1: bool) -> None:
        self.storage, self.pool, self.v1 = storage, pool, v1

    def write(self, keys: list[str], *pages: int) -> bool:
        if self.v1:
            return all(self.storage.batch_set_v1(keys, self.pool.pages_at(*pages)))
        return self.storage.batch_set(keys, [self.pool.get_data_page(page * self.pool.page_size) for page in pages])

    def read(self, keys: list[str], *pages: int) -> list[bool]:
        if self.v1:
            return self.storage.batch_get_v1(keys, self.pool.pages_at(*pages))
        found = self.storage.batch_get(keys, [self.pool.get_dummy_flat_data_page() for _ in keys])
        for page, tensor in zip(pages, found, strict=True):
            if tensor is not None:
                self.pool.set_from_flat_data_page(page * self.pool.page_size, tensor)
        return [tensor is not None for tensor in found]


@pytest.mark.parametrize(("write_v1", "read_v1"), [(1, 1), (0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize(("kind", "layout"), KINDS)
def test_pages_come_back_byte_for_byte(
    make: Any, cluster: Any, kind: str, layout: str, write_v1: int, read_v1: int
) -> None:
    source, target = pool_of(kind, layout), pool_of(kind, layout)
    target.array[:] = 0
    writer = Wire(make(source, is_mla_model=kind == "mla"), source, v1=bool(write_v1))
    reader = Wire(make(target, is_mla_model=kind == "mla"), target, v1=bool(read_v1))
    assert writer.write(hashes(1, 2, 3), 4, 0, 6)
    assert len(cluster.pages()) == 3
    assert reader.storage.batch_exists(hashes(1, 2, 3, 9)) == 3
    assert reader.read(hashes(1, 2, 9, 3), 1, 2, 3, 5) == [True, True, False, True]
    assert [target.page_bytes(page) for page in (1, 2, 5)] == [source.page_bytes(page) for page in (4, 0, 6)]
    assert not any(target.page_bytes(page).strip(b"\0") for page in (0, 4, 6, 7))


def test_a_page_already_there_counts_as_stored(make: Any) -> None:
    pool = pool_of("mha", "page_first")
    storage = make(pool)
    assert storage.batch_set_v1(hashes(1), pool.pages_at(0)) == [True]
    assert storage.batch_set_v1(hashes(1, 2), pool.pages_at(0, 1)) == [True, True]
    assert storage.set(hashes(1)[0], pool.get_data_page(0)) is True


def test_single_page_calls(make: Any) -> None:
    pool = pool_of("mha", "page_first")
    storage = make(pool)
    key, other = hashes(1, 2)
    assert storage.exists(key) is False
    assert storage.get(key) is None
    assert storage.set(key, pool.get_data_page(8)) is True
    assert storage.exists(key) is True
    target = pool.get_dummy_flat_data_page()
    assert storage.get(key, target) is target
    assert target.array.tobytes() == pool.page_bytes(2)
    assert storage.get(key).array.tobytes() == pool.page_bytes(2)
    assert storage.batch_get([key, other])[1] is None


def test_split_heads_are_shared_between_tensor_parallel_sizes(make: Any) -> None:
    whole = MHATokenToKVPoolHost(layout="page_head", layers=3, page_size=4, heads=4)
    two = make(whole, extra={}, tp_rank=1, tp_size=2, tp_lcm_size=4, should_split_heads=True)
    assert two.batch_set_v1(hashes(1, 2), whole.pages_at(0, 1)) == [True, True]
    for rank, heads in ((2, slice(0, 2)), (3, slice(2, 4))):
        quarter = MHATokenToKVPoolHost(layout="page_head", layers=3, page_size=4, heads=2)
        four = make(quarter, extra={}, tp_rank=rank, tp_size=4, tp_lcm_size=4)
        assert four.batch_exists(hashes(1, 2)) == 2
        assert four.batch_get_v1(hashes(1, 2), quarter.pages_at(5, 6)) == [True, True]
        assert np.array_equal(quarter.array[:, 5], whole.array[:, 0, heads])
    stranger = MHATokenToKVPoolHost(layout="page_head", layers=3, page_size=4, heads=2)
    assert make(stranger, extra={}, tp_rank=0, tp_size=4, tp_lcm_size=4).batch_exists(hashes(1, 2)) == 0


def test_split_heads_without_interface_v1(make: Any) -> None:
    pool = MHATokenToKVPoolHost(layout="page_head", layers=3, page_size=4, heads=4)
    storage = make(pool, extra={"interface_v1": 0}, tp_size=2, tp_lcm_size=4, should_split_heads=True)
    assert Wire(storage, pool, v1=False).write(hashes(1, 2), 0, 1)
    before = pool.page_bytes(0)
    assert Wire(storage, pool, v1=True).read(hashes(1), 5) == [True]
    assert pool.page_bytes(5) == before


# -- who meets whom ----------------------------------------------------------------------------------------------------
TRAPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fp16, pages of the same size": ({"dtype": "torch.float16"}, {}),
    "page_first_direct, pages of the same size": ({"layout": "page_first_direct"}, {}),
    "tag": ({}, {"extra": {"tag": "v2"}}),
    "model": ({}, {"model_name": "org/other"}),
    "kv_cache_dtype": ({}, {"extra": {"kv_cache_dtype": "fp8_e5m2"}}),
    "tp": ({}, {"tp_size": 2}),
    "tp rank": ({}, {"tp_size": 2, "tp_rank": 1}),
    "pp": ({}, {"pp_size": 2}),
    "cp": ({}, {"attn_cp_size": 2}),
}


@pytest.mark.parametrize("label", TRAPS)
def test_runs_that_differ_do_not_read_each_others_pages(make: Any, cluster: Any, label: str) -> None:
    pool = pool_of("mha", "page_first")
    assert make(pool).batch_set_v1(hashes(1), pool.pages_at(0)) == [True]
    shape, config = TRAPS[label]
    other = pool_of("mha", shape.get("layout", "page_first"))
    other.dtype = shape.get("dtype", other.dtype)
    storage = make(other, **config)
    before = other.page_bytes(0)
    assert storage.batch_exists(hashes(1)) == 0
    assert storage.batch_get_v1(hashes(1), other.pages_at(0)) == [False]
    assert other.page_bytes(0) == before
    assert storage.batch_set_v1(hashes(1), other.pages_at(0)) == [True]
    assert len([name for name, blocks in cluster.blocks.items() if blocks]) == 2


def test_replicas_that_agree_share_and_so_do_data_parallel_ranks(make: Any) -> None:
    pool = pool_of("mha", "page_first")
    assert make(pool).batch_set_v1(hashes(1), pool.pages_at(0)) == [True]
    assert make(pool_of("mha", "page_first", page_count=16), dp_rank=3).batch_exists(hashes(1)) == 1


def test_mla_ranks_share_what_rank_0_wrote(make: Any) -> None:
    pool = pool_of("mla", "page_first")
    assert make(pool, is_mla_model=True, tp_size=4).batch_set_v1(hashes(1), pool.pages_at(0)) == [True]
    assert make(pool, is_mla_model=True, tp_size=4, tp_rank=2).batch_exists(hashes(1)) == 1
    assert make(pool, is_mla_model=True, tp_size=4, tp_rank=2, pp_size=2, pp_rank=1).batch_exists(hashes(1)) == 0


def test_a_stored_value_of_another_length_is_no_hit(make: Any, cluster: Any) -> None:
    pool = pool_of("mha", "page_first")
    storage = make(pool)
    assert storage.batch_set_v1(hashes(1), pool.pages_at(0)) == [True]
    [namespace] = [name for name, blocks in cluster.blocks.items() if blocks]
    [key] = cluster.blocks[namespace]
    cluster.blocks[namespace][key] = cluster.blocks[namespace][key][:-1]
    assert storage.batch_get_v1(hashes(1), pool.pages_at(1)) == [False]


def test_a_pinned_namespace_is_one_name_for_each_shard_and_guarded_by_the_identity(make: Any, cluster: Any) -> None:
    pool = pool_of("mha", "page_first")
    pinned = {"namespace": "prod"}
    assert make(pool, extra=pinned, tp_size=2, tp_rank=1).batch_set_v1(hashes(1), pool.pages_at(0)) == [True]
    assert "prod/kv/tp1of2" in cluster.blocks
    assert make(pool, extra=pinned, tp_size=2, tp_rank=1).batch_exists(hashes(1)) == 1
    other = make(pool, extra={**pinned, "tag": "v2"}, tp_size=2, tp_rank=1)
    assert other.batch_exists(hashes(1)) == 0
    assert other.batch_set_v1(hashes(2), pool.pages_at(0)) == [False]


# -- side pools --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("addressable", [True, False])
def test_side_pools_move_and_restrict_the_prefix(make: Any, addressable: bool) -> None:
    kv, mamba = pool_of("mha", "page_first"), MambaPoolHost(addressable=addressable)
    storage = make(kv)
    storage.register_mem_host_pool_v2(kv, "kv")
    storage.register_mem_host_pool_v2(mamba, "mamba")
    storage.on_host_pools_registered()
    keys = hashes(1, 2, 3, 4)
    assert storage.batch_set_v1(keys, kv.pages_at(0, 1, 2, 3)) == [True] * 4
    saved = storage.batch_set_v2([transfer("mamba", hashes(2, 4), np.array([5, 6]), TRAILING_PAGES)])
    assert saved == {"mamba": [True, True]}

    result = storage.batch_exists_v2(keys, [transfer("mamba", keys[-1:], policy=TRAILING_PAGES)])
    assert (result.kv_hit_pages, result.restorable_prefix_pages) == (4, [2, 4])
    assert result.extra_pool_hit_pages == {"kv": 4, "mamba": 4}
    result = storage.batch_exists_v2(keys[:3], [transfer("mamba", keys[2:3], policy=TRAILING_PAGES)])
    assert (result.kv_hit_pages, result.restorable_prefix_pages) == (2, [2])

    before = mamba.page_bytes(5)
    assert storage.batch_get_v2([transfer("mamba", hashes(2, 7), np.array([0, 1]))]) == {"mamba": [True, False]}
    assert mamba.page_bytes(0) == before


def test_wrong_indices_for_a_side_pool_are_a_miss(make: Any) -> None:
    kv, mamba = pool_of("mha", "page_first"), MambaPoolHost()
    storage = make(kv)
    storage.register_mem_host_pool_v2(mamba, "mamba")
    for indices in (None, np.array([1, 2, 3])):
        assert storage.batch_set_v2([transfer("mamba", hashes(1, 2), indices)]) == {"mamba": [False, False]}
    assert storage.batch_get_v2([transfer("swa", hashes(1), np.array([0]))]) == {"swa": [False]}
    assert storage.batch_exists_v2(hashes(1), [transfer("swa", hashes(1))]).kv_hit_pages == 0


def test_a_logical_kv_pool_leaves_the_word_to_the_side_pools(make: Any) -> None:
    logical = SimpleNamespace(kv_buffer=None, layout="layer_first", page_size=4, dtype="torch.uint8")
    storage = make(logical, is_mla_model=True)
    side = pool_of("mla", "page_first")
    storage.register_mem_host_pool_v2(side, "deepseek_v4_c4")
    assert storage.batch_set_v1(hashes(1, 2), np.arange(8)) == [True, True]
    assert storage.batch_get_v1(hashes(1, 2), np.arange(8)) == [True, True]
    assert storage.batch_exists(hashes(1)) == 0
    wanted = transfer("deepseek_v4_c4", hashes(1, 2, 3), side.pages_at(0, 1, 2))
    assert storage.batch_exists_v2(hashes(1, 2, 3), [wanted]).kv_hit_pages == 0
    stored = transfer("deepseek_v4_c4", hashes(1, 2), side.pages_at(0, 1))
    assert storage.batch_set_v2([stored]) == {"deepseek_v4_c4": [True, True]}
    assert storage.batch_exists_v2(hashes(1, 2, 3), [wanted]).kv_hit_pages == 2


# -- never in the way --------------------------------------------------------------------------------------------------
def every_call(storage: MemKVHiCacheStorage, pool: Any) -> dict[str, Any]:
    keys, indices = hashes(1, 2), pool.pages_at(0, 1)
    flat = [pool.get_data_page(0), pool.get_data_page(4)]
    side = [transfer("kv", keys, indices)]
    return {
        "get": storage.get(keys[0], flat[0]),
        "batch_get": storage.batch_get(keys, flat),
        "set": storage.set(keys[0], flat[0]),
        "batch_set": storage.batch_set(keys, flat),
        "exists": storage.exists(keys[0]),
        "batch_exists": storage.batch_exists(keys),
        "batch_get_v1": storage.batch_get_v1(keys, indices),
        "batch_set_v1": storage.batch_set_v1(keys, indices),
        "batch_get_v2": storage.batch_get_v2(side),
        "batch_set_v2": storage.batch_set_v2(side),
        "batch_exists_v2": storage.batch_exists_v2(keys, side).kv_hit_pages,
        "get_stats": storage.get_stats(),
        "clear": storage.clear(),
    }


MISSES = {
    "get": None, "batch_get": [None, None], "set": False, "batch_set": False, "exists": False, "batch_exists": 0,
    "batch_get_v1": [False, False], "batch_set_v1": [False, False], "batch_get_v2": {"kv": [False, False]},
    "batch_set_v2": {"kv": [False, False]}, "batch_exists_v2": 0, "get_stats": None, "clear": None,
}  # fmt: skip


@pytest.mark.parametrize("error", [RuntimeError("bug"), TimeoutError("late"), MemoryError()])
def test_no_call_raises_whatever_the_client_does(make: Any, cluster: Any, error: Exception) -> None:
    pool = pool_of("mha", "page_first")
    storage = make(pool)
    cluster.fail = error
    assert every_call(storage, pool) == MISSES


def test_an_unreachable_cluster_is_all_misses(make: Any, cluster: Any) -> None:
    pool = pool_of("mha", "page_first")
    storage = make(pool)
    cluster.down = True
    assert every_call(storage, pool) == MISSES
    cluster.down = False
    assert storage.batch_set_v1(hashes(1), pool.pages_at(0)) == [True]


def test_calls_before_a_pool_is_registered_or_after_close_are_misses(make: Any) -> None:
    pool = pool_of("mha", "page_first")
    assert every_call(make(), pool) == MISSES
    storage = make(pool)
    storage.close()
    storage.close()
    assert every_call(storage, pool) == MISSES


def test_nonsense_arguments_are_misses_too(make: Any) -> None:
    pool = pool_of("mha", "page_first")
    storage = make(pool)
    outside = pool.pages_at(pool.page_num)
    assert storage.batch_get_v1(hashes(1), outside) == [False]
    assert storage.batch_get_v1(hashes(1, 2), pool.pages_at(0)) == [False, False]
    assert storage.batch_set_v1(hashes(1), None) == [False]
    assert storage.batch_set([hashes(1)[0]], [FakeTensor(pool.array.T)]) is False
    assert storage.batch_set(hashes(1), None) is False
    assert storage.batch_get_v1([], np.array([], dtype=np.int64)) == []
    assert storage.batch_exists([]) == 0


def test_a_pool_that_cannot_be_described_leaves_the_engine_running(make: Any, caplog: Any) -> None:
    storage = make(SimpleNamespace(kv_buffer=object()))
    assert storage.batch_exists(hashes(1)) == 0
    assert "register_mem_pool_host" in caplog.text


def test_a_long_list_is_asked_for_in_pieces_within_one_deadline(make: Any, cluster: Any) -> None:
    pool = pool_of("mha", "page_first")
    storage = make(pool, extra={"timeout_ms": 700})
    many = hashes(*range(10_000))
    assert storage.batch_exists(many) == 0
    lookups = [call for call in cluster.calls if call[0] == "lookup"]
    assert [keys for _, keys, _ in lookups] == [4096]  # the first page is missing: nothing more is asked
    blocks = next(blocks for blocks in cluster.blocks.values())
    blocks.update({key + storage._pool("kv")._suffixes[0]: b"" for key in many})
    cluster.calls.clear()
    assert storage.batch_exists(many) == 10_000
    timeouts = [timeout for operation, _, timeout in cluster.calls if operation == "lookup"]
    assert len(timeouts) == 3
    assert timeouts == sorted(timeouts, reverse=True)
    assert all(0 < timeout <= 700 for timeout in timeouts)


@pytest.mark.parametrize(("configured", "used"), [(None, 5000), (300, 300), (60_000, 8000)])
def test_the_deadline_of_every_call(make: Any, cluster: Any, configured: int | None, used: int) -> None:
    pool = pool_of("mha", "page_first")
    storage = make(pool, extra={} if configured is None else {"timeout_ms": configured})
    storage.batch_set_v1(hashes(1), pool.pages_at(0))
    timeouts = [timeout for *_, timeout in cluster.calls]
    assert timeouts
    assert all(used - 200 < timeout <= used for timeout in timeouts)


# -- clear, stats ------------------------------------------------------------------------------------------------------
def test_clear_makes_every_page_a_miss_for_every_process(make: Any, cluster: Any) -> None:
    pool = pool_of("mha", "page_first")
    first, second = make(pool), make(pool)
    assert first.batch_set_v1(hashes(1), pool.pages_at(0)) == [True]
    first.clear()
    assert first.batch_exists(hashes(1)) == 0
    assert first.batch_get_v1(hashes(1), pool.pages_at(0)) == [False]
    assert first.batch_set_v1(hashes(1), pool.pages_at(0)) == [True]
    assert first.batch_exists(hashes(1)) == 1
    fresh = make(pool)  # as after a restart
    assert fresh.batch_exists(hashes(1)) == 1
    assert second.batch_exists(hashes(1)) == 1


def test_stats_are_sglangs_own_and_given_once(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from memkv_sglang import _compat

    monkeypatch.setattr(_compat, "storage_metrics_class", lambda: SimpleNamespace)
    pool = pool_of("mha", "page_first")
    storage = make(pool, enable_storage_metrics=True)
    storage.batch_set_v1(hashes(1, 2), pool.pages_at(0, 1))
    storage.batch_get_v1(hashes(1, 2, 3), pool.pages_at(3, 4, 5))
    storage.batch_get_v1(hashes(9), pool.pages_at(3))
    stats = storage.get_stats()
    assert (stats.backup_pgs, stats.prefetch_pgs) == ([2], [2])
    assert all(speed > 0 for speed in stats.prefetch_bandwidth + stats.backup_bandwidth)
    again = storage.get_stats()
    assert (again.backup_pgs, again.prefetch_pgs) == ([], [])
    assert make(pool).get_stats() is None


# -- start -------------------------------------------------------------------------------------------------------------
def test_the_lines_of_a_start_in_their_order(make: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    make(tp_rank=1, tp_size=2, pp_rank=0, pp_size=2)
    lines = [record.getMessage() for record in caplog.records]
    config = lines[0].removeprefix("Creating memkv engine config=PluginConfig ")
    assert json.loads(config)["servers"] == ["127.0.0.1:9", "127.0.0.2:9"]
    assert lines[1:] == [
        "memkv-client license verified plan=enterprise",
        'Server mapped to rail server="127.0.0.1:9"',
        'Server mapped to rail server="127.0.0.2:9"',
        'MemKVHiCacheStorage ready (servers=["127.0.0.1:9", "127.0.0.2:9"], rdma=false, suffix=_org-tiny_1_2_pp0_2)',
    ]
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_no_secret_is_logged(make: Any, caplog: Any, memkv_env: Any) -> None:
    caplog.set_level(logging.DEBUG)
    make(pool_of("mha", "page_first"))
    assert AUTH_KEY not in caplog.text
    assert "eyJ" not in caplog.text


def test_a_missing_interface_v1_is_a_warning(make: Any, caplog: Any) -> None:
    make(extra={"interface_v1": 0})
    assert '"interface_v1": 1' in caplog.text
    caplog.clear()
    make(extra={"interface_v1": 1})
    assert "interface_v1" not in caplog.text


def test_without_a_license_the_start_fails_with_the_reason(make: Any, memkv_env: Any, tmp_path: Any) -> None:
    memkv_env.setenv("MEMKV_LICENSE", str(tmp_path / "absent.license"))
    with pytest.raises(LicenseError, match=r"absent\.license"):
        make()


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ({"sservers": "a:1"}, ["sservers", "servers"]),
        ({"timeout_ms": "soon"}, ["timeout_ms", "soon"]),
        ({"tag": 3}, ["tag", "3"]),
        ({"fingerprint": "no"}, ["fingerprint"]),
        ({"auth_key": "short"}, ["auth_key"]),
        ({"transport": "carrier-pigeon"}, ["transport"]),
    ],
)
def test_wrong_settings_fail_the_start_naming_the_key(make: Any, extra: Any, names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(extra=extra)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in names)


def test_sglangs_own_keys_are_left_alone(make: Any) -> None:
    storage = make(
        extra={
            "backend_name": "memkv", "module_path": "memkv_sglang.backend", "class_name": "MemKVHiCacheStorage",
            "prefetch_threshold": 256, "hicache_storage_pass_prefix_keys": True, "tp_lcm_size": 4, "allocator": "shm",
        }
    )  # fmt: skip
    assert isinstance(storage, MemKVHiCacheStorage)


def test_settings_of_the_extra_config_come_before_the_environment(make: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    make(extra={"servers": ["10.0.0.1:9900"], "connections": 2})
    assert 'Server mapped to rail server="10.0.0.1:9900"' in caplog.text
    assert '"connections": 2' in caplog.text


def test_the_config_of_0_5_6_and_one_argument_are_enough(make: Any, cluster: Any) -> None:
    config = SimpleNamespace(
        tp_rank=0, tp_size=1, is_mla_model=False, is_page_first_layout=True, model_name="m", extra_config=None
    )
    storage = MemKVHiCacheStorage(config)
    pool = pool_of("mha", "page_first")
    storage.register_mem_pool_host(pool)
    assert storage.batch_set_v1(hashes(1), pool.pages_at(0), SimpleNamespace(prefix_keys=(None,))) == [True]
    storage.close()


def test_storage_config_is_complete() -> None:
    assert storage_config().model_name == "org/tiny"
