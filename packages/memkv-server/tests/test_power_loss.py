# SPDX-License-Identifier: Apache-2.0
"""Durability strict on a medium that loses what was not synced, sector by sector: what was acknowledged is there.

``Medium`` keeps two copies of a store: what the process sees, and what a loss of power leaves. A commit takes its
snapshot when it begins and has it on the medium when the test lets it end.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from memkv_core.digests import digest
from memkv_server.engine import SegmentEngine, Status
from memkv_server.engine import engine as engine_module
from memkv_server.engine.base import Barrier, Namespace
from memkv_server.engine.drive import MemoryDrive
from memkv_server.engine.durability import SETTLED, Level
from memkv_server.engine.group_commit import Outcome
from memkv_server.engine.pool import Phase, Segment
from memkv_server.engine.segment import SEGMENT_STATE_AT, SegmentState
from memkv_server.engine.superblock import plan_geometry

SECTOR = 512
SEGMENT = 64 << 10
HIT = bytes([Status.HIT])
Sectors = npt.NDArray[np.bool_]


class Medium:
    """The drive beneath one store, over all its lives."""

    def __init__(self, segments: int = 8) -> None:
        self.geometry = plan_geometry((segments + 2) * SEGMENT, SEGMENT, 64, "test")
        self.durable = np.zeros((self.geometry.data_bytes // SECTOR, SECTOR), dtype=np.uint8)
        self.registry = bytearray(self.geometry.registry_bytes)

    def life(self, cache: npt.NDArray[np.uint8] | None = None) -> LossyDrive:
        """The drive as a process finds it; with the page cache that another one left."""
        return LossyDrive(self, self.durable if cache is None else cache)


class LossyDrive(MemoryDrive):
    """The drive of one life."""

    mode = "file"
    path: str | None = "lossy"

    def __init__(self, medium: Medium, content: npt.NDArray[np.uint8]) -> None:
        super().__init__(medium.geometry)
        self.medium = medium
        self.memory = self.window(0).memory
        self.seen = np.frombuffer(self.memory, dtype=np.uint8).reshape(-1, SECTOR)
        self.seen[:] = content
        self.written_back = np.zeros(len(self.seen), dtype=bool)  # since the commit that runs began
        self.calls: list[str] = []  # syncs

    def sync(self) -> None:
        self.calls.append("sync")
        self.medium.durable[:] = self.seen
        self.written_back[:] = True

    def registry_load(self) -> bytes:
        return bytes(self.medium.registry)

    def registry_append(self, at: int, data: bytes) -> None:
        self.medium.registry[at : at + len(data)] = data

    def close(self) -> None:
        pass

    def dirty(self) -> Sectors:
        changed: Sectors = (self.seen != self.medium.durable).any(axis=1)
        return changed

    def write_sectors(self, chosen: Sectors) -> None:
        """The kernel, or the drive, writes these of its own accord."""
        self.medium.durable[chosen] = self.seen[chosen]
        self.written_back |= chosen


class Commits:
    """``Committer`` whose commits end when the test says so."""

    def __init__(self, commit: Callable[[], None], notify: Callable[[], None]) -> None:
        drive = commit.__self__  # type: ignore[attr-defined]
        assert isinstance(drive, LossyDrive)
        self.drive = drive
        self.count = 0
        self.ended = False
        self._snapshot = self.drive.seen.copy()

    def start(self) -> None:
        self._snapshot = self.drive.seen.copy()
        self.drive.written_back[:] = False
        self.ended = False

    def take(self, *, wait: bool) -> Outcome | None:
        if not (wait or self.ended):
            return None
        self.count += 1
        kept = ~self.drive.written_back  # the others have newer bytes already
        self.drive.medium.durable[kept] = self._snapshot[kept]
        return Outcome(None, 0.0)

    def close(self) -> None:
        pass

    def join(self) -> None:
        pass


class Store:
    """An engine on a medium. ``put`` and ``delete`` return what their answer waits for."""

    def __init__(self, medium: Medium, cache: npt.NDArray[np.uint8] | None = None) -> None:
        self.medium = medium
        self.drive = medium.life(cache)
        self.engine = SegmentEngine.open(self.drive, Level.STRICT, lambda: None)
        namespace = self.engine.open_namespace("n", b"{}")
        assert namespace is not None
        self.namespace: Namespace = namespace
        commits = self.engine._durability._committer  # type: ignore[attr-defined]
        assert isinstance(commits, Commits)
        self.commits = commits

    def put(self, values: dict[bytes, bytes]) -> tuple[bytes, Barrier | None]:
        digests = [digest([memoryview(value)], 0) for value in values.values()]
        lengths = [len(value) for value in values.values()]
        reservation = self.engine.reserve(self.namespace, list(values), lengths, digests, 0, None)
        for extent, value in zip(reservation.extents, values.values(), strict=True):
            if extent is not None:
                extent[:] = value
        return self.engine.commit(reservation), self.engine.barrier()

    def put_durably(self, values: dict[bytes, bytes]) -> None:
        statuses, barrier = self.put(values)
        assert set(statuses) <= {Status.HIT, Status.PRESENT}
        assert barrier is None or self.wait(barrier)

    def wait(self, barrier: Barrier) -> bool:
        for _ in range(3):
            self.commits.ended = True
            self.engine.tick()
        return barrier.settled and barrier.failure is None

    def get(self, key: bytes) -> bytes | None:
        """As a client does: verified."""
        batch = self.engine.read(self.namespace, [key], [1 << 30])
        view, announced = batch.views[0], batch.digests[0]
        value = None if view is None else bytes(view)
        self.engine.release(batch)
        return value if value is not None and digest([memoryview(value)], 0) == announced else None

    def state(self, segment: Segment, *, durable: bool = False) -> int:
        """Of a segment, as its header says it."""
        content = self.medium.durable if durable else self.drive.seen
        return int(content.reshape(-1)[segment.address + SEGMENT_STATE_AT])

    def lose_power(self, kept: Callable[[Sectors], Sectors] | None = None) -> Store:
        """The next life; of what was not synced those sectors are there that ``kept`` chooses: none."""
        if kept is not None:
            self.drive.write_sectors(self.drive.dirty() & kept(self.drive.dirty()))
        return Store(self.medium)

    def die(self) -> Store:
        """The next life after the end of the process alone."""
        return Store(self.medium, self.drive.seen.copy())

    def sectors_of(self, value: bytes) -> Sectors:
        """Where ``value`` lies: the sectors that hold nothing else."""
        at = bytes(self.drive.memory).rfind(value)
        assert at >= 0
        chosen = np.zeros(len(self.drive.seen), dtype=bool)
        chosen[-(-at // SECTOR) : (at + len(value)) // SECTOR] = True
        assert chosen.any()
        return chosen


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CommitThread", Commits)


def block(seed: int, size: int = 8000) -> bytes:
    return random.Random(seed).randbytes(size)


def test_what_was_acknowledged_is_there_and_what_was_not_may_be_gone() -> None:
    store = Store(Medium())
    store.put_durably({b"a": block(1), b"b": block(2)})
    statuses, barrier = store.put({b"c": block(3)})
    assert statuses == HIT
    assert barrier is not None
    assert not barrier.settled
    assert store.get(b"c") == block(3), "it can be read at once"
    store = store.lose_power()
    assert [store.get(key) for key in (b"a", b"b", b"c")] == [block(1), block(2), None]


def test_a_torn_replacement_does_not_hide_what_was_acknowledged() -> None:
    store = Store(Medium())
    store.put_durably({b"k": block(1)})
    store.put({b"k": block(2)})
    torn = store.sectors_of(block(2))
    store = store.lose_power(lambda dirty: dirty & ~torn)
    assert store.get(b"k") == block(1)
    # And is not judged again when it lies below what is known to be durable.
    for number in range(20):  # each with a stamp, in the end above the torn record
        store.put_durably({b"other%d" % number: block(10 + number, 100)})
    for _ in range(3):
        store = store.die()
        assert store.get(b"k") == block(1)
        store = store.lose_power()
        assert store.get(b"k") == block(1)
    assert store.engine.usage()["corrupt_records"] == 0


def test_what_it_replaced_does_not_come_back_where_an_acknowledged_value_rots() -> None:
    store = Store(Medium())
    store.put_durably({b"k": block(1)})
    store.put_durably({b"k": block(2)})
    store.put_durably({b"later": block(3)})
    store.medium.durable[store.sectors_of(block(2))] ^= 1
    store = store.lose_power()
    assert store.get(b"k") is None
    assert store.get(b"later") == block(3)
    assert store.engine.usage()["corrupt_records"] == 1


def fill_segment(store: Store, first: int = 100) -> Segment:
    """Puts until the current segment is full and another one is current; the full one."""
    segment = store.engine._pool.current
    number = first
    while segment is None or store.engine._pool.current is segment:
        store.put({b"fill%d" % number: block(number)})
        segment = segment or store.engine._pool.current
        number += 1
    return segment


def test_a_segment_is_sealed_when_what_its_footer_vouches_for_is_durable() -> None:
    store = Store(Medium())
    store.put_durably({b"k": block(1)})
    store.put({b"k": block(2)})
    segment = fill_segment(store)
    assert (segment.phase, store.state(segment)) == (Phase.CLOSED, SegmentState.OPEN)
    store.engine.tick()
    store.engine.tick()
    assert segment.phase is Phase.CLOSED, "the sync has not ended"
    everything_but = store.sectors_of(block(2))
    lost = store.drive.seen.copy()
    lost[everything_but] = store.medium.durable[everything_but]
    assert Store(store.medium, lost).get(b"k") == block(1), "as a loss of power would leave it here"
    barrier = store.engine.barrier()
    assert barrier is not None
    assert store.wait(barrier)
    assert (segment.phase, store.state(segment)) == (Phase.SEALED, SegmentState.SEALED)


def test_a_delete_is_durable_before_the_footer_that_speaks_of_it() -> None:
    store = Store(Medium())
    segment = fill_segment(store)
    barrier = store.engine.barrier()
    assert barrier is not None
    assert store.wait(barrier)
    assert segment.phase is Phase.SEALED
    second = store.engine._pool.current
    assert second is not None
    keys = [b"nothing%d" % number for number in range(2000)]
    store.put_durably({keys[0]: b"x"})
    while store.engine.barrier() is not None:
        end_commit(store)
    store.engine._counters.corrupt_records += 1  # so that what is not there takes a tombstone as well
    store.engine.delete(store.namespace, keys)
    assert second.phase is Phase.CLOSED
    assert store.state(second) == SegmentState.OPEN


def settled_store(read: bool) -> tuple[Store, Segment]:
    """A store with one durable value in its oldest segment, which is sealed, and nothing that waits; the segment."""
    store = Store(Medium())
    store.put_durably({b"k": block(1)})
    if read:
        assert store.get(b"k") == block(1)
    victim = fill_segment(store)
    store.put_durably({b"later": block(2)})
    while victim.phase is not Phase.SEALED or store.engine.barrier() is not None:
        store.commits.ended = True
        store.engine.tick()
    return store, victim


def empty(store: Store, victim: Segment) -> None:
    """Evicts it, with nothing else going on."""
    for _ in store.engine._cleaner._empty(victim):
        pass


def end_commit(store: Store) -> None:
    """Of the commit that is wanted, and all that follows from it at once."""
    store.engine.tick()
    store.commits.ended = True
    store.engine.tick()


def test_space_is_used_again_when_what_replaces_it_is_durable() -> None:
    """Copies first, then the mark, then new bytes: each step waits for the one before it."""
    store, victim = settled_store(read=True)
    pool = store.engine._pool
    free = len(pool.free)
    empty(store, victim)
    assert store.get(b"k") == block(1), "the copy"
    assert store.state(victim) == SegmentState.SEALED, "the copy is not durable"
    assert Store(store.medium).get(b"k") == block(1), "the original, after a loss of power"
    end_commit(store)
    assert store.state(victim) == SegmentState.FREE
    assert store.state(victim, durable=True) == SegmentState.SEALED
    assert victim not in pool.free, "the mark is not durable"
    assert pool.ahead == free + 1
    end_commit(store)
    assert store.state(victim, durable=True) == SegmentState.FREE
    assert victim in pool.free
    assert store.lose_power().get(b"k") == block(1)


def test_of_several_segments_the_marks_become_durable_oldest_first() -> None:
    store, first = settled_store(read=False)
    second = fill_segment(store, first=500)
    store.put_durably({b"later": block(3)})
    while second.phase is not Phase.SEALED or store.engine.barrier() is not None:
        end_commit(store)
    pool = store.engine._pool
    empty(store, first)
    empty(store, second)
    assert list(pool.freeing) == [first, second]
    assert (store.state(first), store.state(second)) == (SegmentState.FREE, SegmentState.SEALED)
    end_commit(store)
    assert store.state(first, durable=True) == SegmentState.FREE
    assert (store.state(second), store.state(second, durable=True)) == (SegmentState.FREE, SegmentState.SEALED)
    end_commit(store)
    assert store.state(second, durable=True) == SegmentState.FREE
    assert not pool.freeing


def test_what_replaced_it_in_memory_is_durable_before_the_end_of_what_it_replaced() -> None:
    store, victim = settled_store(read=False)
    store.put({b"k": block(4)})
    empty(store, victim)
    assert store.state(victim) == SegmentState.SEALED
    assert store.lose_power().get(b"k") == block(1)


def test_a_younger_header_does_not_end_what_is_not_yet_replaced() -> None:
    """A new segment's header says which segments were given up: only those whose survivors are durable."""
    store = Store(Medium(16))
    pool = store.engine._pool
    store.put_durably({b"kept": block(1)})
    while len(pool.free) > 3:
        fill_segment(store, first=1000 * len(pool.free))
        barrier = store.engine.barrier()
        assert barrier is None or store.wait(barrier)
    assert store.get(b"kept") == block(1)
    number = 50_000
    while not pool.freeing:
        store.put({b"more%d" % number: block(number, 2000)})
        number += 1
    opened = fill_segment(store, first=60_000)
    assert opened.phase is Phase.CLOSED
    assert pool.freeing
    headers = np.zeros(len(store.drive.seen), dtype=bool)
    headers[:: SEGMENT // SECTOR] = True
    assert store.lose_power(lambda _: headers).get(b"kept") == block(1)


def test_of_two_copies_the_intact_one_counts() -> None:
    store = Store(Medium())
    pool = store.engine._pool
    store.put_durably({b"kept": block(1)})
    while len(pool.free) > 2:
        fill_segment(store, first=1000 * len(pool.free))
        barrier = store.engine.barrier()
        assert barrier is None or store.wait(barrier)
    assert store.get(b"kept") == block(1)
    number = 50_000
    while not pool.freeing:
        store.put({b"more%d" % number: block(number, 2000)})
        number += 1
    torn = store.sectors_of(block(1))
    copies = bytes(store.drive.memory).count(block(1))
    assert copies == 2
    first = bytes(store.drive.memory).find(block(1))
    torn[first // SECTOR : (first + 8000) // SECTOR + 1] = False
    if not torn.any():  # the copy lies in front of the original
        last = bytes(store.drive.memory).rfind(block(1))
        torn[:] = False
        original = pool.freeing[0].address <= last < pool.freeing[0].address + SEGMENT
        at = first if original else last
        torn[-(-at // SECTOR) : (at + 8000) // SECTOR] = True
    assert store.lose_power(lambda dirty: dirty & ~torn).get(b"kept") == block(1)


def test_an_unsynced_life_leaves_nothing_that_passes_for_a_later_one() -> None:
    """A segment whose header was lost is opened again, in the same place: what was written in it stays unreadable."""
    store = Store(Medium())
    store.put({b"ghost": block(1, 100), b"second": block(2)})
    segment = store.engine._pool.current
    assert segment is not None
    header = np.zeros(len(store.drive.seen), dtype=bool)
    header[segment.address // SECTOR] = True
    store = store.lose_power(lambda dirty: dirty & ~header)
    assert store.get(b"ghost") is None
    assert store.engine._pool.sequence != segment.sequence - 1
    store.put_durably({b"other": block(3, 100)})
    assert store.engine._pool.current is not None
    assert store.engine._pool.current.address == segment.address
    for _ in range(2):
        store = store.lose_power()
        assert store.get(b"other") == block(3, 100)
        assert (store.get(b"ghost"), store.get(b"second")) == (None, None)


def test_a_drive_that_is_taken_down_fails_what_waits_for_it_at_once() -> None:
    store = Store(Medium())
    _, barrier = store.put({b"k": block(1)})
    assert barrier is not None
    store.engine.tick()
    store.engine.retire()
    assert barrier.settled
    assert barrier.failure == "lossy: the drive was taken out of service"


def test_a_start_syncs_before_it_reads_and_before_it_serves() -> None:
    store = Store(Medium())
    store.put({b"k": block(1)})
    store = store.die()
    assert store.drive.calls == ["sync", "sync"]
    assert store.get(b"k") == block(1)
    assert store.lose_power().get(b"k") == block(1), "what a start found is durable"


def test_a_deleted_key_that_is_evicted_meanwhile_stays_deleted() -> None:
    """Until an evicted segment is marked free on the medium, its records would be back: a delete takes a tombstone."""
    store, victim = settled_store(read=False)
    empty(store, victim)
    assert store.get(b"k") is None
    assert not store.engine._pool.durability.join().settled
    assert store.engine.delete(store.namespace, [b"k"]) == bytes([Status.MISS])
    mark = np.zeros(len(store.drive.seen), dtype=bool)
    mark[victim.address // SECTOR] = True
    assert store.lose_power(lambda _: ~mark).get(b"k") is None


class Model:
    """What each key may be: the value of its last acknowledged operation, or of one that was begun after it."""

    def __init__(self) -> None:
        self.history: dict[bytes, list[bytes | None]] = {}  # None: deleted, or not there
        self.evicting = False

    def allowed(self, key: bytes) -> list[bytes | None]:
        return self.history.get(key, [None])

    def begun(self, key: bytes, value: bytes | None) -> None:
        self.history.setdefault(key, [None]).append(value)

    def acknowledged(self, key: bytes, value: bytes | None) -> None:
        """Nothing that was begun before it may come back."""
        history = self.history[key]
        if value in history:
            self.history[key] = history[history.index(value) :]

    def check(self, key: bytes, found: bytes | None) -> None:
        assert found in self.allowed(key) or (found is None and self.evicting), f"{key!r}: neither old nor new"
        self.history[key] = [found]


class History:
    """Puts, deletes, commits that end late, write-backs, deaths and losses of power, by a seed."""

    def __init__(self, seed: int, segments: int, key_count: int) -> None:
        self.rng = random.Random(seed)
        self.keys = [b"k%d" % number for number in range(key_count)]
        self.store, self.model = Store(Medium(segments)), Model()
        self.open: list[tuple[Barrier, list[tuple[bytes, bytes | None]]]] = []
        self.acknowledged = 0

    def run(self, steps: int) -> None:
        actions = [self.operate, self.end_commit, self.write_back, self.look, self.next_life]
        for _ in range(steps):
            self.rng.choices(actions, [60, 10, 10, 17, 3])[0]()
            self.store.engine.tick()
            self.settle()
            self.model.evicting = self.model.evicting or self.store.engine.usage()["evicted_records"] > 0
        self.next_life()

    def some(self, share: float) -> Callable[[Sectors], Sectors]:
        generator = np.random.default_rng(self.rng.getrandbits(32))
        return lambda dirty: generator.random(len(dirty)) < share

    def operate(self) -> None:
        keys = self.rng.sample(self.keys, self.rng.randint(1, 3))
        operations: list[tuple[bytes, bytes | None]]
        if self.rng.random() < 0.2:
            self.store.engine.delete(self.store.namespace, keys)
            barrier = self.store.engine.barrier()
            operations = [(key, None) for key in keys]
        else:
            values = {key: self.rng.randbytes(self.rng.choice([40, 700, 5000, 20_000])) for key in keys}
            statuses, barrier = self.store.put(values)
            stored = [status in (Status.HIT, Status.PRESENT) for status in statuses]
            operations = [each for each, there in zip(values.items(), stored, strict=True) if there]
        for key, value in operations:
            self.model.begun(key, value)
        self.open.append((barrier or SETTLED, operations))

    def end_commit(self) -> None:
        self.store.commits.ended = True

    def write_back(self) -> None:
        drive = self.store.drive
        drive.write_sectors(drive.dirty() & self.some(0.5)(drive.dirty()))

    def look(self) -> None:
        key = self.rng.choice(self.keys)
        found = self.store.get(key)
        assert found in self.model.allowed(key) or (found is None and self.model.evicting)

    def next_life(self) -> None:
        if self.rng.random() < 0.7:
            self.store = self.store.lose_power(self.some(self.rng.choice([0.0, 0.3, 0.7, 0.97])))
        else:
            self.store = self.store.die()
        self.open.clear()
        for key in self.keys:
            self.model.check(key, self.store.get(key))

    def settle(self) -> None:
        for barrier, operations in self.open:
            if barrier.settled:
                assert barrier.failure is None
                self.acknowledged += len(operations)
                for key, value in operations:
                    self.model.acknowledged(key, value)
        self.open = [each for each in self.open if not each[0].settled]


@pytest.mark.parametrize("seed", range(40))
def test_a_history_without_evictions(seed: int) -> None:
    history = History(seed, segments=60, key_count=8)
    history.run(120)
    assert history.acknowledged > 0
    assert not history.model.evicting


@pytest.mark.parametrize("seed", range(1000, 1040))
def test_a_history_with_evictions(seed: int) -> None:
    history = History(seed, segments=9, key_count=30)
    history.run(300)
    assert history.model.evicting
