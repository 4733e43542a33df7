# SPDX-License-Identifier: Apache-2.0
"""Reference policies by the block: FIFO, LRU, S3-FIFO and SIEVE. What each could do if a block were moved for free.

Written from the papers:

- S3-FIFO: Yang, Zhang, Qiu, Yue, Rashmi, *FIFO queues are all you need for cache eviction*, SOSP 2023.
- SIEVE: Zhang, Yang, Yue, Vigfusson, Rashmi, *SIEVE is simpler than LRU*, NSDI 2024.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol


class Policy(Protocol):
    """A cache that requests are replayed against. ``user_bytes`` and ``reinserted_bytes`` are what it wrote."""

    user_bytes: int
    reinserted_bytes: int

    def request(self, blocks: Sequence[int]) -> tuple[int, int]:
        """Looks up, reads and puts the blocks of one request, which are distinct; leading hits and block hits."""


class BlockPolicy(ABC):
    """A policy that holds ``capacity`` blocks (at least 1) and decides about each by itself."""

    def __init__(self, capacity: int, block_bytes: int = 1) -> None:
        self.capacity: Final = capacity
        self.block_bytes: Final = block_bytes
        self.user_bytes = 0
        self.reinserted_bytes = 0

    @abstractmethod
    def __contains__(self, block: int) -> bool:
        """Whether the block is held; not a use of it."""

    @abstractmethod
    def __len__(self) -> int:
        """How many blocks are held."""

    @abstractmethod
    def use(self, block: int) -> bool:
        """A read or a put of the block: whether it was there. It is afterwards."""

    def request(self, blocks: Sequence[int]) -> tuple[int, int]:
        """See ``Policy``."""
        leading = next((place for place, block in enumerate(blocks) if block not in self), len(blocks))
        hits = sum(map(self.use, blocks))
        self.user_bytes += (len(blocks) - hits) * self.block_bytes
        return leading, hits


class Fifo(BlockPolicy):
    """Evicts what was put first."""

    def __init__(self, capacity: int, block_bytes: int = 1) -> None:
        super().__init__(capacity, block_bytes)
        self._queue: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._queue

    def __len__(self) -> int:
        return len(self._queue)

    def use(self, block: int) -> bool:
        """See ``BlockPolicy``."""
        if block in self._queue:
            return True
        if len(self._queue) >= self.capacity:
            self._queue.popitem(last=False)
        self._queue[block] = None
        return False


class Lru(Fifo):
    """Evicts what was used longest ago."""

    def use(self, block: int) -> bool:
        """See ``BlockPolicy``."""
        hit = super().use(block)
        self._queue.move_to_end(block)
        return hit


class S3Fifo(BlockPolicy):
    """A small queue that most blocks only pass through, a main queue for what was used there, a list of ghosts.

    With the paper's sizes: small 10 %, main 90 %, as many ghosts as main holds; counters stop at 3.
    """

    def __init__(self, capacity: int, block_bytes: int = 1) -> None:
        super().__init__(capacity, block_bytes)
        self._small_max = max(1, capacity // 10)
        self._main_max = capacity - self._small_max
        self._small: OrderedDict[int, int] = OrderedDict()
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._small or block in self._main

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def use(self, block: int) -> bool:
        """See ``BlockPolicy``."""
        for queue in (self._small, self._main):
            count = queue.get(block)
            if count is not None:
                queue[block] = min(count + 1, 3)
                return True
        while len(self) >= self.capacity:
            self._evict()
        if block in self._ghosts:
            del self._ghosts[block]
            self._main[block] = 0
        else:
            self._small[block] = 0
        return False

    def _evict(self) -> None:
        if len(self._small) >= self._small_max or not self._main:
            self._evict_small()
        else:
            self._evict_main()

    def _evict_small(self) -> None:
        while self._small:
            block, count = self._small.popitem(last=False)
            if count <= 1:
                self._ghosts[block] = None
                if len(self._ghosts) > self._main_max:
                    self._ghosts.popitem(last=False)
                return
            if len(self._main) >= self._main_max:
                self._evict_main()
            self._main[block] = 0

    def _evict_main(self) -> None:
        while self._main:
            block, count = self._main.popitem(last=False)
            if count == 0:
                return
            self._main[block] = count - 1


class Sieve(BlockPolicy):
    """One queue that is never reordered; a hand walks from its oldest end and spares what was used since it passed."""

    def __init__(self, capacity: int, block_bytes: int = 1) -> None:
        super().__init__(capacity, block_bytes)
        self._used: dict[int, bool] = {}
        # A doubly linked list through two dictionaries, a sentinel at both ends: newer of the newest, older of the
        # oldest. Ids of blocks are integers, so None cannot be one.
        self._newer: dict[int | None, int | None] = {None: None}
        self._older: dict[int | None, int | None] = {None: None}
        self._hand: int | None = None

    def __contains__(self, block: int) -> bool:
        return block in self._used

    def __len__(self) -> int:
        return len(self._used)

    def use(self, block: int) -> bool:
        """See ``BlockPolicy``."""
        if block in self._used:
            self._used[block] = True
            return True
        if len(self._used) >= self.capacity:
            self._evict()
        newest = self._older[None]
        self._older[block], self._newer[block] = newest, None
        self._newer[newest] = self._older[None] = block
        self._used[block] = False
        return False

    def _evict(self) -> None:
        block = self._hand if self._hand is not None else self._newer[None]
        while block is not None and self._used[block]:
            self._used[block] = False
            block = self._newer[block]
            if block is None:
                block = self._newer[None]  # past the newest: on from the oldest
        assert block is not None
        newer, older = self._newer.pop(block), self._older.pop(block)
        self._newer[older], self._older[newer] = newer, older
        self._hand = newer
        del self._used[block]
