# SPDX-License-Identifier: Apache-2.0
"""The lives of a simulated store: processes that start and end, and what the model says may be there after each.

What every history stands on; what may happen in one is in ``traffic.py`` and ``simulation.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar, Final
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from memkv_core.digests import digest
from memkv_core.errors import StorageError
from memkv_server.engine.base import Namespace, ReadBatch
from memkv_server.engine.durability import Level, Ticket
from memkv_server.engine.health import DriveState
from memkv_server.engine.index import place_address
from memkv_server.engine.segment import hash_key
from memkv_server.engine.superblock import plan_geometry
from memkv_server.testing.disk import SECTOR_BYTES, Disk
from memkv_server.testing.draws import (
    KEYS,
    NAMES,
    Key,
    payload,
    seeds,
    value_digest,
    value_meta,
)
from memkv_server.testing.faulty_drive import Fault, FaultyDrive, ProcessEndedError
from memkv_server.testing.model import Model, Value
from memkv_server.testing.simulated_engine import SimulatedEngine

CAPACITY_BYTES: Final = 640 << 10  # eight segments or nine: a store turns over within some ten puts
SEGMENT_BYTES: Final = 64 << 10


@dataclass
class Tally:
    """What was done over many histories, for whoever asserts how much that was."""

    steps: int = 0
    injected: Counter[str] = field(default_factory=Counter)  # faults by kind


class Lives(RuleBasedStateMachine):
    """One store, from its first process to its last."""

    tally: ClassVar[Tally] = Tally()
    profile: ClassVar[str] = "strict"

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
            if value[0] == len(view) and meta == value_meta(value) and bytes(view) == payload(value):
                assert sum_ == value_digest(value, kind)
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

    def _settle_tickets(self) -> None:
        for ticket, writes in self.waiting:
            if ticket.settled and ticket.failure is None:
                self.model.synced(writes)
        self.waiting = [waiter for waiter in self.waiting if not waiter[0].settled]

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

    # -- what has gone ---------------------------------------------------------------------------------------------
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
