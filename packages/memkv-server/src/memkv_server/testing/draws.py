# SPDX-License-Identifier: Apache-2.0
"""What the histories are made of: keys, values, batches and faults, as hypothesis draws them.

Few keys and few sizes, so that a history comes back to the same ones again and again.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import Final

from hypothesis import strategies as st

from memkv_core.digests import digest
from memkv_server.testing.faulty_drive import FAULT_KINDS, Fault
from memkv_server.testing.model import Value

Key = tuple[str, bytes]  # namespace and key
NAMES: Final = ("one", "two")
SINGLE_KEYS: Final = [*(b"k%d" % number for number in range(7)), b"long" * 128]
KEYS: Final = [(name, key) for name in NAMES for key in SINGLE_KEYS]

keys = st.sampled_from(KEYS)
singles = st.sampled_from(SINGLE_KEYS)
sizes = st.sampled_from([0, 1, 64, 1000, 4096, 9_000, 30_000, 59_000])
seeds = st.integers(0, 2**32 - 1)
batches = st.tuples(
    st.sampled_from(NAMES),
    st.lists(st.tuples(singles, sizes, st.integers(0, 3)), min_size=1, max_size=5),
)
faults = st.none() | st.builds(Fault, st.sampled_from(FAULT_KINDS), st.integers(0, 40), seeds)


@lru_cache(maxsize=4096)
def payload(value: Value) -> bytes:
    """The bytes that stand for a value: its size and its variant."""
    size, variant = value
    return Random(size << 16 | variant).randbytes(size)


@lru_cache(maxsize=4096)
def value_digest(value: Value, kind: int) -> bytes:
    """16 bytes over a value, of a digest kind."""
    return bytes(digest([memoryview(payload(value))], kind))


def value_meta(value: Value) -> bytes:
    """What is stored beside a value: every other variant has some."""
    return b"%d of %d" % (value[1], value[0]) if value[1] % 2 else b""
