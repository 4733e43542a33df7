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
    index = Index()
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


def test_usage_by_namespace() -> None:
    index = Index()
    index.count(5, 2, 300)
    index.count(5, -1, -100)
    index.count(6, 1, 64)
    assert index.usage == {5: [1, 200], 6: [1, 64]}
