# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sglang_fakes import FakeTensor, MHATokenToKVPoolHost, MLATokenToKVPoolHost

from memkv_sglang import layout
from memkv_sglang.layout import LayoutError, PoolMemory

MHA_LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head")
MLA_LAYOUTS = ("layer_first", "page_first", "page_first_direct")


POOLS = [
    pytest.param(MHATokenToKVPoolHost(layout=name, layers=3, page_size=4), id=f"mha-{name}") for name in MHA_LAYOUTS
] + [pytest.param(MLATokenToKVPoolHost(layout=name, layers=3, page_size=4), id=f"mla-{name}") for name in MLA_LAYOUTS]


@pytest.mark.parametrize("pool", POOLS)
def test_the_parts_of_a_page_are_its_flat_page_whatever_the_layout(pool: Any) -> None:
    memory = PoolMemory(layout.pool_tensors(pool))
    pages = layout.pages(pool, memory, pool.pages_at(5, 0, 2), 3)
    assert [b"".join(page) for page in pages] == [pool.page_bytes(5), pool.page_bytes(0), pool.page_bytes(2)]
    assert layout.page_order(pool, len(pages[0])) == layout.FLAT


@pytest.mark.parametrize("pool", POOLS)
def test_what_is_written_into_the_parts_stands_in_the_pool(pool: Any) -> None:
    memory = PoolMemory(layout.pool_tensors(pool))
    [page] = layout.pages(pool, memory, pool.pages_at(3), 1)
    neighbours = pool.page_bytes(2), pool.page_bytes(4)
    fresh = bytes(np.random.default_rng(1).integers(0, 256, sum(map(len, page)), dtype=np.uint8))
    offset = 0
    for part in page:
        part[:] = fresh[offset : offset + len(part)]
        offset += len(part)
    assert pool.page_bytes(3) == fresh
    assert (pool.page_bytes(2), pool.page_bytes(4)) == neighbours


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_split_heads_in_place_and_flat_agree(factor: Any) -> None:
    pool = MHATokenToKVPoolHost(layout="page_head", layers=3, page_size=4, heads=4)
    memory = PoolMemory(layout.pool_tensors(pool))
    in_place = layout.split_pages(pool, memory, pool.pages_at(1, 6), 2, factor)
    flat = [
        block for page in (1, 6) for block in layout.split_flat(memoryview(bytearray(pool.page_bytes(page))), factor)
    ]
    assert [b"".join(page) for page in in_place] == [b"".join(block) for block in flat]
    assert len(in_place) == 2 * factor


def test_a_rank_of_a_larger_size_holds_what_the_split_page_holds() -> None:
    whole = MHATokenToKVPoolHost(layout="page_head", layers=3, page_size=4, heads=4)
    half = MHATokenToKVPoolHost(layout="page_head", layers=3, page_size=4, heads=2)
    half.array[:] = whole.array[:, :, 2:]  # what rank 1 of 2 has
    memory = PoolMemory(layout.pool_tensors(whole))
    split = layout.split_pages(whole, memory, whole.pages_at(1), 1, 2)
    assert b"".join(split[1]) == half.page_bytes(1)


def test_addresses_outside_the_pool_are_refused() -> None:
    pool = MHATokenToKVPoolHost(layout="page_first", layers=1, page_size=2)
    memory = PoolMemory(layout.pool_tensors(pool))
    base, size = pool.kv_buffer.data_ptr(), pool.array.nbytes
    assert len(memory.cut(base, size)) == size
    for address, length in ((base - 1, 1), (base, size + 1), (base + size, 1), (0, 1), (base, -1)):
        with pytest.raises(LayoutError):
            memory.cut(address, length)
    with pytest.raises(LayoutError):
        layout.pages(pool, memory, pool.pages_at(pool.page_num), 1)


def test_segments_that_do_not_divide_into_pages_are_refused() -> None:
    pool = MHATokenToKVPoolHost(layout="page_first", layers=1, page_size=2)
    with pytest.raises(LayoutError):
        layout.pages(pool, PoolMemory(layout.pool_tensors(pool)), pool.pages_at(0, 1), 3)


def test_one_size_for_all_segments_is_taken_too() -> None:
    pool: Any = MHATokenToKVPoolHost(layout="page_first", layers=1, page_size=2)
    whole = pool.get_page_buffer_meta
    pool.get_page_buffer_meta = lambda indices: (whole(indices)[0], whole(indices)[1][0])
    [page] = layout.pages(pool, PoolMemory(layout.pool_tensors(pool)), pool.pages_at(1), 1)
    assert b"".join(page) == pool.page_bytes(1)


def test_a_tensor_in_place_and_one_that_cannot_be() -> None:
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert bytes(layout.tensor_view(FakeTensor(array))) == array.tobytes()
    layout.tensor_view(FakeTensor(array))[0] = 255
    assert array[0, 0] == 255
    with pytest.raises(LayoutError):
        layout.tensor_view(FakeTensor(array[:, :2]))
    assert bytes(layout.tensor_view(FakeTensor(array[:0]))) == b""
    assert bytes(layout.tensor_view(bytearray(b"ab"))) == b"ab"


def test_two_tensors_of_one_storage_are_mapped_once() -> None:
    array = np.zeros(64, dtype=np.uint8)
    memory = PoolMemory([FakeTensor(array[:32]), FakeTensor(array)])
    assert [len(view) for view in memory.views] == [64]
