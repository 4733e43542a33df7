# SPDX-License-Identifier: Apache-2.0
"""The space segments live in. ``store.py`` and ``folder.py`` are the only ones that open files or devices for storage.

A drive is one linear space of equal segments, and beside it a small durable log, the registry of namespaces. The
engine reads and writes a segment through its *window*: a buffer, and the position of the segment's first byte in it.
The window of every segment lies in one mapping of the whole space. What is read must be in memory first: see
``missing`` and ``fetch``, and ``mapping.py`` for why.

One file for all segments and not one each: Python's ``mmap`` keeps a descriptor per mapping, so that 1,024 segments
would meet the usual limit on open files; and a raw block device is one linear space as well.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from memkv_core.errors import StorageError
from memkv_server.engine.folder import FORMAT_FILE, LOCK_FILE, REGISTRY_FILE, SEGMENTS_FILE, explained
from memkv_server.engine.health import DriveHealth, DriveState
from memkv_server.engine.mapping import Mapping, Window
from memkv_server.engine.store import Store, open_folder
from memkv_server.engine.superblock import Geometry, plan_geometry
from memkv_server.engine.syncer import Syncer

RECORD_ALIGNMENT: Final = 64

__all__ = [
    "FORMAT_FILE",
    "LOCK_FILE",
    "REGISTRY_FILE",
    "SEGMENTS_FILE",
    "Drive",
    "Extent",
    "FileDrive",
    "MemoryDrive",
    "NoRoomError",
    "Window",
]

Extent = tuple[int, int]  # (address on the drive, length), in bytes


class NoRoomError(StorageError):
    """The memory that a drive writes through is in use; the drive itself is fine."""


class Drive(Protocol):
    """What the engine asks of a drive. One thread calls it, but for what says otherwise."""

    mode: str  # "file", "direct" or "memory"
    buffers_writes: bool  # what was written is lost with this process until ``write_back`` has returned
    path: str | None
    geometry: Geometry
    health: DriveHealth
    record_bytes_max: int | None  # the longest record it takes, beside what a segment holds

    def window(self, slot: int) -> Window: ...

    def prepare(self, slot: int, start: int, end: int) -> None:
        """Makes this part of a segment ready to be written, before it is. Raises StorageError, NoRoomError."""

    def discard(self, slot: int, start: int, end: int) -> None:
        """What was prepared here and not reported as written never will be."""

    def missing(self, extents: Sequence[Extent]) -> list[int]:
        """Which of these extents must be fetched before they are read: positions.

        For what the engine looks at itself: they stay in memory until this is asked again.
        """

    def hold(self, extents: Sequence[Extent]) -> tuple[list[int], list[int]]:
        """As ``missing``, and keeps them in memory until ``release``; also those for which there is no room."""

    def release(self, extents: Sequence[Extent]) -> None:
        """The end of a ``hold`` of these extents."""

    def fetch(self, extents: Sequence[Extent]) -> list[int]:
        """Brings missing extents into memory; the positions of those that cannot be read. Any thread, the GIL free."""

    def changed(self, extents: Sequence[Extent]) -> None:
        """These bytes, and no others, have been written, and stay as they are. For drives that buffer writes."""

    def written(self) -> None:
        """Bytes of some window have changed: they are on their way to the medium within a second."""

    def write_back(self) -> None:
        """Returns when all bytes written so far have left this process for the drive: they outlive the process.

        Raises StorageError. Any thread, the GIL free.
        """

    def sync(self) -> None:
        """``write_back``, and then returns when it is all on the medium: it outlives a loss of power.

        Raises StorageError, also where an earlier write-back to the medium failed: what that lost cannot be told.
        Any thread, the GIL free.
        """

    def registry_load(self) -> bytes:
        """The registry, ``geometry.registry_bytes`` long; zeros where nothing was written."""

    def registry_append(self, at: int, data: bytes) -> None:
        """Writes into the registry; durable on return. Raises StorageError."""

    def probe(self) -> bool:
        """Whether a trial write reaches the medium."""

    def details(self) -> dict[str, int]:
        """Numbers of its own for the status."""

    def close(self) -> None:
        """Syncs and lets go. Idempotent."""


class MemoryDrive:
    """Anonymous memory: fast, and gone with the process."""

    mode = "memory"
    buffers_writes = False
    path: str | None = None
    record_bytes_max: int | None = None

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.health = DriveHealth()
        try:
            memory = mmap.mmap(-1, geometry.data_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"memory: {geometry.data_bytes} bytes cannot be mapped ({error})", remedy="lower the capacity"
            ) from error
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

    def discard(self, slot: int, start: int, end: int) -> None:
        """Nothing to do."""

    def missing(self, extents: Sequence[Extent]) -> list[int]:
        """None: it is all in memory."""
        return []

    def hold(self, extents: Sequence[Extent]) -> tuple[list[int], list[int]]:
        """None, and room for all."""
        return [], []

    def release(self, extents: Sequence[Extent]) -> None:
        """Nothing to do."""

    def fetch(self, extents: Sequence[Extent]) -> list[int]:
        """Nothing to do."""
        return []

    def changed(self, extents: Sequence[Extent]) -> None:
        """Nothing to do."""

    def written(self) -> None:
        """Nothing to do: memory is all there is."""

    def write_back(self) -> None:
        """Nothing to do: the pages are the kernel's, and so outlive the process as far as they outlive anything."""

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
        """None."""
        return {}

    def close(self) -> None:
        """Gives the memory back, as far as no view of it is in use."""
        self._mapping.close()


