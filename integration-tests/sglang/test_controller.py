# SPDX-License-Identifier: Apache-2.0
"""sglang's own cache controller and host pools against a real node: every layout, both interfaces, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sglang.srt.mem_cache.utils import get_hash_str
from sglang_rig.checkpoint import prompt
from sglang_rig.controller import PAGE, Controller, one_rank

from memkv_core.limits import ESTIMATE_GETS_MIN

MHA = [("mha", layout) for layout in ("layer_first", "page_first", "page_first_direct", "page_head")]
MLA = [("mla", layout) for layout in ("layer_first", "page_first", "page_first_direct")]


@pytest.fixture(scope="module", autouse=True)
def _one_rank() -> None:
    one_rank()


@pytest.fixture
def controller(memkv_env: Any) -> Iterator[Callable[..., Controller]]:
    """Makes controllers that stop with the test."""
    made: list[Controller] = []

    def make(*arguments: Any, **extra: Any) -> Controller:
        made.append(Controller(*arguments, **extra))
        return made[-1]

    yield make
    for each in made:
        each.close()


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("read_v1", [True, False], ids=["read-v1", "read-generic"])
@pytest.mark.parametrize("write_v1", [True, False], ids=["write-v1", "write-generic"])
@pytest.mark.parametrize(("kind", "layout"), MHA + MLA)
def test_pages_come_back_byte_for_byte(
    controller: Callable[..., Controller], kind: str, layout: str, write_v1: bool, read_v1: bool
) -> None:
    # A model of its own for each case, so that none reads what another wrote.
    model = f"{kind}/{layout}-{write_v1}-{read_v1}"
    writer = controller(kind, layout, v1=write_v1, model=model)
    writer.fill(seed=1)
    tokens = prompt(0, 8 * PAGE)
    stored, pages = writer.write(tokens)
    assert stored == 8 * PAGE

    reader = controller(kind, layout, v1=read_v1, model=model)
    reader.fill(seed=2)
    longer = tokens + prompt(1, 4 * PAGE)
    hit, completed, found = reader.read(longer)
    assert (hit, completed) == (8 * PAGE, 8 * PAGE)
    assert same(found, pages)
    assert reader.read(prompt(2, 4 * PAGE)) == (0, 0, [])
    assert writer.write(tokens)[0] == 8 * PAGE  # already there counts as stored


# Pages of all of these are equally long, so their size does not give a mix-up away.
OTHERS: dict[str, dict[str, Any]] = {
    "fp16": {"dtype": torch.float16},
    "page_first_direct": {"layout": "page_first_direct"},
    "layer_first": {"layout": "layer_first"},
    "page_head": {"layout": "page_head"},
    "tag": {"tag": "v2"},
    "model": {"model": "org/other"},
    "kv_cache_dtype": {"kv_cache_dtype": "fp8_e5m2"},
}


@pytest.mark.parametrize("label", OTHERS)
def test_runs_that_differ_never_read_each_others_pages(controller: Callable[..., Controller], label: str) -> None:
    tokens = prompt(0, 8 * PAGE)
    first = controller("mha", "page_first", v1=True, model="org/traps")
    first.fill(seed=1)
    assert first.write(tokens)[0] == 8 * PAGE
    assert first.read(tokens)[1] == 8 * PAGE

    change = {"layout": "page_first", "model": "org/traps", **OTHERS[label]}
    other = controller("mha", change.pop("layout"), v1=True, **change)
    other.fill(seed=2)
    assert other.read(tokens) == (0, 0, [])
    stored, pages = other.write(tokens)
    assert stored == 8 * PAGE
    assert same(other.read(tokens)[2], pages)  # its own, not the first one's


def test_a_long_prompt_crosses_sglangs_batches(controller: Callable[..., Controller]) -> None:
    """sglang moves 128 pages in one call at most."""
    writer = controller("mha", "page_first", v1=True, model="org/long")
    writer.fill(seed=3)
    tokens = prompt(0, 150 * PAGE)
    stored, pages = writer.write(tokens)
    assert stored == 150 * PAGE
    hit, completed, found = writer.read(tokens)
    assert (hit, completed) == (150 * PAGE, 150 * PAGE)
    assert same(found, pages)


def test_what_computes_faster_than_it_loads_is_a_miss(controller: Callable[..., Controller]) -> None:
    """The first gets show how fast the node is; then an engine that needs no time at all has no use for it."""
    hasty = controller("mha", "page_first", v1=True, model="org/hasty", min_saving_ms=0, prefill_tokens_per_s=1e12)
    hasty.fill(seed=3)
    tokens = prompt(0, 8 * PAGE)
    stored, pages = hasty.write(tokens)
    assert stored == 8 * PAGE
    for _ in range(ESTIMATE_GETS_MIN):
        hit, completed, found = hasty.read(tokens)
        assert (hit, completed) == (8 * PAGE, 8 * PAGE)
        assert same(found, pages)
    client = hasty.storage._bindings["kv"].client
    assert client.estimate(8 * hasty.storage._bindings["kv"].page_bytes) > 0
    assert hasty.read(tokens) == (0, 0, [])
    assert client.stats().misses["declined"] == 8
    stored, pages = hasty.write(tokens)  # computed again, here with other bytes
    assert stored == 8 * PAGE

    patient = controller("mha", "page_first", v1=True, model="org/hasty", min_saving_ms=0, prefill_tokens_per_s=1)
    for _ in range(ESTIMATE_GETS_MIN + 2):
        hit, _, found = patient.read(tokens)
        assert hit == 8 * PAGE
        assert same(found, pages)


def test_heads_split_for_other_tensor_parallel_sizes_come_back_too(controller: Callable[..., Controller]) -> None:
    tokens = prompt(0, 8 * PAGE)
    writer = controller("mha", "page_head", v1=True, model="org/split", tp_lcm_size=2)
    writer.fill(seed=5)
    stored, pages = writer.write(tokens)
    assert stored == 8 * PAGE
    for v1 in (True, False):
        reader = controller("mha", "page_head", v1=v1, model="org/split", tp_lcm_size=2)
        reader.fill(seed=6)
        assert same(reader.read(tokens)[2], pages)
    assert controller("mha", "page_head", v1=True, model="org/split").read(tokens) == (0, 0, [])


@pytest.mark.parametrize("layout", ["page_first", "page_first_direct"])
def test_states_of_a_real_mamba_pool_by_the_v2_calls(controller: Callable[..., Controller], layout: str) -> None:
    from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName, PoolTransfer, PoolTransferResult

    kv = controller("mha", layout, v1=True, model=f"org/hybrid-{layout}")
    states = mamba_pool(layout)
    kv.storage.register_mem_host_pool_v2(kv.pool, PoolName.KV)
    kv.storage.register_mem_host_pool_v2(states, PoolName.MAMBA)
    kv.storage.on_host_pools_registered()
    tokens = prompt(0, 4 * PAGE)
    assert kv.write(tokens)[0] == 4 * PAGE
    hashes = get_hash_str(tokens, None, page_size=PAGE)

    def transfer(keys: list[str], slots: list[int] | None = None) -> Any:
        return PoolTransfer(
            PoolName.MAMBA, keys=keys, host_indices=None if slots is None else torch.tensor(slots),
            hit_policy=PoolHitPolicy.TRAILING_PAGES,
        )  # fmt: skip

    before = [states.get_data_page(slot).clone() for slot in (3, 5)]
    assert kv.storage.batch_set_v2([transfer([hashes[1], hashes[3]], [3, 5])]) == {PoolName.MAMBA: [True, True]}
    result = kv.storage.batch_exists_v2(hashes, [transfer([hashes[3]])])
    assert isinstance(result, PoolTransferResult)
    assert (result.kv_hit_pages, result.restorable_prefix_pages) == (4, [2, 4])
    assert result.extra_pool_hit_pages == {PoolName.KV: 4, PoolName.MAMBA: 4}
    assert kv.storage.batch_exists_v2(hashes[:3], [transfer([hashes[2]])]).kv_hit_pages == 2

    found = kv.storage.batch_get_v2([transfer([hashes[1], hashes[3], hashes[2]], [7, 8, 9])])
    assert found == {PoolName.MAMBA: [True, True, False]}
    assert same([states.get_data_page(slot) for slot in (7, 8)], before)


def mamba_pool(layout: str) -> Any:
    """A host pool of 17 random states: two layers, a temporal and two convolution parts of unequal dtypes."""
    from sglang.srt.mem_cache.device_pool_info import MambaStateBufferInfo
    from sglang.srt.mem_cache.pool_host.mamba import MambaPoolHost

    info = MambaStateBufferInfo(
        temporal=torch.zeros(2, 8, 4, 16),
        conv=(torch.zeros(2, 8, 3, 6, dtype=torch.bfloat16), torch.zeros(2, 8, 5, dtype=torch.bfloat16)),
    )
    pool = MambaPoolHost(info, 2.0, 0, device_capacity=8, pin_memory=False, layout=layout)
    for buffer in pool.get_hybrid_pool_buffer():
        view = buffer.view(torch.uint8)
        view.copy_(torch.randint(0, 256, view.shape, dtype=torch.uint8))
    return pool


def test_a_real_logical_pool_holds_nothing_itself(controller: Callable[..., Controller]) -> None:
    from sglang.srt.mem_cache.memory_pool_host import LogicalHostPool

    storage = controller("mha", "page_first", v1=True, model="org/logical").storage
    storage.register_mem_pool_host(LogicalHostPool(8 * PAGE, PAGE))
    slots = torch.arange(2 * PAGE)
    assert storage.batch_set_v1(["a", "b"], slots) == [True, True]
    assert storage.batch_get_v1(["a", "b"], slots) == [True, True]
    assert storage.batch_exists_v2(["a", "b"], []).kv_hit_pages == 2
    assert storage.batch_exists(["a", "b"]) == 0


def test_stored_bytes_that_were_flipped_are_a_miss(controller: Callable[..., Controller], memkv_env: Any) -> None:
    writer = controller("mha", "page_first", v1=True, model="org/flipped")
    writer.fill(seed=4)
    tokens = prompt(0, 8 * PAGE)
    assert writer.write(tokens)[0] == 8 * PAGE
    assert memkv_env.flip_stored_bytes() > 8
    _, completed, _ = writer.read(tokens)
    assert completed == 0
    assert writer.write(tokens)[0] == 8 * PAGE  # and may be stored again
    assert writer.read(tokens)[1] == 8 * PAGE


def test_clear_empties_the_store_for_a_fresh_process_too(controller: Callable[..., Controller]) -> None:
    writer = controller("mha", "page_first", v1=True, model="org/cleared")
    tokens = prompt(0, 8 * PAGE)
    assert writer.write(tokens)[0] == 8 * PAGE
    writer.storage.clear()
    assert writer.read(tokens) == (0, 0, [])
    fresh = controller("mha", "page_first", v1=True, model="org/cleared")
    assert fresh.read(tokens) == (0, 0, [])
