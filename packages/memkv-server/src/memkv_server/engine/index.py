# SPDX-License-Identifier: Apache-2.0
"""Key hash to place, compactly: what every call goes through first.

A place is one Python integer::

    bit 66 ............ 45 44 ..................... 5 4 .... 0
       | length in units | address in units           | heat  |
       | 22 bits         | 40 bits, over the drive    |       |

``length`` is the whole record's; the segment is the address divided by the segment size; without its heat a place is
an extent. ``heat`` is what eviction goes by, 0 until the record is read: ``evict.py`` draws it. The dictionary is
split into 256 by the first byte of the hash, since a dictionary stops the world while it grows: 35 ms at a million
keys in one, under 0.2 ms in 256.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from memkv_server.engine.evict import HEAT_BITS
from memkv_server.engine.segment import UNIT_SHIFT

ADDRESS_BITS: Final = 40
ADDRESS_MASK: Final = (1 << ADDRESS_BITS) - 1
LENGTH_SHIFT: Final = HEAT_BITS + ADDRESS_BITS
SHARD_COUNT: Final = 256


def pack_place(address_bytes: int, length_bytes: int) -> int:
    """The place of a record that nobody has read yet."""
    return (length_bytes >> UNIT_SHIFT << LENGTH_SHIFT) | (address_bytes >> UNIT_SHIFT << HEAT_BITS)


def place_address(place: int) -> int:
    """Where the record begins on the drive, in bytes."""
    return (place >> HEAT_BITS & ADDRESS_MASK) << UNIT_SHIFT


def place_length(place: int) -> int:
    """The whole record's length in bytes."""
    return place >> LENGTH_SHIFT << UNIT_SHIFT


class Index:
    """The dictionary, and what lives under each namespace. The hot paths use ``shards`` themselves."""

    __slots__ = ("shards", "usage")

    def __init__(self) -> None:
        self.shards: list[dict[bytes, int]] = [{} for _ in range(SHARD_COUNT)]
        self.usage: dict[int, list[int]] = {}  # namespace hash -> [records, bytes]

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def get(self, key_hash: bytes) -> int | None:
        """The place, or None."""
        return self.shards[key_hash[0]].get(key_hash)

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Every key hash with its place."""
        for shard in self.shards:
            yield from shard.items()

    def count(self, namespace_hash: int, records: int, size: int) -> None:
        """Adds to (or takes from) what a namespace holds."""
        usage = self.usage.get(namespace_hash)
        if usage is None:
            usage = self.usage[namespace_hash] = [0, 0]
        usage[0] += records
        usage[1] += size

    def load(self, key_hashes: npt.NDArray[np.void], extents: npt.NDArray[np.uint64]) -> None:
        """Fills an empty index; the hashes are sorted and distinct. ``extents`` are places without their heat."""
        first_bytes = key_hashes.view(np.uint8).reshape(-1, 16)[:, 0]
        bounds = np.searchsorted(first_bytes, np.arange(SHARD_COUNT + 1))
        for number in range(SHARD_COUNT):
            part = slice(int(bounds[number]), int(bounds[number + 1]))
            places = [extent << HEAT_BITS for extent in extents[part].tolist()]
            self.shards[number] = dict(zip(key_hashes[part].tolist(), places, strict=True))

    @property
    def memory_bytes(self) -> int:
        """About what it occupies: the tables, a bytes object and an integer a record."""
        return sum(map(sys.getsizeof, self.shards)) + len(self) * (64 + 32)
