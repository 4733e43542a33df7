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
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from memkv_server.engine.account import Account
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
    """The dictionary, and what lives under each namespace. The hot paths use ``shards`` themselves.

    What a namespace holds is counted in its account, and once more for each slot (the segment it lies in): so that
    a segment that cannot be read any more can be given up with nothing left in an account that is not there.
    """

    __slots__ = ("_slot_shift", "retired", "shards", "slots", "usage")

    def __init__(self, segment_bytes: int) -> None:
        self.shards: list[dict[bytes, int]] = [{} for _ in range(SHARD_COUNT)]
        self.usage: dict[int, Account] = {}  # by namespace hash
        self.retired: dict[int, Account] = {}  # of dropped namespaces, until the last of their records is evicted
        self.slots: dict[int, dict[int, list[int]]] = {}  # slot -> namespace hash -> [records, bytes]
        self._slot_shift = segment_bytes.bit_length() - 1 - UNIT_SHIFT

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def get(self, key_hash: bytes) -> int | None:
        """The place, or None."""
        return self.shards[key_hash[0]].get(key_hash)

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Every key hash with its place."""
        for shard in self.shards:
            yield from shard.items()

    def added(self, namespace_hash: int, slot: int, records: int, size: int) -> None:
        """So many records, of so many bytes together, have come to live in this slot."""
        account = self.usage.get(namespace_hash) or self.retired.get(namespace_hash)
        if account is None:
            account = self.usage[namespace_hash] = Account(namespace_hash)
        account.records += records
        account.bytes += size
        held = self.slots.setdefault(slot, {}).setdefault(namespace_hash, [0, 0])
        held[0] += records
        held[1] += size

    def replace(self, namespace_hash: int, key_hashes: Sequence[bytes], places: Sequence[int]) -> None:
        """Has each key lead to its new place. What lay there before is accounted for; ``added`` is for the caller."""
        shards = self.shards
        for key_hash, place in zip(key_hashes, places, strict=True):
            shard = shards[key_hash[0]]
            old = shard.setdefault(key_hash, place)  # one look-up for a key that is new
            if old is not place:
                shard[key_hash] = place
                self.removed(namespace_hash, old)

    def removed(self, namespace_hash: int, place: int) -> None:
        """The record at this place is no longer in the dictionary, or another has taken its place there."""
        size = place >> LENGTH_SHIFT << UNIT_SHIFT
        slot = (place >> HEAT_BITS & ADDRESS_MASK) >> self._slot_shift
        held = self.slots.setdefault(slot, {}).setdefault(namespace_hash, [0, 0])
        held[0] -= 1
        held[1] -= size
        self._subtract(namespace_hash, 1, size)

    def remove(self, namespace_hash: int, key_hash: bytes, place: int) -> None:
        """Takes the record out."""
        del self.shards[key_hash[0]][key_hash]
        account = self.usage.get(namespace_hash) or self.retired.get(namespace_hash)
        if account is not None and account.ages is not None:
            account.ages.pop(key_hash, None)
        self.removed(namespace_hash, place)

    def remove_all(self, namespace_hash: int, slot: int, key_hashes: Sequence[bytes], size: int) -> None:
        """Takes records of one slot out, of ``size`` bytes together; no key stands twice."""
        shards = self.shards
        for key_hash in key_hashes:
            del shards[key_hash[0]][key_hash]
        account = self.usage.get(namespace_hash) or self.retired.get(namespace_hash)
        if account is not None and account.ages is not None:
            for key_hash in key_hashes:
                account.ages.pop(key_hash, None)
        held = self.slots.setdefault(slot, {}).setdefault(namespace_hash, [0, 0])
        held[0] -= len(key_hashes)
        held[1] -= size
        self._subtract(namespace_hash, len(key_hashes), size)

    def clear_place(self, key_hash: bytes) -> None:
        """Takes a record out whose namespace cannot be told; ``clear_slot`` puts the accounts right."""
        del self.shards[key_hash[0]][key_hash]
        for account in (*self.usage.values(), *self.retired.values()):
            if account.ages is not None:
                account.ages.pop(key_hash, None)

    def expire(self, account: Account, until_s: int, count_max: int) -> bool:
        """Takes out what was written until then, the oldest first; True where there may be more than ``count_max``."""
        assert account.ages is not None
        for _ in range(count_max):
            key_hash = next(iter(account.ages), None)
            if key_hash is None or account.ages[key_hash] > until_s:
                return False
            self._trim(account, key_hash)
            account.expired_records += 1
        return True

    def expire_keys(self, account: Account, key_hashes: Iterable[bytes], until_s: int) -> None:
        """The same for just these keys."""
        assert account.ages is not None
        for key_hash in key_hashes:
            if account.ages.get(key_hash, until_s + 1) <= until_s:
                self._trim(account, key_hash)
                account.expired_records += 1

    def keep_quota(self, account: Account) -> None:
        """Takes out the oldest until the namespace is within its quota."""
        assert account.ages is not None
        assert account.quota_bytes is not None
        while account.bytes > account.quota_bytes:
            self._trim(account, next(iter(account.ages)))
            account.over_quota_records += 1

    def _trim(self, account: Account, key_hash: bytes) -> None:
        self.remove(account.hash, key_hash, self.shards[key_hash[0]][key_hash])

    def clear_slot(self, slot: int) -> None:
        """None of the slot's records is in the dictionary any more, nor is it to be in an account."""
        for namespace_hash, (records, size) in self.slots.pop(slot, {}).items():
            if records:
                self._subtract(namespace_hash, records, size)

    def retire(self, namespace_hash: int) -> None:
        """The namespace was dropped: what it holds counts no longer, and goes with its segments."""
        account = self.usage.pop(namespace_hash, None)
        if account is not None and account.records:
            self.retired[namespace_hash] = account

    def _subtract(self, namespace_hash: int, records: int, size: int) -> None:
        account = self.usage.get(namespace_hash) or self.retired[namespace_hash]
        account.records -= records
        account.bytes -= size
        if not account.records:
            self.retired.pop(namespace_hash, None)

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
