# SPDX-License-Identifier: Apache-2.0
"""The space segments live in. This module and ``folder.py`` are the only ones that open files or devices for storage.

A drive is one linear space of equal segments, and beside it a small durable log, the registry of namespaces. The
engine reads and writes a segment through its *window*: a buffer, and the position of the segment's first byte in it.
The window of every segment lies in one mapping of the whole space. What is read must be in memory first: see
``hold`` and ``fetch``, and ``mapping.py`` for why.

One file for all segments and not one each: Python's ``mmap`` keeps a descriptor per mapping, so that 1,024 segments
would meet the usual limit on open files; and a raw block device is one linear space as well.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from memkv_core.errors import StorageError
from memkv_server.engine.folder import FORMAT_FILE, LOCK_FILE, REGISTRY_FILE, SEGMENTS_FILE, explained
from memkv_server.engine.health import DriveHealth, DriveState
from memkv_server.engine.limits import SYNC_INTERVAL_S
from memkv_server.engine.mapping import Mapping, Window
from memkv_server.engine.store import Store, open_folder
from memkv_server.engine.superblock import Geometry, plan_geometry

Extent = tuple[int, int]  # (address on the drive, length), in bytes
RECORD_ALIGNMENT: Final = 64

__all__ = ["FORMAT_FILE", "LOCK_FILE", "REGISTRY_FILE", "SEGMENTS_FILE", "Drive", "FileDrive", "MemoryDrive", "Window"]


class NoRoomError(StorageError):
    """All memory for writes is in use: the put is refused as NO_SPACE, and nothing has failed."""


class Drive(Protocol):
    """What the engine asks of a drive. One thread calls it."""

    mode: str  # "file", "direct" or "memory"
    path: str | None
    geometry: Geometry
    health: DriveHealth
    record_bytes_max: int  # of one record, beside what its segment allows

    def window(self, slot: int) -> Window: ...

    def prepare(self, slot: int, start: int, end: int) -> None:
        """Makes this part of a segment ready to be written, before it is. Raises StorageError, or NoRoomError."""

    def hold(self, extents: Sequence[Extent]) -> tuple[list[Extent], list[int]]:
        """Keeps extents in memory until ``release``; returns what must be fetched first, and who finds no room.

        The first are extents, of no more than what was asked for (whole pages of it); the second positions, of which
        nothing is held.
        """

    def fetch(self, extents: Sequence[Extent]) -> list[Extent]:
        """Brings into memory what ``hold`` returned; the parts that cannot be read. Any thread, the GIL free."""

    def arrived(self, extents: Sequence[Extent], failed: Sequence[Extent]) -> None:
        """Says that ``fetch`` has returned."""

    def release(self, extents: Sequence[Extent]) -> None:
        """The end of ``hold`` of these extents."""

    def written(self, extents: Sequence[Extent]) -> None:
        """These bytes have changed for good: they are on their way to the medium within a second."""

    def discarded(self, extents: Sequence[Extent]) -> None:
        """These were prepared, and nobody wants what is in them."""

    def land(self) -> None:
        """Returns when all bytes written so far outlive this process; whether they did, ``health`` says."""

    def sync(self) -> None:
        """Returns when all bytes written so far are on the medium. Raises StorageError."""

    def registry_load(self) -> bytes:
        """The registry, ``geometry.registry_bytes`` long; zeros where nothing was written."""

    def registry_append(self, at: int, data: bytes) -> None:
        """Writes into the registry; durable on return. Raises StorageError."""

    def probe(self) -> bool:
        """Whether a trial write reaches the medium."""

    def details(self) -> dict[str, int]:
        """More numbers for ``usage``."""

    def close(self) -> None:
        """Syncs and lets go. Idempotent."""


class MemoryDrive:
    """Anonymous memory: fast, and gone with the process."""

    mode = "memory"
    path: str | None = None

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.health = DriveHealth()
        self.record_bytes_max = geometry.segment_bytes
        try:
            memory = mmap.mmap(-1, geometry.data_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"memory: {geometry.data_bytes} bytes cannot be mapped ({error})", remedy="lower the capacity"
            ) from error
        with contextlib.suppress(OSError):  # a kernel built without huge pages; it works with small ones
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._mapping = Mapping(memory)
        self._registry = bytearray(geometry.registry_bytes)

    @classmethod
    def open(cls, capacity_bytes: int, segment_bytes: int | None = None) -> MemoryDrive:
        """Checks the capacity against the memory there is. Raises StorageError."""
        geometry = plan_geometry(capacity_bytes, segment_bytes, RECORD_ALIGNMENT, "memory")
        available = _available_memory_bytes()
        if available is not None and geometry.store_bytes > available:
            raise StorageError(
                f"memory: {geometry.store_bytes} bytes are needed and {available} are available",
                remedy="lower the capacity",
            )
        return cls(geometry)

    def window(self, slot: int) -> Window:
        """The one mapping, and where the segment begins in it."""
        return Window(self._mapping.memory, self._mapping.view, slot * self.geometry.segment_bytes)

    def prepare(self, slot: int, start: int, end: int) -> None:
        """Nothing to do: a page faults once in its life."""

    def hold(self, extents: Sequence[Extent]) -> tuple[list[Extent], list[int]]:
        """Nothing is missing."""
        return [], []

    def fetch(self, extents: Sequence[Extent]) -> list[Extent]:
        """Nothing to do."""
        return []

    def arrived(self, extents: Sequence[Extent], failed: Sequence[Extent]) -> None:
        """Nothing to do."""

    def release(self, extents: Sequence[Extent]) -> None:
        """Nothing to do."""

    def written(self, extents: Sequence[Extent]) -> None:
        """Nothing to do: memory is all there is."""

    def discarded(self, extents: Sequence[Extent]) -> None:
        """Nothing to do."""

    def land(self) -> None:
        """Nothing to do."""

    def sync(self) -> None:
        """Nothing to do."""

    def registry_load(self) -> bytes:
        """The registry's bytes."""
        return bytes(self._registry)

    def registry_append(self, at: int, data: bytes) -> None:
        """Lasts as long as the rest."""
        self._registry[at : at + len(data)] = data

    def probe(self) -> bool:
        """It does."""
        return True

    def details(self) -> dict[str, int]:
        """Nothing more."""
        return {}

    def close(self) -> None:
        """Gives the memory back, as far as no view of it is in use."""
        self._mapping.close()