class FileDrive:
    """A folder on any filesystem: preallocated, mapped, synced within a second of every change (``syncer.py``)."""

    mode = "file"
    buffers_writes = False
    record_bytes_max: int | None = None

    def __init__(self, store: Store) -> None:
        self.path: str | None = store.path
        self.geometry = store.geometry
        self.health = DriveHealth()
        self._store = store
        self._fd = store.fd
        self._closed = False
        try:
            with explained(Path(store.name)):
                self._mapping = Mapping(mmap.mmap(self._fd, store.geometry.data_bytes))
        except BaseException:
            store.close()
            raise
        self._syncer = Syncer(self._fd, store.name, self.health, self.write_back)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        capacity_bytes: int,
        segment_bytes: int | None = None,
        uuid: bytes | None = None,
    ) -> FileDrive:
        """Opens the store in ``path``, or makes one there; grows or shrinks it to ``capacity_bytes``.

        Raises StorageError; see ``store.open_folder``.
        """
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

    def discard(self, slot: int, start: int, end: int) -> None:
        """Nothing to do: the page cache sees to it."""

    def missing(self, extents: Sequence[Extent]) -> list[int]:
        """What is not in the page cache."""
        return self._mapping.missing(extents)

    def hold(self, extents: Sequence[Extent]) -> tuple[list[int], list[int]]:
        """What is not in the page cache. A page that leaves it while it is held faults again."""
        return self._mapping.missing(extents), []

    def release(self, extents: Sequence[Extent]) -> None:
        """Nothing to do."""

    def fetch(self, extents: Sequence[Extent]) -> list[int]:
        """Has the kernel read it all side by side, and waits for it."""
        return self._mapping.fetch(extents)

    def changed(self, extents: Sequence[Extent]) -> None:
        """Nothing to do: the kernel knows its dirty pages."""

    def written(self) -> None:
        """Wakes the thread that syncs."""
        self._syncer.written()

    def write_back(self) -> None:
        """Nothing to do: what was written is in the page cache, which outlives the process."""

    def sync(self) -> None:
        """fdatasync of the segments, now and here. Raises StorageError."""
        self._syncer.sync()

    def registry_load(self) -> bytes:
        """The registry's bytes."""
        return self._store.registry_load()

    def registry_append(self, at: int, data: bytes) -> None:
        """To the registry's own file, which does not wait for the segments."""
        self._store.registry_append(at, data)

    def probe(self) -> bool:
        """Writes a block of the registry again, and waits until it is on the medium."""
        return self._store.probe()

    def details(self) -> dict[str, int]:
        """None."""
        return {}

    def close(self) -> None:
        """Stops the thread, syncs what is left, unmaps and unlocks."""
        if self._closed:
            return
        self._closed = True
        self._syncer.close()
        self._mapping.close()
        if self.health.state is not DriveState.ONLINE:
            # What the page cache holds may never have reached the medium: who opens it next is to see what did.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._store.close()


def _available_memory_bytes() -> int | None:
    """What the kernel says can be used without swapping, or less where a control group allows less; None: unknown."""
    bounds = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        bounds.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with contextlib.suppress(OSError, ValueError):
        bounds.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))  # "max": no bound
    return min(bounds, default=None)
