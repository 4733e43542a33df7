# SPDX-License-Identifier: Apache-2.0
"""The engine against a dictionary, over random histories with eviction, held reads, open puts, restarts and crashes.

A crash is a copy of the files of a store that is still open: what a process that dies at that moment leaves. The
model allows a miss where something was evicted or damaged; it never allows other bytes than the newest put's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from memkv_core.digests import digest
from memkv_core.testing.engine_tests import block
from memkv_server.engine import Namespace, ReadBatch, SegmentEngine, Status, open_engine
from memkv_server.engine.direct import DirectDrive
from memkv_server.engine.limits import REINSERT_SHARE_MAX
from memkv_server.engine.store import DIRECT_ALIGNMENT, open_folder

CAPACITY = 640 << 10  # eight segments: one is open, one kept free, and the rest turns over within a few puts
SEGMENT = 64 << 10
DIRECT_FACTOR = 4  # records take more room in mode direct
POOL = 1 << 20  # less than half of that store
STORED = (Status.HIT, Status.PRESENT)

keys = st.sampled_from([b"k%d" % number for number in range(12)] + [b"long" * 128])
sizes = st.sampled_from([0, 1, 64, 1000, 9_000, 30_000, 59_000])
kinds = st.sampled_from([0, 1])
Batch = list[tuple[bytes, int, int]]  # key, size, variant
batches = st.lists(st.tuples(keys, sizes, st.integers(0, 3)), min_size=1, max_size=6)


class StoreMachine(RuleBasedStateMachine):
    """``model`` is what was acknowledged last under each key; ``misses_allowed`` where a miss is fair too."""

    reads: Bundle[Any] = Bundle("reads")
    puts: Bundle[Any] = Bundle("puts")

    @initialize(mode=st.sampled_from(["file", "file", "memory", "direct", "direct"]))
    def open(self, mode: str) -> None:
        self.mode: Any = mode
        self.capacity = CAPACITY * (DIRECT_FACTOR if mode == "direct" else 1)
        self.folder = Path(tempfile.mkdtemp(prefix="memkv-stateful-"))
        self.store = self.folder / "0"
        self.model: dict[bytes, bytes] = {}
        self.damaged: set[bytes] = set()
        self.evicted = 0
        self.churned = 0
        self.held: list[ReadBatch] = []
        self.reserved: list[Any] = []
        self._open()

    def _open(self) -> None:
        if self.mode == "direct":
            store = open_folder(self.store, self.capacity, SEGMENT * DIRECT_FACTOR, DIRECT_ALIGNMENT, direct=True)
            self.engine: SegmentEngine = SegmentEngine.open(DirectDrive(store, POOL))
        else:
            self.engine = open_engine(self.mode, self.store, self.capacity, SEGMENT)
        namespace = self.engine.open_namespace("n", b"{}")
        assert namespace is not None
        self.namespace: Namespace = namespace

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- puts -----------------------------------------------------------------------------------------------------
    @rule(target=puts, batch=batches, kind=kinds, with_meta=st.booleans())
    def reserve(self, batch: Batch, kind: int, with_meta: bool) -> Any:
        return self.reserve_now(batch, kind, with_meta)

    def reserve_now(self, batch: Batch, kind: int, with_meta: bool) -> Any:
        names = [key for key, _, _ in batch]
        # Few distinct values a key, so that some are PRESENT.
        values = [block(len(key) * 10 + variant, size) for key, size, variant in batch]
        digests = [digest([memoryview(value)], kind) for value in values]
        metas = [b"meta of " + key[:20] for key in names] if with_meta else None
        reservation = self.engine.reserve(self.namespace, names, list(map(len, values)), digests, kind, metas)
        for place, extent in enumerate(reservation.extents):
            if extent is None:
                status = reservation.statuses[place]
                assert status in (Status.PRESENT, Status.NO_SPACE, Status.TOO_LONG)
                if status == Status.PRESENT:
                    assert self.model[names[place]] == values[place], "present means these very bytes"
            else:
                assert len(extent) == len(values[place])
        self.reserved.append(reservation)
        return reservation, names, values

    @rule(put=consumes(puts), spoiled=st.integers(0, 20))
    def commit(self, put: Any, spoiled: int) -> None:
        self.commit_now(put, spoiled)

    def commit_now(self, put: Any, spoiled: int = -1) -> None:
        reservation, names, values = put
        if reservation not in self.reserved:
            return  # lost in a crash
        self.reserved.remove(reservation)
        for place, extent in enumerate(reservation.extents):
            if extent is not None:
                extent[:] = values[place]
                if place == spoiled and len(extent):
                    extent[len(extent) // 2] ^= 1
        statuses = self.engine.commit(reservation)
        for place, (key, value, status) in enumerate(zip(names, values, statuses, strict=True)):
            if status == Status.HIT:
                self.model[key] = value
                self.damaged.discard(key)
            elif status == Status.BAD_DIGEST:
                assert place == spoiled
            else:
                assert status in (Status.PRESENT, Status.NO_SPACE, Status.TOO_LONG)

    @rule(batch=batches, kind=kinds, with_meta=st.booleans())
    def put(self, batch: Batch, kind: int, with_meta: bool) -> None:
        self.commit_now(self.reserve_now(batch, kind, with_meta))

    @rule(count=st.integers(1, 8), read_first=st.lists(keys, max_size=4))
    def turn_over(self, count: int, read_first: list[bytes]) -> None:
        """Pushes older segments out, some of their records having been read."""
        self.engine.release(self.engine.read(self.namespace, read_first, [1 << 20] * len(read_first)))
        for _ in range(count):
            self.churned += 1
            batch = [(b"k%d" % (self.churned % 3), 40_000, self.churned)]
            self.commit_now(self.reserve_now(batch, 0, False))

    @rule(put=consumes(puts))
    def abort(self, put: Any) -> None:
        if put[0] in self.reserved:
            self.reserved.remove(put[0])
            self.engine.abort(put[0])

    @rule(names=st.lists(keys, min_size=1, max_size=4))
    def delete(self, names: list[bytes]) -> None:
        for key, status in zip(names, self.engine.delete(self.namespace, names), strict=True):
            if status in (Status.HIT, Status.MISS):
                assert status == Status.MISS or key in self.model
                self._may_miss(key, status == Status.MISS)
                self.model.pop(key, None)
            else:
                assert status == Status.NO_SPACE

    # -- reads ----------------------------------------------------------------------------------------------------
    @rule(target=reads, names=st.lists(keys, min_size=1, max_size=8))
    def hold(self, names: list[bytes]) -> Any:
        crowded = self.engine.usage()["crowded_out_records"]
        batch = self.engine.read(self.namespace, names, [1 << 20] * len(names))
        crowded = self.engine.usage()["crowded_out_records"] - crowded
        copies = [None if view is None else bytes(view) for view in batch.views]
        for key, value, sum_, kind in zip(names, copies, batch.digests, batch.digest_kinds, strict=True):
            if value is None or digest([memoryview(value)], kind) != sum_:
                assert value is None or key in self.damaged
                self._may_miss(key, value is None and not crowded)
            else:
                assert value == self.model.get(key), f"{key!r} holds other bytes"
        assert not crowded or (self.mode == "direct" and self.held)
        if len(self.held) >= 3:
            self.engine.release(batch)
            return multiple()
        self.held.append(batch)
        return batch, copies

    @rule(read=consumes(reads))
    def release(self, read: Any) -> None:
        batch, copies = read
        if all(batch is not held for held in self.held):
            return  # of before a restart
        self.held = [held for held in self.held if held is not batch]
        for view, copy in zip(batch.views, copies, strict=True):
            assert view is None or bytes(view) == copy, "bytes changed under a reader"
        self.engine.release(batch)

    @rule(names=st.lists(keys, min_size=1, max_size=8))
    def verify(self, names: list[bytes]) -> None:
        for key, status in zip(names, self.engine.verify(self.namespace, names), strict=True):
            if status == Status.BAD_DIGEST:
                assert key in self.damaged
            else:
                assert status == Status.MISS or (key in self.model and key not in self.damaged)

    def _may_miss(self, key: bytes, missed: bool) -> None:
        """A miss is fair for what was never put, was damaged, or when anything was ever evicted."""
        if missed and key in self.model:
            assert self._evicted() or key in self.damaged, f"{key!r} is gone"

    def _evicted(self) -> int:
        return int(self.evicted + self.engine.usage()["evicted_records"])

    # -- the rest -------------------------------------------------------------------------------------------------
    @rule()
    def tick(self) -> None:
        self.engine.tick()

    @rule(key=keys, at=st.integers(0, 100_000))
    def damage(self, key: bytes, at: int) -> None:
        if self.mode == "direct":
            return  # what is changed in the pool is not changed on the drive
        batch = self.engine.read(self.namespace, [key], [1 << 20])
        view = batch.views[0]
        if view is not None and len(view) and not self.held:  # what is held is compared with its copy
            view[at % len(view)] ^= 1 << at % 8
            self.damaged.add(key)
        self.engine.release(batch)

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        if self.mode == "memory":
            return
        self.evicted = self._evicted()
        if crash:
            while (ticket := self.engine.ticket()) is not None and not ticket.settled:
                self.engine.tick()  # only then it was acknowledged
            source, self.store = self.store, self.folder / str(int(self.store.name) + 1)
            shutil.copytree(source, self.store)
            self.engine.close()
            shutil.rmtree(source)
        else:
            self.engine.close()
        self.held.clear()
        self.reserved.clear()
        self._open()

    @invariant()
    def bounds_hold_and_counts_agree(self) -> None:
        if not hasattr(self, "engine"):
            return
        usage = self.engine.usage()
        assert usage["used_bytes"] <= usage["capacity_bytes"] <= self.capacity
        assert usage["records"] == usage["namespaces"][0]["records"] <= len(self.model)
        assert usage["live_bytes"] == usage["namespaces"][0]["bytes"] <= usage["used_bytes"]
        assert usage["reinserted_bytes"] <= REINSERT_SHARE_MAX * usage["user_bytes"] + 1
        names = [b"k%d" % number for number in range(12)]
        found = self.engine.exists(self.namespace, names)
        for key, status in zip(names, found, strict=True):
            assert status == Status.MISS or key in self.model, f"{key!r} is a phantom"
        leading = (found + bytes(1)).index(Status.MISS)
        assert self.engine.lookup(self.namespace, names) == leading


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    report_multiple_bugs=False,
)
