# SPDX-License-Identifier: Apache-2.0
"""The engine's ``Drive`` over a ``Disk``, with one fault armed at a time.

Every access counts: each call of the drive, and each store to its memory by index or slice (a header, a state byte, a
footer). A fault is armed for the n-th access from now:

==============  ====================================================================================================
``die``         the process ends before that access, as by kill -9; ``ProcessEndedError``
``cut``         the power fails before it; ``ProcessEndedError``
``write_back``  the kernel writes some dirty pages back at this moment, and all goes on
``eio``         the next access that may fail does: a page cannot be made writable, a sync fails with
                some pages written, an append to the registry is short
==============  ====================================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.engine.health import DriveHealth, DriveState
from memkv_server.engine.mapping import Window
from memkv_server.engine.superblock import Geometry
from memkv_server.testing.disk import Disk

FAULT_KINDS: Final = ("die", "cut", "write_back", "eio")


class ProcessEndedError(Exception):
    """The process that used the drive is no more. ``power``: the cache went with it."""

    def __init__(self, power: bool) -> None:
        super().__init__("power cut" if power else "process death")
        self.power = power


@dataclass(frozen=True)
class Fault:
    """What happens at the ``after``-th access; ``seed`` decides which pages it strikes."""

    kind: str
    after: int
    seed: int


class FaultyDrive:
    """A drive for the life of one process. ``injected`` counts the faults that took place."""

    mode = "file"
    buffers_writes = False
    path: str | None = "simulated"
    record_bytes_max: int | None = None

    def __init__(self, disk: Disk, injected: Counter[str]) -> None:
        self.disk = disk
        self.geometry: Geometry = disk.geometry
        self.health = DriveHealth()
        self.injected = injected
        self._fault: Fault | None = None
        self._left = 0
        self._failing = False  # an EIO is due
        self._ended = False
        self._syncing: list[int] = []
        disk.memory.before_store = self._store
        self._memory = disk.memory
        self._view = memoryview(disk.memory)

    # -- faults --------------------------------------------------------------------------------------------------------
    def arm(self, fault: Fault | None) -> None:
        """Arms a fault in place of the one that was armed; None: nothing more happens."""
        self._fault, self._failing = fault, False
        self._left = fault.after if fault is not None else 0

    def end(self, *, power: bool, rng: Random) -> None:
        """Ends the process here and now."""
        self._ended = True
        self._memory.before_store = None
        if power:
            self.disk.cut_power(rng)
        else:
            self.disk.end_process()

    def _access(self) -> None:
        if self._fault is None or self._ended:
            return
        if self._left > 0:
            self._left -= 1
            return
        fault, self._fault = self._fault, None
        rng = Random(fault.seed)
        self.injected[fault.kind] += 1
        if fault.kind == "write_back":
            self.disk.write_back(rng)
        elif fault.kind == "eio":
            self._failing, self._rng = True, rng
        else:
            self.end(power=fault.kind == "cut", rng=rng)
            raise ProcessEndedError(fault.kind == "cut")

    def _store(self, at: int) -> None:
        assert not self.disk.is_cold(at, 1), f"a store at {at}, which is not in memory: it may meet a bad page"
        self._access()

    def _fail(self, reason: str) -> StorageError:
        self._failing = False
        self.health.write_failed(reason)
        return StorageError(f"simulated: {reason}", remedy="none: it was injected")

    # -- Drive ---------------------------------------------------------------------------------------------------------
    def window(self, slot: int) -> Window:
        """See ``Drive``."""
        return Window(self._memory, self._view, slot * self.geometry.segment_bytes)

    def prepare(self, slot: int, start: int, end: int) -> None:
        """See ``Drive``."""
        self._access()
        origin = slot * self.geometry.segment_bytes
        if self._ended:
            return
        if self._failing or not self.disk.warm(origin + start, end - start):
            raise self._fail(f"offset {origin + start} cannot be written")

    def discard(self, slot: int, start: int, end: int) -> None:
        """See ``Drive``."""

    def missing(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """See ``Drive``."""
        self._access()
        return [position for position, extent in enumerate(extents) if self.disk.is_cold(*extent)]

    def hold(self, extents: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
        """See ``Drive``."""
        return self.missing(extents), []

    def release(self, extents: Sequence[tuple[int, int]]) -> None:
        """See ``Drive``."""

    def fetch(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """See ``Drive``."""
        self._access()
        return [position for position, extent in enumerate(extents) if not self.disk.warm(*extent)]

    def changed(self, extents: Sequence[tuple[int, int]]) -> None:
        """See ``Drive``."""

    def written(self) -> None:
        """See ``Drive``."""
        self._access()

    def write_back(self) -> None:
        """See ``Drive``."""

    def begin_sync(self, rng: Random) -> None:
        """A sync begins: some pages are written at once, the others by the time it ends."""
        if not self._ended:
            self._syncing = self.disk.dirty().tolist()
            self.disk.write(rng.sample(self._syncing, rng.randint(0, len(self._syncing))))

    def end_sync(self) -> None:
        """It ends, by ``sync`` for what was dirty when it began: what was written since may not be on the medium."""
        pages, self._syncing = self._syncing, []
        self._sync([page for page in pages if not self.disk.cold[page]])  # a page that was dropped was clean

    def sync(self) -> None:
        """See ``Drive``."""
        self._sync(None)

    def _sync(self, pages: list[int] | None) -> None:
        self._access()
        if self._ended:
            return
        if self._failing:
            self.disk.write_back(self._rng)
            raise self._fail("a sync failed")
        self.disk.write(self.disk.dirty().tolist() if pages is None else pages)

    def registry_load(self) -> bytes:
        """See ``Drive``."""
        return bytes(self.disk.registry)

    def registry_append(self, at: int, data: bytes) -> None:
        """See ``Drive``. Written through, and torn where the process ends or the drive fails in the middle of it."""
        half = len(data) // 2
        self._append(at, data[:half])
        self._append(at + half, data[half:])

    def _append(self, at: int, data: bytes) -> None:
        self._access()
        if self._failing:
            raise self._fail(f"a short write at offset {at} of the registry")
        if not self._ended:
            self.disk.registry[at : at + len(data)] = data

    def details(self) -> dict[str, int]:
        """See ``Drive``."""
        return {}

    def probe(self) -> bool:
        """See ``Drive``."""
        return not self._failing

    def close(self) -> None:
        """See ``Drive``. A drive that failed leaves nothing in the cache, as the real one."""
        if self._ended:
            return
        self._ended = True
        self._memory.before_store = None
        if self.health.state is DriveState.ONLINE:
            self.disk.sync()
            self.disk.end_process()
        else:
            self.disk.forget()
