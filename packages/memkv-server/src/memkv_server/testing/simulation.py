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

from random import Random
from typing import Any, Final

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, invariant, precondition, rule

from memkv_server.engine.base import Status
from memkv_server.engine.limits import REINSERT_SHARE_MAX
from memkv_server.engine.pool import Phase
from memkv_server.testing.disk import PAGE_BYTES
from memkv_server.testing.draws import (
    KEYS,
    NAMES,
    SINGLE_KEYS,
    Key,
    batches,
    faults,
    keys,
    seeds,
    singles,
    sizes,
)
from memkv_server.testing.faulty_drive import Fault
from memkv_server.testing.lives import CAPACITY_BYTES, SEGMENT_BYTES
from memkv_server.testing.traffic import Traffic

PROFILES: Final = ("death", "power", "strict", "eio", "rot")


class Simulation(Traffic):
    """A history: what hypothesis may do next, and what must hold after each step."""

    reads: Bundle[Any] = Bundle("reads")
    puts: Bundle[Any] = Bundle("puts")

    @rule(fault=faults)
    def stop_and_start(self, fault: Fault | None) -> None:
        self._stop_and_start(fault)

    @rule(power=st.booleans(), seed=seeds, fault=faults)
    def end(self, power: bool, seed: int, fault: Fault | None) -> None:
        self._end(power=power, seed=seed, fault=fault)

    @rule(target=puts, batch=batches, kind=st.sampled_from([0, 1]), fault=faults)
    def reserve(self, batch: Any, kind: int, fault: Fault | None) -> Any:
        return self._reserve(batch, kind, fault)

    @rule(put=consumes(puts), spoiled=st.integers(0, 20), fault=faults)
    def commit(self, put: Any, spoiled: int, fault: Fault | None) -> None:
        self._commit(put, spoiled, fault)

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

    @rule(target=reads, name=st.sampled_from(NAMES), names=st.lists(singles, max_size=6))
    def read(self, name: str, names: list[bytes]) -> Any:
        return self._read(names, name, release=len(self.held) >= 3)

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
