# SPDX-License-Identifier: Apache-2.0
"""One host pool bound to its namespace: pages in, pages out, pages counted.

``PoolBinding`` knows where a pool's pages lie and under which keys they are stored; the backend knows sglang's
methods. Nothing here catches anything: the guard around the backend's methods does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memkv_core import Client
from memkv_sglang import _compat, layout
from memkv_sglang.deadline import Deadline
from memkv_sglang.generation import Generation
from memkv_sglang.keymap import block_keys, whole_pages
from memkv_sglang.layout import Page, PoolMemory
from memkv_sglang.limits import EXISTS_KEYS_COUNT
from memkv_sglang.stats import TransferStats


@dataclass(frozen=True)
class PoolShape:
    """How a pool's pages are addressed, found out once with its first page.

    ``in_place``: the pool gives addresses, so pages move without a copy; otherwise they go through flat pages.
    ``page_bytes``: the lengths of a stored page's parts, of one virtual rank where heads are split.
    """

    tensors: list[Any]
    in_place: bool
    page_bytes: tuple[int, ...]
    page_order: str

    @property
    def is_logical(self) -> bool:
        """Whether the pool has no memory: an anchor that only counts pages (DeepSeek-V4)."""
        return not self.tensors

    @classmethod
    def probe(cls, pool: Any, factor: int = 1) -> PoolShape:
        """Asks the pool about its first page. Raises LayoutError where it can be neither addressed nor copied."""
        tensors = layout.pool_tensors(pool)
        if not tensors:
            return cls([], False, (), layout.SEGMENTS)
        memory = PoolMemory(tensors)
        try:
            page = layout.pages(pool, memory, _compat.first_page(slots_per_page(pool)), 1)[0]
        except (NotImplementedError, ValueError, TypeError, AttributeError):
            # Not every pool and layout can be addressed, but every one that sglang persists can be copied.
            flat = layout.tensor_view(pool.get_dummy_flat_data_page())
            return cls(tensors, False, tuple(map(len, layout.split_flat(flat, factor)[0])), layout.FLAT)
        order = layout.page_order(pool, len(page))
        return cls(tensors, True, tuple(len(part) // factor for part in page), order)


def slots_per_page(pool: Any) -> int:
    """Entries of ``host_indices`` for each page."""
    return int(getattr(pool, "logical_page_size", None) or getattr(pool, "page_size", None) or 1)


class PoolBinding:
    """A pool, its memory, and the client of its namespace. Thread-safe as the client is."""

    def __init__(self, name: str, pool: Any, shape: PoolShape, client: Client, suffixes: Sequence[str]) -> None:
        self.name = name
        self.pool = pool
        self.client = client
        self._shape = shape
        self._suffixes = tuple(suffixes)
        self._slots = slots_per_page(pool)
        self.generation = Generation(client)
        self._memory = PoolMemory(shape.tensors)
        for view in self._memory.views:
            client.register(view)

    @property
    def is_logical(self) -> bool:
        return self._shape.is_logical

    # -- pages in the pool ------------------------------------------------------------------------------------------
    def write(self, hashes: Sequence[str], host_indices: Any, deadline: Deadline, stats: TransferStats) -> list[bool]:
        """Stores the pages at ``host_indices``; True for each page that is stored, or was there already."""
        self._check(hashes, host_indices)
        if self._shape.in_place:
            return self.put(hashes, self._pages(host_indices, len(hashes)), deadline, stats)
        starts = self._starts(host_indices)
        flat = [layout.tensor_view(self.pool.get_data_page(start, flat=True).contiguous()) for start in starts]
        return self.put(hashes, self.split(flat), deadline, stats)

    def read(self, hashes: Sequence[str], host_indices: Any, deadline: Deadline, stats: TransferStats) -> list[bool]:
        """Fills the pages at ``host_indices``; True for each page that is there, complete and verified."""
        self._check(hashes, host_indices)
        if self._shape.in_place:
            return self.get(hashes, self._pages(host_indices, len(hashes)), deadline, stats)
        flat = [self.pool.get_dummy_flat_data_page() for _ in hashes]
        found = self.get(hashes, self.split([layout.tensor_view(page) for page in flat]), deadline, stats)
        for start, page, there in zip(self._starts(host_indices), flat, found, strict=True):
            if there:
                self.pool.set_from_flat_data_page(start, page)
        return found

    # -- blocks, wherever they lie ----------------------------------------------------------------------------------
    def put(self, hashes: Sequence[str], pages: Sequence[Page], deadline: Deadline, stats: TransferStats) -> list[bool]:
        """Stores ``pages``, one for each key of ``hashes`` (several for each hash where heads are split)."""
        self.generation.refresh(deadline)
        with stats.write() as transfer:
            stored = self.client.put(self.keys(hashes), pages, timeout_ms=max(1, deadline.left_ms()))
            done = whole_pages(stored, len(self._suffixes))
            transfer.pages, transfer.bytes = sum(done), sum(done) * self.page_bytes
        return done

    def get(self, hashes: Sequence[str], pages: Sequence[Page], deadline: Deadline, stats: TransferStats) -> list[bool]:
        """Fills ``pages``. A stored value of another length than its page is no hit."""
        self.generation.refresh(deadline)
        with stats.read() as transfer:
            lengths = self.client.get(self.keys(hashes), pages, timeout_ms=max(1, deadline.left_ms()))
            full = [length == sum(map(len, page)) for length, page in zip(lengths, pages, strict=True)]
            done = whole_pages(full, len(self._suffixes))
            transfer.pages, transfer.bytes = sum(done), sum(done) * self.page_bytes
        return done

    def exists(self, hashes: Sequence[str], deadline: Deadline) -> list[bool]:
        """For each page whether all of it is stored. Pages not asked for when time is up count as missing."""
        self.generation.refresh(deadline)
        found: list[bool] = []
        for part in self._chunks(hashes):
            left_ms = deadline.left_ms()
            if not left_ms:
                break
            found += whole_pages(self.client.exists(self.keys(part), timeout_ms=left_ms), len(self._suffixes))
        return found + [False] * (len(hashes) - len(found))

    def lookup(self, hashes: Sequence[str], deadline: Deadline) -> int:
        """How many pages from the first one on are stored without a gap; a gap ends the asking."""
        self.generation.refresh(deadline)
        run = 0
        for part in self._chunks(hashes):
            left_ms = deadline.left_ms()
            if not left_ms:
                break
            found = self.client.lookup(self.keys(part), timeout_ms=left_ms) // len(self._suffixes)
            run += found
            if found < len(part):
                break
        return run

    # -- pieces -----------------------------------------------------------------------------------------------------
    def keys(self, hashes: Sequence[str]) -> list[str]:
        """The keys that these pages are stored under now."""
        mark = self.generation.mark
        return block_keys(hashes, [suffix + mark for suffix in self._suffixes] if mark else self._suffixes)

    def split(self, flat: Sequence[memoryview]) -> list[Page]:
        """Flat pages as the blocks they are stored as."""
        return [block for page in flat for block in layout.split_flat(page, len(self._suffixes))]

    @property
    def page_tokens(self) -> int:
        """Tokens of a page."""
        return self._slots

    @property
    def page_bytes(self) -> int:
        """Bytes of a whole page, all virtual ranks together."""
        return sum(self._shape.page_bytes) * len(self._suffixes)

    def _pages(self, host_indices: Any, count: int) -> list[Page]:
        if len(self._suffixes) == 1:
            return layout.pages(self.pool, self._memory, host_indices, count)
        return layout.split_pages(self.pool, self._memory, host_indices, count, len(self._suffixes))

    def _starts(self, host_indices: Any) -> list[int]:
        return [int(start) for start in host_indices.tolist()[:: self._slots]]

    def _check(self, hashes: Sequence[str], host_indices: Any) -> None:
        if host_indices is None or len(host_indices) != len(hashes) * self._slots:
            given = 0 if host_indices is None else len(host_indices)
            raise layout.LayoutError(
                f"pool {self.name}: {given} host indices for {len(hashes)} pages of {self._slots} slots"
            )

    def _chunks(self, hashes: Sequence[str]) -> list[Sequence[str]]:
        size = max(1, EXISTS_KEYS_COUNT // len(self._suffixes))
        return [hashes[at : at + size] for at in range(0, len(hashes), size)]
