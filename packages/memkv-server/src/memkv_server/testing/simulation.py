# SPDX-License-Identifier: Apache-2.0
"""Random histories of an engine on a drive that fails, against the model; hypothesis draws and shrinks them.

A history has one *profile*, so that each promise is checked as sharply as it is made:

===========  =========================================================================================================
``death``    processes end between any two accesses; nothing acknowledged may be lost
``power``    as well, the power fails under ``relaxed``: back to some state between the last sync and the end
``strict``   the same under ``strict``, in groups: nothing acknowledged may be lost
``eio``      as ``power`` or ``strict``, and pages become unreadable, writes and syncs fail, appends are short
``rot``      as ``power`` or ``strict``, and bits flip on the medium
===========  =========================================================================================================

After every step the keys that are there are compared with those before it: one may have gone only if the engine counted
an eviction (or, in ``eio`` and ``rot``, a record that was unreadable or corrupt), and none may have come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Any, ClassVar, Final
from unittest import mock

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from memkv_core.digests import digest
from memkv_core.errors import StorageError
from memkv_server.engine.base import Namespace, ReadBatch, Status
from memkv_server.engine.durability import Level, Ticket
from memkv_server.engine.engine import SegmentEngine
from memkv_server.engine.group_commit import Committer, Outcome
from memkv_server.engine.health import DriveState
from memkv_server.engine.index import place_address
from memkv_server.engine.limits import REINSERT_SHARE_MAX
from memkv_server.engine.pool import Phase
from memkv_server.engine.segment import hash_key
from memkv_server.engine.superblock import plan_geometry
from memkv_server.testing.disk import PAGE_BYTES, SECTOR_BYTES, Disk
from memkv_server.testing.faulty_drive import FAULT_KINDS, Fault, FaultyDrive, ProcessEndedError
from memkv_server.testing.model import Model, Value

CAPACITY_BYTES: Final = 640 << 10  # eight segments or nine: a store turns over within some ten puts
SEGMENT_BYTES: Final = 64 << 10
PROFILES: Final = ("death", "power", "strict", "eio", "rot")
STORED: Final = (Status.HIT, Status.PRESENT)

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
def _sum(value: Value, kind: int) -> bytes:
    return bytes(digest([memoryview(payload(value))], kind))


def _meta(value: Value) -> bytes:
    return b"%d of %d" % (value[1], value[0]) if value[1] % 2 else b""


class SlowCommitter:
    """``Committer`` without a thread: a commit ends when it is asked for the second time, or waited for."""

    def __init__(self, drive: FaultyDrive, rng: Random) -> None:
        self._drive = drive
        self._rng = rng
        self._asked = 0

    def start(self) -> None:
        """See ``Committer``."""
        self._asked = 0
        self._drive.begin_sync(self._rng)

    def take(self, *, wait: bool) -> Outcome | None:
        """See ``Committer``."""
        self._asked += 1
        if self._asked < 2 and not wait:
            return None
        try:
            self._drive.end_sync()
        except StorageError as error:
            return Outcome(str(error), 0.0)
        return Outcome(None, 0.0)

    def close(self) -> None:
        """See ``Committer``."""

    def join(self) -> None:
        """See ``Committer``."""


class SimulatedEngine(SegmentEngine):
    """The engine, with its commits in the hands of the simulation."""

    def _make_committer(self, commit: Callable[[], None], notify: Callable[[], None]) -> Committer:
        assert isinstance(self._drive, FaultyDrive)
        return SlowCommitter(self._drive, self._drive.disk.rng)


@dataclass
class Tally:
    """What was done over many histories, for whoever asserts how much that was."""

    steps: int = 0
    injected: Counter[str] = field(default_factory=Counter)  # faults by kind


class Simulation(RuleBasedStateMachine):
    """One store, from its first process to its last."""

    tally: ClassVar[Tally] = Tally()
    profile: ClassVar[str] = "strict"

    reads: Bundle[Any] = Bundle("reads")
    puts: Bundle[Any] = Bundle("puts")

    @initialize(strict=st.booleans(), sector_bytes=st.sampled_from(SECTOR_BYTES), seed=seeds)
    def begin(self, strict: bool, sector_bytes: int, seed: int) -> None:
        geometry = replace(plan_geometry(CAPACITY_BYTES, SEGMENT_BYTES, 64, "simulated"), uuid=bytes(16))
        self.disk = Disk(geometry, sector_bytes, seed)
        strict = self.profile == "strict" or (strict and self.profile in ("eio", "rot"))
        self.level = Level.STRICT if strict else Level.RELAXED
        self.model = Model(strict=strict)
        self.given_up = 0  # segments since the last sync
        self.waiting: list[tuple[Ticket, int]] = []  # with the number of writes that each covers
        self.identities: dict[str, set[bytes | None]] = {}
        self.held: list[ReadBatch] = []
        self.reserved: list[Any] = []
        self.turned = 0
        self.present: dict[Key, int] = {}
        self._start(power=True)

    # -- lives -----------------------------------------------------------------------------------------------------
    def _start(self, *, power: bool, fault: Fault | None = None) -> None:
        """The next process, with a fault armed while it recovers; and the one after it where that ended in it."""
        self.held.clear()
        self.reserved.clear()
        self.waiting.clear()
        self.drive = FaultyDrive(self.disk, self.tally.injected)
        self.drive.arm(self._fitting(fault))
        try:
            with mock.patch("secrets.randbits", self.disk.rng.getrandbits):  # for replay
                self.engine = SimulatedEngine.open(self.drive, self.level, lambda: None)
        except ProcessEndedError as end:
            if end.power:
                self._power_lost()
            self._start(power=end.power)
            return
        except StorageError:
            assert self.profile == "eio"
            self._power_lost()
            self.disk.heal()
            self._start(power=True)
            return
        self.drive.arm(None)
        self.engine._cleaner.tick_budget_s = 0.0  # one slice a tick, whatever the clock says
        self.namespaces: dict[str, Namespace] = {}
        for name in NAMES:
            self._open_namespace(name, b"{}")
        self.losses, self.evicted = self._losses(), self.engine._counters.evicted_segments
        self.present = self._places()
        self._settle(power)

    def _settle(self, power: bool) -> None:
        """Looks at every key beneath the counting of reads: what a start found is how things are."""
        for key in KEYS:
            found = self._peek(key)
            assert self.model.allows(key, found), self._say(key, found)
            if not self.disk.bad.any():
                self.model.settled(key, found, power=power)

    def _peek(self, key: Key) -> Value | None:
        namespace = self.namespaces[key[0]]
        located = self.engine._reader.locate(namespace, key[1])
        if located is None:
            return None
        _, _, segment, at, header = located
        payload_at = at + header.layout(64)[0]
        view = segment.view[payload_at : payload_at + header.value_bytes]
        return self._value_of(key, view, header.digest, header.digest_kind, header.meta)

    def _value_of(self, key: Key, view: memoryview, sum_: bytes, kind: int, meta: bytes) -> Value | None:
        """Which value these bytes are; None where the digest says that they are none: the client's miss."""
        if digest([view], kind) != sum_:
            # A power cut may leave a sealed segment without some of its payloads: they were not synced.
            assert self.profile != "death", f"{key!r} is damaged"
            return None
        for value in self.model.entries[key].ever:
            if value[0] == len(view) and meta == _meta(value) and bytes(view) == payload(value):
                assert sum_ == _sum(value, kind)
                return value
        raise AssertionError(f"{key!r} holds bytes or a meta that were never put under it")

    def _say(self, key: Key, found: Value | None) -> str:
        entry = self.model.entries[key]
        return f"{key!r} is {found}, and may be one of {entry.now} (profile {self.profile})"

    def _open_namespace(self, name: str, identity: bytes) -> bool:
        possible = self.identities.setdefault(name, {None})
        if None in possible:
            possible.add(identity)  # from the first byte of its record on
        namespace = self.engine.open_namespace(name, identity)
        if namespace is None:
            possible -= {None, identity}
            assert possible, f"{name} was never opened with another identity than {identity!r}"
        else:
            assert identity in possible, f"{name} is recorded with {possible}"
            self.identities[name] = {identity}
            self.namespaces[name] = namespace
        return True

    @rule(fault=faults)
    def stop_and_start(self, fault: Fault | None) -> None:
        self._stop_and_start(fault)

    def _stop_and_start(self, fault: Fault | None) -> None:
        self.engine.close()
        self._settle_tickets()
        failed = self.drive.health.state is not DriveState.ONLINE
        if failed:
            self._power_lost()
        else:
            self.model.synced()
            self.given_up = 0
        if self.disk.bad.any():
            self.model.damaged()
        self._start(power=True, fault=fault)

    @rule(power=st.booleans(), seed=seeds, fault=faults)
    def end(self, power: bool, seed: int, fault: Fault | None) -> None:
        self._end(power=power, seed=seed, fault=fault)

    def _end(self, *, power: bool, seed: int, fault: Fault | None) -> None:
        power = power and self.profile != "death"
        self.drive.end(power=power, rng=Random(seed))
        self._next_life(power, fault)

    def _next_life(self, power: bool, fault: Fault | None = None) -> None:
        if power:
            self._power_lost()
        elif self.disk.bad.any():
            self.model.damaged()
        self._start(power=power, fault=fault)

    def _power_lost(self) -> None:
        self.model.power_lost()
        if self.disk.bad.any():
            self.model.damaged()
        elif self.level is Level.RELAXED and self.given_up > 1:
            self.model.evictions_undone()
        self.given_up = 0

    def _fitting(self, fault: Fault | None) -> Fault | None:
        """The fault, or what takes its place in this profile."""
        if fault is not None and (
            (fault.kind == "cut" and self.profile == "death") or (fault.kind == "eio" and self.profile != "eio")
        ):
            return Fault("die", fault.after, fault.seed)
        return fault

    def _attempt(self, fault: Fault | None, call: Callable[[], Any], touched: tuple[Key, ...] = ()) -> Any:
        """Runs a call of the engine with a fault armed. None where the process ended in it, or the drive failed."""
        if fault is not None:
            self.drive.arm(self._fitting(fault))
        drive = self.drive
        try:
            return call()
        except ProcessEndedError as end:
            self._note_losses(touched)
            self._next_life(end.power)
            return None
        except StorageError:
            assert self.profile == "eio"
            self._note_losses(touched)
            return None
        finally:
            drive.arm(None)

    # -- puts ------------------------------------------------------------------------------------------------------
    @rule(target=puts, batch=batches, kind=st.sampled_from([0, 1]), fault=faults)
    def reserve(self, batch: Any, kind: int, fault: Fault | None) -> Any:
        return self._reserve(batch, kind, fault)

    def _reserve(self, batch: Any, kind: int, fault: Fault | None) -> Any:
        name, parts = batch
        names = [key for key, _, _ in parts]
        # Of no bytes there are only two variants: with a meta and without.
        values: list[Value] = [(size, variant if size else variant % 2) for _, size, variant in parts]
        sums = [_sum(value, kind) for value in values]
        lengths = [size for size, _ in values]
        metas = [_meta(value) for value in values]
        namespace = self.namespaces[name]
        reservation = self._attempt(fault, lambda: self.engine.reserve(namespace, names, lengths, sums, kind, metas))
        if reservation is not None:
            self._note_losses(())  # what was evicted to make room
            self.reserved.append(reservation)
            for key, value, extent, status in zip(names, values, reservation.extents, reservation.statuses):
                if extent is None and status == Status.PRESENT:
                    assert self.model.allows((name, key), value), "present means these very bytes"
        return reservation, name, names, values

    @rule(put=consumes(puts), spoiled=st.integers(0, 20), fault=faults)
    def commit(self, put: Any, spoiled: int, fault: Fault | None) -> None:
        self._commit(put, spoiled, fault)

    def _commit(self, put: Any, spoiled: int, fault: Fault | None) -> None:
        reservation, name, names, values = put
        if all(reservation is not known for known in self.reserved):
            return  # of an earlier process
        self.reserved = [known for known in self.reserved if known is not reservation]
        places = tuple((name, key) for key in names)
        saved = self.model.saved(places)
        for place, extent in enumerate(reservation.extents):
            if extent is not None:
                extent[:] = payload(values[place])
                if place == spoiled and len(extent):
                    extent[len(extent) // 2] ^= 1
                else:
                    self.model.put_begun(places[place], values[place])
        statuses = self._attempt(fault, lambda: self.engine.commit(reservation), places)
        if statuses is None:
            return
        self.model.restore(saved)
        for place, (key, value, status) in enumerate(zip(places, values, statuses, strict=True)):
            if status == Status.HIT:
                self.model.put_done(key, value)
            elif status == Status.BAD_DIGEST:
                assert place == spoiled
            else:
                assert status in (Status.PRESENT, Status.NO_SPACE, Status.TOO_LONG) or self.profile == "eio"
        self._note_losses(places)
        self._acknowledge(fault)

    def _acknowledge(self, fault: Fault | None) -> None:
        """Under strict the answer waits for a commit; what that covers is known when it has ended."""
        if self.level is Level.STRICT:
            ticket = self.engine.ticket()
            if ticket is None:
                self.model.synced()
            else:
                self.waiting.append((ticket, self.model.writes))
                self._attempt(fault, self._tick)

    def _tick(self) -> bool:
        self.engine.tick()
        self._settle_tickets()
        return True

    def _settle_tickets(self) -> None:
        for ticket, writes in self.waiting:
            if ticket.settled and ticket.failure is None:
                self.model.synced(writes)
        self.waiting = [waiter for waiter in self.waiting if not waiter[0].settled]

    def _sync(self) -> bool:
        self.engine.sync()
        self._note_losses(())
        self.model.synced()
        self.given_up = 0
        return True

    @rule(batch=batches, kind=st.sampled_from([0, 1]), fault=faults, late=st.booleans())
    def put(self, batch: Any, kind: int, fault: Fault | None, late: bool) -> None:
        self._commit(self._reserve(batch, kind, None if late else fault), -1, fault if late else None)

    @rule(key=keys, size=sizes, then=st.sampled_from(["", "", "settle", "write back", "end"]), seed=seeds)
    def replace(self, key: Key, size: int, then: str, seed: int) -> None:
        """One value that the key never had, or had long ago; and what comes next is often the end."""
        self.turned += 1
        self._commit(self._reserve((key[0], [(key[1], size, self.turned)]), 0, None), -1, None)
        if then == "settle":
            for _ in range(4):
                self._attempt(None, self._tick)
        elif then == "write back":
            self.disk.write_back(Random(seed))
        elif then == "end":
            self._end(power=True, seed=seed, fault=None)

    @rule(count=st.integers(1, 8), read_first=st.lists(keys, max_size=4), fault=faults)
    def turn_over(self, count: int, read_first: list[Key], fault: Fault | None) -> None:
        """Pushes older segments out, some of their records having been read."""
        for key in read_first:
            self._read([key[1]], key[0], release=True)
        for number in range(count):
            self.turned += 1
            batch = (NAMES[self.turned % 2], [(SINGLE_KEYS[self.turned % 3], 40_000, self.turned)])
            self._commit(self._reserve(batch, 0, fault if number == count // 2 else None), -1, None)

    @rule(put=consumes(puts))
    def abort(self, put: Any) -> None:
        reservation = put[0]
        if any(reservation is known for known in self.reserved):
            self.reserved = [known for known in self.reserved if known is not reservation]
            self.engine.abort(reservation)

    @rule(key=keys, more=st.lists(singles, max_size=3), fault=faults)
    def delete(self, key: Key, more: list[bytes], fault: Fault | None) -> None:
        namespace, names = self.namespaces[key[0]], [key[1], *more]
        places = tuple((key[0], name) for name in names)
        saved = self.model.saved(places)
        for place in places:
            self.model.delete_begun(place)
        statuses = self._attempt(fault, lambda: self.engine.delete(namespace, names), places)
        if statuses is None:
            return
        self.model.restore(saved)
        for place, status in zip(places, statuses, strict=True):
            if status in (Status.HIT, Status.MISS):
                self.model.delete_done(place)
            else:
                assert status == Status.NO_SPACE or self.profile == "eio"
        self._note_losses(places)
        self._acknowledge(fault)

    # -- reads -----------------------------------------------------------------------------------------------------
    @rule(target=reads, name=st.sampled_from(NAMES), names=st.lists(singles, max_size=6))
    def read(self, name: str, names: list[bytes]) -> Any:
        return self._read(names, name, release=len(self.held) >= 3)

    def _read(self, names: list[bytes], name: str, *, release: bool) -> Any:
        batch = self.engine.read(self.namespaces[name], names, [1 << 20] * len(names))
        self._note_losses(())
        copies = [None if view is None else bytes(view) for view in batch.views]
        for place, (key, view) in enumerate(zip(names, batch.views, strict=True)):
            found = None
            if view is not None:
                found = self._value_of(
                    (name, key), view, batch.digests[place], batch.digest_kinds[place], batch.metas[place]
                )
                if found is None:
                    self.model.delete_begun((name, key))
            self._found((name, key), found)
        if release:
            self.engine.release(batch)
            return None, None
        self.held.append(batch)
        return batch, copies

    def _found(self, key: Key, found: Value | None) -> None:
        assert self.model.allows(key, found), self._say(key, found)

    @rule(read=consumes(reads))
    def release(self, read: Any) -> None:
        batch, copies = read
        if all(batch is not held for held in self.held):
            return  # released, or of an earlier process
        self.held = [held for held in self.held if held is not batch]
        for view, copy in zip(batch.views, copies, strict=True):
            assert view is None or bytes(view) == copy, "bytes changed under a reader"
        self.engine.release(batch)

    @rule(name=st.sampled_from(NAMES), names=st.lists(singles, max_size=6))
    def verify(self, name: str, names: list[bytes]) -> None:
        statuses = self.engine.verify(self.namespaces[name], names)
        self._note_losses(())
        for key, status in zip(names, statuses, strict=True):
            assert status != Status.BAD_DIGEST or self.profile != "death"
            assert status != Status.HIT or self.model.entries[name, key].ever

    # -- the rest --------------------------------------------------------------------------------------------------
    @rule(what=st.sampled_from(["tick", "tick", "sync", "write back", "drop caches"]), fault=faults, seed=seeds)
    def background(self, what: str, fault: Fault | None, seed: int) -> None:
        """What a lane's loop and a kernel do by themselves."""
        if what == "tick":
            self._attempt(fault, self._tick)
        elif what == "sync":
            self._attempt(fault, self._sync)
        elif what == "write back":
            self.disk.write_back(Random(seed))
        elif self._quiet():
            self.disk.drop(Random(seed), self._idle_extents())

    @rule(name=st.sampled_from([*NAMES, "three", "four"]), identity=st.sampled_from([b"{}", b"", b"[1]"]), fault=faults)
    def open_namespace(self, name: str, identity: bytes, fault: Fault | None) -> None:
        """An identity that was recorded stays; one whose record was cut off may be there or not."""
        self._attempt(fault, lambda: self._open_namespace(name, identity))

    def _quiet(self) -> bool:
        return not self.held and not self.reserved

    def _idle_extents(self) -> list[tuple[int, int]]:
        return [
            (segment.address, segment.address + segment.end)
            for segment in self.engine._pool.segments
            if segment.phase in (Phase.SEALED, Phase.FREE)
        ]

    @precondition(lambda self: self.profile == "rot" and self._quiet())
    @rule(key=keys, at=st.integers(0, 100_000), bit=st.integers(0, 7))
    def rot_value(self, key: Key, at: int, bit: int) -> None:
        """A bit of one value: that value is gone, and nothing else is."""
        located = self.engine._reader.locate(self.namespaces[key[0]], key[1])
        self._note_losses(())
        if located is None or located[4].value_bytes == 0 or located[2].phase is not Phase.SEALED:
            return
        place = located[3] + located[4].layout(64)[0] + at % located[4].value_bytes
        if self.disk.flip(place, bit):
            self.tally.injected["flip"] += 1
            self.model.delete_begun(key)

    @precondition(lambda self: self.profile == "rot" and self._quiet())
    @rule(seed=seeds)
    def rot_anywhere(self, seed: int) -> None:
        rng = Random(seed)
        first, end = rng.choice(self._idle_extents() or [(0, 0)])
        at = first + rng.choice((0, 0, SEGMENT_BYTES - PAGE_BYTES, rng.randrange(SEGMENT_BYTES))) + rng.randrange(256)
        if at < end and self.disk.flip(at, rng.randrange(8)):
            self.tally.injected["flip"] += 1
            self.model.damaged()

    @precondition(lambda self: self.profile == "eio" and self._quiet())
    @rule(seed=seeds)
    def spoil_page(self, seed: int) -> None:
        rng = Random(seed)
        first, end = rng.choice(self._idle_extents() or [(0, 0)])
        if end and self.disk.spoil(rng.randrange(first, end) // PAGE_BYTES):
            self.tally.injected["bad page"] += 1

    @precondition(lambda self: self.profile == "eio" and self.disk.bad.any())
    @rule()
    def heal(self) -> None:
        """The drive is put back: it is opened anew, and what it holds is found again."""
        self.disk.heal()
        self._stop_and_start(None)

    # -- what holds after every step ---------------------------------------------------------------------------------
    def _places(self) -> dict[Key, int]:
        """The keys in the index, and where each lies."""
        found = {}
        for key in KEYS:
            place = self.engine._index.get(hash_key(key[1], self.namespaces[key[0]].hash))
            if place is not None:
                found[key] = place_address(place)
        return found

    def _losses(self) -> int:
        counters = self.engine._counters
        return counters.evicted_records + counters.corrupt_records + counters.unreadable_records

    def _note_losses(self, touched: tuple[Key, ...]) -> None:
        """Accounts for every key that has gone since the last look; ``touched`` were put or deleted meanwhile."""
        before, self.present = self.present, self._places()
        gone = [key for key in before if key not in self.present and key not in touched]
        came = [key for key in self.present if key not in before and key not in touched]
        assert not came, f"{came} were not there, and nobody put them"
        evicted = self.engine._counters.evicted_segments
        self.given_up, self.evicted = self.given_up + evicted - self.evicted, evicted
        losses = self._losses()
        assert len(gone) <= losses - self.losses, f"{gone} have gone, and nothing was counted"
        self.losses = losses
        for key in gone:
            self.model.delete_begun(key)
        for key, place in self.present.items():
            if key in before and before[key] != place and key not in touched and self.level is not Level.STRICT:
                self.model.may_go_with_power(key)

    @invariant()
    def the_counts_agree(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.tally.steps += 1
        self._note_losses(())
        engine, usage = self.engine, self.engine.usage()
        assert usage["used_bytes"] <= usage["capacity_bytes"] <= CAPACITY_BYTES
        assert usage["records"] == len(self.present)
        assert usage["live_bytes"] <= usage["used_bytes"]
        assert usage["reinserted_bytes"] <= REINSERT_SHARE_MAX * usage["user_bytes"] + 1
        if self.profile == "death":
            assert usage["corrupt_records"] == usage["unreadable_records"] == usage["segments"]["quarantined"] == 0
        for name in NAMES:
            names = [key for owner, key in KEYS if owner == name]
            found = engine.exists(self.namespaces[name], names)
            for key, status in zip(names, found, strict=True):
                assert (status == Status.HIT) == ((name, key) in self.present)
            leading = (found + bytes(1)).index(Status.MISS)
            assert engine.lookup(self.namespaces[name], names) == leading


def history_settings(histories: int, steps: int, *, shrink: bool) -> settings:
    """Hypothesis' settings for so many histories of so many steps."""
    return settings(
        max_examples=histories,
        stateful_step_count=steps,
        phases=[hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if shrink else [])],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
