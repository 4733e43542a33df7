# SPDX-License-Identifier: Apache-2.0
"""The pool's bookkeeping, by example and against a model: the bound holds, and nothing goes that somebody needs."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memkv_server.engine.ram_pool import FRAME_BYTES, FRAME_OVERHEAD_BYTES, FRAME_PAGES, PAGE_BYTES, RamPool

MIB = 1 << 20
ABSENT, PREPARED, DIRTY = 0, 4, 5  # states, as the module numbers them


class Memory:
    """What the pool has given back."""

    def __init__(self) -> None:
        self.dropped: list[tuple[int, int]] = []

    def drop(self, start: int, length: int) -> None:
        self.dropped.append((start, length))

    def drop_frame(self, number: int) -> None:
        self.dropped.append((number * FRAME_BYTES, FRAME_BYTES))


def make(limit: int = 4 * MIB) -> tuple[RamPool, Memory]:
    memory = Memory()
    return RamPool(limit, memory.drop, memory.drop_frame), memory


def pages(first: int, count: int = 1) -> tuple[int, int]:
    return first * PAGE_BYTES, count * PAGE_BYTES


def load(pool: RamPool, extent: tuple[int, int]) -> None:
    """Reads an extent, and lets it go."""
    missing, refused = pool.hold([extent])
    assert refused == []
    if missing:
        for part in pool.loading([extent]):
            pool.arrived(part)
    pool.release([extent])


def test_what_was_loaded_is_there_and_what_was_not_is_said() -> None:
    pool, _ = make()
    load(pool, pages(3, 2))
    assert pool.hold([pages(3, 2), pages(4, 3)]) == ([1], [])
    assert pool.loading([pages(3, 2), pages(4, 3)]) == [pages(5, 2)]
    assert pool.hold([pages(5)]) == ([0], []), "it is on its way, and not there"
    assert pool.used_bytes == 4 * PAGE_BYTES + FRAME_OVERHEAD_BYTES


def test_an_extent_over_many_frames_is_loaded_in_one_piece() -> None:
    pool, _ = make(16 * MIB)
    extent = pages(FRAME_PAGES - 1, FRAME_PAGES + 2)
    assert pool.hold([extent]) == ([0], [])
    assert pool.loading([extent]) == [extent]
    assert pool.used_bytes == extent[1] + 3 * FRAME_OVERHEAD_BYTES


def test_scattered_pages_hold_themselves_and_not_their_frames() -> None:
    pool, memory = make()
    for frame in range(100):
        load(pool, pages(frame * FRAME_PAGES, 4))
        load(pool, pages(frame * FRAME_PAGES + 100, 4))
    held = [pages(frame * FRAME_PAGES, 4) for frame in range(100)]
    assert pool.hold(held)[1] == []
    for frame in range(100, 120):
        load(pool, pages(frame * FRAME_PAGES, 64))
    assert pool.used_bytes <= pool.limit_bytes
    assert pool.hold(held) == ([], [])
    assert pages(100, 4) in memory.dropped, "the other four pages of a frame that is held went"


def test_what_was_used_since_the_hand_came_by_gets_a_second_chance() -> None:
    pool, _ = make()
    hot = pages(0, 64)
    load(pool, hot)
    for number in range(1, 60):
        load(pool, pages(number * FRAME_PAGES, 64))
        assert pool.hold([hot]) == ([], []), f"gone after {number}"
        pool.release([hot])
    assert pool.evicted_bytes > 8 * MIB


def test_readers_and_writers_leave_a_part_for_the_engine() -> None:
    pool, _ = make()
    held = [pages(number * 64, 64) for number in range(16)]
    refused = pool.hold(held)[1]
    assert refused == [13, 14, 15], "7/8 of 4 MiB, and the frames' overhead"
    assert not pool.prepare(pages(2000, 64))
    assert pool.look_at([pages(3000, 64)]) == ([0], [])
    assert pool.look_at([pages(3100, 64), pages(3200, 64), pages(3300, 64)]) == ([0, 1], [2])
    assert pool.look_at([]) == ([], [])


def test_half_of_the_pool_may_wait_for_the_drive() -> None:
    pool, _ = make()
    assert pool.prepare(pages(0, 256))
    assert pool.prepare(pages(256, 256))
    assert not pool.prepare(pages(512, 1))
    assert pool.prepare(pages(512, 1), urgent=True)
    assert pool.dirty(pages(0, 256)) == [pages(0, 256)]
    assert not pool.prepare(pages(513, 1))
    pool.clean(pages(0, 256))
    assert pool.unwritten_bytes == 257 * PAGE_BYTES
    assert pool.prepare(pages(513, 200))


def test_a_page_that_waits_already_is_not_queued_again() -> None:
    pool, _ = make()
    pool.prepare(pages(510, 6))
    assert pool.dirty(pages(511, 2)) == [pages(511, 2)]
    assert pool.dirty(pages(510, 6)) == [pages(510), pages(513, 3)]
    assert pool.dirty(pages(510, 6)) == []


def test_what_is_written_over_while_it_waits_is_kept() -> None:
    pool, memory = make()
    pool.prepare(pages(0))
    pool.dirty(pages(0))
    pool.prepare(pages(0))
    pool.clean(pages(0))
    pool.discard(pages(1))
    assert (pool.unwritten_bytes, memory.dropped) == (PAGE_BYTES, [])
    pool.dirty(pages(0))
    pool.clean(pages(0))
    assert pool.unwritten_bytes == 0
    assert pool.hold([pages(0)]) == ([], [])


def test_what_never_arrives_is_absent_once_nobody_waits_for_it() -> None:
    pool, memory = make()
    pool.hold([pages(0, 8)])
    pool.hold([pages(4, 8)])
    pool.release([pages(0, 8)])
    assert memory.dropped == [pages(0, 4)]
    assert pool.loading([pages(0, 12)]) == [pages(4, 8)]
    assert pool.is_absent(pages(0, 8))
    assert not pool.is_absent(pages(4, 8))
    pool.release([pages(4, 8)])
    assert pool.used_bytes == 0


def test_an_extent_larger_than_the_pool_is_refused_and_costs_nothing() -> None:
    pool, memory = make()
    load(pool, pages(0, 64))
    assert pool.hold([pages(1000, 2000)]) == ([], [0])
    assert not pool.prepare(pages(1000, 2000))
    assert pool.hold([pages(0, 64)]) == ([], [])
    assert [each for each in memory.dropped if each[0] < FRAME_BYTES] == []


EXTENTS = st.tuples(st.integers(0, 3 * FRAME_PAGES), st.integers(1, 150)).map(lambda pair: pages(*pair))


class PoolMachine(RuleBasedStateMachine):
    """Whatever is asked in whatever order, the sums are right, the bound holds, and what is needed stays."""

    @initialize(limit=st.integers(64, 700))
    def begin(self, limit: int) -> None:
        self.pool = RamPool(limit * PAGE_BYTES, self.drop, self.drop_frame)
        self.held: list[tuple[int, int]] = []
        self.readers: Counter[int] = Counter()
        self.unwritten: dict[int, bool] = {}  # page -> whether it is dirty
        self.content: set[int] = set()  # pages whose memory holds what is on the drive, or newer

    def drop(self, start: int, length: int) -> None:
        for page in range(start // PAGE_BYTES, (start + length) // PAGE_BYTES):
            assert page not in self.readers, "a reader holds it"
            assert not self.unwritten.get(page, False), "it is not on the drive"
            self.content.discard(page)

    def drop_frame(self, number: int) -> None:
        self.drop(number * FRAME_BYTES, FRAME_BYTES)

    @rule(extents=st.lists(EXTENTS, min_size=1, max_size=6), fails=st.booleans())
    def read(self, extents: list[tuple[int, int]], fails: bool) -> None:
        # Pages that are being written are no record's: nobody reads them.
        extents = [each for each in extents if not any(self.unwritten.get(page) is False for page in of(each))]
        missing, refused = self.pool.hold(extents)
        kept = [each for position, each in enumerate(extents) if position not in refused]
        for each in kept:
            self.readers.update(of(each))
        self.held += kept
        parts = self.pool.loading([extents[position] for position in missing])
        assert not any(self.content.intersection(of(part)) for part in parts), "what is there is not read again"
        for part in () if fails else parts:
            self.content.update(of(part))
            self.pool.arrived(part)
        if not fails:
            assert all(self.content.issuperset(of(each)) for each in kept)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            extent = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            self.readers.subtract(of(extent))
            self.readers = +self.readers
            self.pool.release([extent])

    @rule(extents=st.lists(EXTENTS, max_size=4))
    def look_at(self, extents: list[tuple[int, int]]) -> None:
        extents = [each for each in extents if not any(self.unwritten.get(page) is False for page in of(each))]
        missing, refused = self.pool.look_at(extents)
        for part in self.pool.loading([extents[position] for position in missing]):
            self.content.update(of(part))
            self.pool.arrived(part)
        for position, each in enumerate(extents):
            assert position in refused or self.content.issuperset(of(each))

    @rule(extent=EXTENTS, urgent=st.booleans())
    def prepare(self, extent: tuple[int, int], urgent: bool) -> None:
        if any(page in self.readers for page in of(extent)):
            return
        self.pool.look_at([])
        if self.pool.prepare(extent, urgent=urgent):
            for page in of(extent):
                self.unwritten[page] = False
                self.content.add(page)

    @rule(data=st.data(), written=st.booleans())
    def settle(self, data: st.DataObject, written: bool) -> None:
        """Of what is prepared some is written, some is given up; of what is dirty some reaches the drive."""
        extent = data.draw(EXTENTS)
        prepared = [page for page in of(extent) if self.unwritten.get(page) is False]
        for page in prepared:
            if written:
                self.unwritten[page] = True
                assert self.pool.dirty(pages(page)) == [pages(page)]
            else:
                del self.unwritten[page]
                self.pool.discard(pages(page))
                assert page not in self.content

    @rule(extent=EXTENTS)
    def write_back(self, extent: tuple[int, int]) -> None:
        for page in of(extent):
            if self.unwritten.get(page):
                del self.unwritten[page]
        self.pool.clean(extent)

    @invariant()
    def sums(self) -> None:
        pool = self.pool
        frames = pool._frames
        resident = sum(FRAME_PAGES - frame.pages.count(ABSENT) for frame in frames.values())
        assert pool.used_bytes == resident * PAGE_BYTES + len(frames) * FRAME_OVERHEAD_BYTES
        assert pool.used_bytes <= pool.limit_bytes
        waiting = sum(frame.pages.count(PREPARED) + frame.pages.count(DIRTY) for frame in frames.values())
        assert pool.unwritten_bytes == waiting * PAGE_BYTES == len(self.unwritten) * PAGE_BYTES
        assert all(frame.resident or frame.holds is not None for frame in frames.values()), "no empty frame is kept"

    @invariant()
    def holds(self) -> None:
        looked_at = [page for extent in self.pool._looked_at for page in of(extent)]
        held = set(self.readers) | set(looked_at)
        frames = {page // FRAME_PAGES for page in held}
        assert self.pool.held_bytes == len(held) * PAGE_BYTES + len(frames) * FRAME_OVERHEAD_BYTES


def of(extent: tuple[int, int]) -> range:
    return range(extent[0] // PAGE_BYTES, (extent[0] + extent[1]) // PAGE_BYTES)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