class FileDrive:
    """A folder on any filesystem: preallocated, mapped, flushed by a thread of its own.

    The thread does one thing, ``fdatasync`` at most every second while there is something to sync; the GIL is free
    meanwhile. When it fails the drive takes no more writes: the kernel reports a lost page once, and what it lost
    cannot be told.
    """

    mode = "file"

    def __init__(self, store: Store) -> None:
        self.path: str | None = store.path
        self.geometry = store.geometry
        self.health = DriveHealth()
        self.record_bytes_max = store.geometry.segment_bytes
        self._store = store
        self._closed = False
        try:
            with explained(Path(store.name)):
                self._mapping = Mapping(mmap.mmap(store.fd, store.geometry.data_bytes))
        except BaseException:
            store.close()
            raise
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flush_forever, name="memkv-drive-sync", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        capacity_bytes: int,
        segment_bytes: int | None = None,
        uuid: bytes | None = None,
    ) -> FileDrive:
        """Opens the store in a folder, or makes one there; see ``open_folder``. Raises StorageError."""
        return cls(open_folder(path, capacity_bytes, segment_bytes, RECORD_ALIGNMENT, uuid))

    def window(self, slot: int) -> Window:
        """The one mapping, and where the segment begins in it."""
        return Window(self._mapping.memory, self._mapping.view, slot * self.geometry.segment_bytes)

    def prepare(self, slot: int, start: int, end: int) -> None:
        """Makes the pages writable in one call. Raises StorageError where the medium does not let it."""
        origin = slot * self.geometry.segment_bytes
        if not self._mapping.prepare(origin + start, origin + end):
            reason = f"{self._store.name}: offset {origin + start} cannot be written"
            self.health.write_failed(reason)
            raise StorageError(reason, remedy="check the drive")

    def hold(self, extents: Sequence[Extent]) -> tuple[list[Extent], list[int]]:
        """What is not in the page cache. Nothing is held there: the kernel drops and reads again as it sees fit."""
        return [extents[position] for position in self._mapping.missing(extents)], []

    def fetch(self, extents: Sequence[Extent]) -> list[Extent]:
        """Has the kernel read it all side by side, and waits for it."""
        return [extents[position] for position in self._mapping.fetch(extents)]

    def arrived(self, extents: Sequence[Extent], failed: Sequence[Extent]) -> None:
        """Nothing to do."""

    def release(self, extents: Sequence[Extent]) -> None:
        """Nothing to do."""

    def written(self, extents: Sequence[Extent]) -> None:
        """Wakes the thread that syncs."""
        if not self._dirty.is_set():
            self._dirty.set()

    def discarded(self, extents: Sequence[Extent]) -> None:
        """Nothing to do."""

    def land(self) -> None:
        """Nothing to do: the page cache outlives the process."""

    def sync(self) -> None:
        """fdatasync of the segments, now and here. Raises StorageError."""
        with explained(Path(self._store.name)):
            os.fdatasync(self._store.fd)

    def registry_load(self) -> bytes:
        """The registry's bytes."""
        return self._store.registry_load()

    def registry_append(self, at: int, data: bytes) -> None:
        """Durable on return; it does not wait for the segments."""
        self._store.registry_append(at, data)

    def probe(self) -> bool:
        """Writes a block of the registry again, and waits until it is on the medium."""
        return self._store.probe()

    def details(self) -> dict[str, int]:
        """Nothing: the page cache is the kernel's."""
        return {}

    def close(self) -> None:
        """Stops the thread, syncs what is left, unmaps and unlocks."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._dirty.set()
        self._thread.join()
        self._mapping.close()
        if self.health.state is not DriveState.ONLINE:
            # What the page cache holds may never have reached the medium: who opens it next is to see what did.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._store.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._store.close()

    def _flush_forever(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            try:
                os.fdatasync(self._store.fd)
            except OSError as error:
                self.health.write_failed(f"{self._store.name}: {error.strerror}")
            if self._stop.wait(SYNC_INTERVAL_S):
                if self._dirty.is_set():
                    continue
                return


def _available_memory_bytes() -> int | None:
    """What the kernel says can be used without swapping, or less where a control group allows less; None: unknown."""
    bounds = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        bounds.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with contextlib.suppress(OSError, ValueError):
        bounds.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))  # "max": no bound
    return min(bounds, default=None)
