# SPDX-License-Identifier: Apache-2.0
"""What this process knows to be stored: keys and sizes, newest last, within a bound. Thread-safe.

A cluster holds more than one LMCache server stored, and drops what it pleases; this is the part that LMCache's listing
and its count of bytes can be given without asking every node for every key.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

from memkv_lmcache.limits import LEDGER_KEYS_COUNT_MAX

K = TypeVar("K")


class Ledger(Generic[K]):
    """An ordered map of keys to (serial number, size in bytes)."""

    def __init__(self, keys_max: int = LEDGER_KEYS_COUNT_MAX) -> None:
        self._keys_max = keys_max
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, tuple[int, int]] = OrderedDict()
        self._serial = 0

    def add(self, keys: Iterable[K], sizes: Iterable[int]) -> tuple[list[tuple[K, int]], list[tuple[K, int]]]:
        """(the keys that were not known before, those that fell out of the bound), both with their sizes."""
        fresh: list[tuple[K, int]] = []
        dropped: list[tuple[K, int]] = []
        with self._lock:
            for key, size in zip(keys, sizes, strict=True):
                if key in self._entries:
                    continue
                self._serial += 1
                self._entries[key] = (self._serial, size)
                fresh.append((key, size))
            while len(self._entries) > self._keys_max:
                key, (_, size) = self._entries.popitem(last=False)
                dropped.append((key, size))
        return fresh, dropped

    def discard(self, keys: Iterable[K]) -> list[tuple[K, int]]:
        """Forgets keys; those that were known, with their sizes."""
        with self._lock:
            found = [(key, self._entries.pop(key, None)) for key in keys]
        return [(key, entry[1]) for key, entry in found if entry is not None]

    def page(self, after: int, count: int) -> list[tuple[K, int, int]]:
        """Up to ``count`` entries with a serial number above ``after``: (key, serial number, size)."""
        with self._lock:
            newer = ((key, serial, size) for key, (serial, size) in self._entries.items() if serial > after)
            return [entry for entry, _ in zip(newer, range(count))]

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)
