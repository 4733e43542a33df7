# SPDX-License-Identifier: Apache-2.0
"""Our policy as a node has it: whole segments, oldest first, with the space and the writes that it really takes.

Everything that decides is the engine's own code, ``engine/evict.py``; what is simulated is the bookkeeping around it
(``pool.py``, ``cleaner.py``, ``writer.py``) of a node that is not in a hurry: between two requests the lane finds
the time to empty the oldest segment. A test replays the same requests on a real engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from memkv_core.errors import ConfigError, StorageError
from memkv_server.engine.evict import HEAT_BITS, HEAT_MASK, SecondChance
from memkv_server.engine.limits import FREE_SEGMENTS_AHEAD, SEGMENT_COUNT_MIN, SEGMENT_COUNT_WANTED
from memkv_server.engine.segment import ENTRY_BYTES, SEGMENT_DATA_AT, TRAILER_BYTES, UNIT_BYTES, record_layout
from memkv_server.engine.superblock import plan_geometry
from memkv_server.simulate.limits import KEY_BYTES, SEGMENT_BLOCKS_MIN

_METADATA_BYTES: Final = SEGMENT_DATA_AT + TRAILER_BYTES


@dataclass(frozen=True, slots=True)
class Layout:
    """How a capacity is cut up: ``segment_blocks`` records of ``record_bytes`` fit into one segment."""

    segment_bytes: int
    segment_count: int
    segment_blocks: int
    record_bytes: int
    block_bytes: int


def plan_layout(capacity_blocks: int, block_bytes: int, segment_count: int | None = None) -> Layout:
    """The layout of a node whose capacity is so many blocks.

    Its segments are as a node's are by default, and everything counts: headers, footers, what is left over at the end
    of a segment. With a ``segment_count``, or where so few blocks would fit into a segment that the rounding would
    hide the policy, the blocks are dealt out evenly and their metadata comes on top. ConfigError where that is no
    store.
    """
    record_bytes = record_layout(KEY_BYTES, 0, block_bytes, UNIT_BYTES)[1]
    if segment_count is None:
        layout = _default_layout(capacity_blocks, block_bytes, record_bytes)
        if layout is not None:
            return layout
        segment_blocks = -(-capacity_blocks // SEGMENT_COUNT_WANTED)
        segment_count = capacity_blocks // segment_blocks
    else:
        segment_blocks = capacity_blocks // segment_count
    if segment_count < SEGMENT_COUNT_MIN or segment_blocks < 1:
        raise ConfigError(
            f"a store of {capacity_blocks} blocks cannot be cut into {segment_count} segments",
            remedy=f"give it more blocks, and {SEGMENT_COUNT_MIN} segments at least",
        )
    segment_bytes = _METADATA_BYTES + segment_blocks * (record_bytes + ENTRY_BYTES)
    return Layout(segment_bytes, segment_count, segment_blocks, record_bytes, block_bytes)


def _default_layout(capacity_blocks: int, block_bytes: int, record_bytes: int) -> Layout | None:
    """As ``memkv start`` would have it; None where it would start none, or one with very few blocks in a segment."""
    try:
        geometry = plan_geometry(capacity_blocks * block_bytes, None, UNIT_BYTES, f"{capacity_blocks} blocks")
    except StorageError:
        return None
    held = (geometry.segment_bytes - _METADATA_BYTES) // (record_bytes + ENTRY_BYTES)
    if held < SEGMENT_BLOCKS_MIN:
        return None
    return Layout(geometry.segment_bytes, geometry.segment_count, held, record_bytes, block_bytes)


class Segments:
    """The segments of one drive, and what they hold. ``request`` is as for every policy."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.user_bytes = 0
        self.reinserted_bytes = 0
        self._policy = SecondChance(layout.segment_bytes, layout.segment_count)
        self._places: dict[int, int] = {}  # block -> sequence number of its segment, and its heat
        self._closed: deque[tuple[int, list[int]]] = deque()  # oldest first
        self._free_count = layout.segment_count - 1
        self._sequence = 0
        self._current: list[int] = []
        self._expected_bytes = 0

    def __contains__(self, block: int) -> bool:
        return block in self._places

    def __len__(self) -> int:
        return len(self._places)

    def request(self, blocks: Sequence[int]) -> tuple[int, int]:
        """See ``Policy``."""
        places, touched = self._places, self._policy.touched
        leading = next((position for position, block in enumerate(blocks) if block not in places), len(blocks))
        for block in blocks[:leading]:
            self._touch(block, touched)
        if leading == len(blocks):
            return leading, leading
        return leading, leading + self._put(blocks[leading:], touched)

    def _touch(self, block: int, touched: bytes) -> None:
        place = self._places[block]
        heat = place & HEAT_MASK
        self._places[block] = place - heat + touched[heat]

    def _put(self, blocks: Sequence[int], touched: bytes) -> int:
        """One put batch; how many of its blocks were there. Nothing is in the index before the batch is committed."""
        self._expected_bytes = self.layout.block_bytes * sum(block not in self._places for block in blocks)
        self._expect()
        written: list[tuple[int, int]] = []
        hits = 0
        for block in blocks:
            if block in self._places:
                self._touch(block, touched)
                hits += 1
                continue
            if len(self._current) >= self.layout.segment_blocks:
                self._next_segment()
            self._current.append(block)
            written.append((block, self._sequence))
        oldest = self._closed[0][0] if self._closed else self._sequence
        kept = [(block, sequence) for block, sequence in written if sequence >= oldest]  # of a batch beyond capacity
        for block, sequence in kept:
            self._places[block] = sequence << HEAT_BITS
        self._expected_bytes = 0
        user_bytes = len(kept) * self.layout.record_bytes
        self.user_bytes += user_bytes
        self._policy.written(user_bytes)
        while self._free_count < FREE_SEGMENTS_AHEAD and self._closed:
            self._clean()
        return hits

    def _expect(self) -> None:
        """As ``SegmentPool.expect``: what the current segment has no room for, of the batch that is being put."""
        tail = SEGMENT_DATA_AT + len(self._current) * self.layout.record_bytes
        self._expected_bytes -= min(self._expected_bytes, self.layout.segment_bytes - tail)

    def _next_segment(self) -> None:
        """Another segment with room, as ``Writer``: before it is filled, one more is freed if the batch needs that."""
        while len(self._current) >= self.layout.segment_blocks:
            if self._free_count:
                self._open()
            else:
                self._clean()
            if not self._free_count and self._expected_bytes > 0:
                self._clean()

    def _open(self) -> None:
        self._closed.append((self._sequence, self._current))
        self._free_count -= 1
        self._sequence += 1
        self._current = []
        self._expect()

    def _clean(self) -> None:
        """Gives the oldest segment up, after what the policy chooses was copied forward."""
        sequence, blocks = self._closed.popleft()
        places = self._places
        candidates: list[int] = []
        heats: list[int] = []
        for block in blocks:
            place = places.get(block, -1)
            if place >> HEAT_BITS != sequence:
                continue
            if place & HEAT_MASK:
                candidates.append(block)
                heats.append(place & HEAT_MASK)
            else:
                del places[block]
        chosen = set(self._policy.choose(heats, [self.layout.record_bytes] * len(heats)))
        for position, block in enumerate(candidates):
            if position not in chosen or not self._copy(block):
                del places[block]
        self._free_count += 1

    def _copy(self, block: int) -> bool:
        if len(self._current) >= self.layout.segment_blocks:
            if not self._free_count:
                return False
            self._open()
        self._current.append(block)
        self._places[block] = self._sequence << HEAT_BITS
        self.reinserted_bytes += self.layout.record_bytes
        self._policy.copied(self.layout.record_bytes)
        return True
