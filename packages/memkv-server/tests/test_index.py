# SPDX-License-Identifier: Apache-2.0
"""Places are packed and unpacked, and the index is a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memkv_server.engine.evict import HEAT_MASK
from memkv_server.engine.index import Index, pack_place, place_address, place_length


@given(address=st.integers(0, 2**40 - 1), length=st.integers(1, 2**22 - 1), heat=st.integers(0, HEAT_MASK))
def test_a_place_is_what_was_packed(address: int, length: int, heat: int) -> None:
    place = pack_place(address * 64, length * 64) + heat
    assert place < 2**67
    assert (place_address(place), place_length(place), place & HEAT_MASK) == (address * 64, length * 64, heat)


@given(st.dictionaries(st.binary(min_size=16, max_size=16), st.integers(0, 2**62 - 1), max_size=300))
def test_loading_many_is_as_inserting_each(model: dict[bytes, int]) -> None:
    index = Index(1 << 20)
    hashes = sorted(model)
    index.load(
        np.frombuffer(b"".join(hashes), dtype="V16"),
        np.array([model[key_hash] for key_hash in hashes], dtype=np.uint64),
    )
    model = {key_hash: extent << 5 for key_hash, extent in model.items()}  # nobody has read them yet
    assert dict(index.items()) == model
    assert len(index) == len(model)
    assert all(index.get(key_hash) == place for key_hash, place in model.items())
    assert index.get(b"\xff" * 15 + b"\x01") in (None, model.get(b"\xff" * 15 + b"\x01"))
    assert index.memory_bytes > 0


def numbers(index: Index) -> dict[int, tuple[int, int]]:
    return {namespace: (account.records, account.bytes) for namespace, account in index.usage.items()}


def test_usage_by_namespace() -> None:
    index = Index(1 << 20)
    index.added(5, 0, 2, 320)
    index.added(5, 1, 1, 128)
    index.added(6, 1, 1, 64)
    index.shards[7][b"\x07" * 16] = place = pack_place((1 << 20) + 64, 128)
    index.remove(5, b"\x07" * 16, place)
    assert numbers(index) == {5: (2, 320), 6: (1, 64)}
    index.clear_slot(0)
    assert numbers(index) == {5: (0, 0), 6: (1, 64)}
    index.clear_slot(0)
    index.clear_slot(1)
    assert numbers(index) == {5: (0, 0), 6: (0, 0)}


def test_a_retired_namespace_counts_no_longer_and_goes_with_its_records() -> None:
    index = Index(1 << 20)
    index.added(5, 0, 2, 320)
    index.added(6, 0, 1, 64)
    index.retire(5)
    index.retire(7)
    assert numbers(index) == {6: (1, 64)}
    assert list(index.retired) == [5]
    index.removed(5, pack_place(64, 128))
    assert list(index.retired) == [5]
    index.clear_slot(0)
    assert (numbers(index), index.retired) == ({6: (0, 0)}, {})
