# SPDX-License-Identifier: Apache-2.0
"""The space segments live in. This module and ``folder.py`` are the only ones that open files or devices for storage.

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
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from memkv_core.errors import StorageError
from memkv_server.engine.folder import (
    FORMAT_FILE,
    LOCK_FILE,
    REGISTRY_FILE,
    SEGMENTS_FILE,
    explained,
    lock,
    open_preallocated,
    planned,
    refuse_foreign,
    refuse_full,
    refuse_other,
    store_superblock,
)
from memkv_server.engine.health import DriveHealth, DriveState
from memkv_server.engine.limits import SYNC_INTERVAL_S
from memkv_server.engine.mapping import Mapping, Window
from memkv_server.engine.superblock import Geometry, plan_geometry

RECORD_ALIGNMENT: Final = 64
REGISTRY_BLOCK_BYTES: Final = 4096

__all__ = ["FORMAT_FILE", "LOCK_FILE", "REGISTRY_FILE", "SEGMENTS_FILE", "Drive", "FileDrive", "MemoryDrive", "Window"]


class Drive(Protocol):
    """What the engine asks of a drive. One thread calls it."""

    mode: str  # "file" or "memory"
    buffers_writes: bool  # what was written is lost with this process until ``write_back`` has returned
    path: str | None
    geometry: Geometry
    health: DriveHealth

    def window(self, slot: int) -> Window: ...

    def prepare(self, slot: int, start: int, end: int) -> None:
        """Makes this part of a segment ready to be written, before it is. Raises StorageError."""

    def missing(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """Which of these extents, (address on the drive, length), must be fetched before they are read: positions."""

    def fetch(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """Brings extents into memory; the positions of those that cannot be read. Any thread, the GIL free."""

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

    def close(self) -> None:
        """Syncs and lets go. Idempotent."""


class MemoryDrive:
    """Anonymous memory: fast, and gone with the process."""

    mode = "memory"
    buffers_writes = False
    path: str | None = None

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

    def missing(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """None: it is all in memory."""
        return []

    def fetch(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """Nothing to do."""
        return []

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
    buffers_writes = False

    def __init__(self, path: Path, geometry: Geometry, lock_fd: int) -> None:
        self.path: str | None = str(path)
        self.geometry = geometry
        self.health = DriveHealth()
        self._lock_fd = lock_fd
        self._closed = False
        with contextlib.ExitStack() as on_error:
            self._registry_fd = open_preallocated(path / REGISTRY_FILE, geometry.registry_bytes)
            on_error.callback(os.close, self._registry_fd)
            self._fd = open_preallocated(path / SEGMENTS_FILE, geometry.data_bytes)
            on_error.callback(os.close, self._fd)
            with explained(path / SEGMENTS_FILE):
                self._mapping = Mapping(mmap.mmap(self._fd, geometry.data_bytes))
            on_error.pop_all()
        self._syncing = threading.Lock()
        self._lost: str | None = None  # why a sync failed: none will be believed after it
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
        """Opens the store in ``path``, or makes one there; grows or shrinks it to ``capacity_bytes``.

        With a ``uuid`` only the store that has it is opened: where a drive has vanished its mount point is an empty
        folder on another one.

        Raises StorageError, and then has changed nothing: a foreign, unwritable, full or too small folder, a store
        of a newer format or in use by another node, or another segment size than the store was made with.
        A store that shrinks loses the segments that no longer fit.
        """
        place = Path(path)
        if uuid is not None:
            refuse_other(place, uuid)
        refuse_foreign(place)
        refuse_full(place, planned(place, capacity_bytes, segment_bytes, RECORD_ALIGNMENT)[1])
        with explained(place):
            place.mkdir(parents=True, exist_ok=True)
        lock_fd = lock(place)
        try:
            # Again, now that nobody else can make a store here.
            existing, geometry = planned(place, capacity_bytes, segment_bytes, RECORD_ALIGNMENT)
            if geometry != existing:
                store_superblock(place, geometry)
            try:
                return cls(place, geometry, lock_fd)
            except StorageError:
                if existing is None:
                    (place / FORMAT_FILE).unlink()
                elif geometry != existing:
                    store_superblock(place, existing)
                raise
        except BaseException:
            os.close(lock_fd)
            raise

    def window(self, slot: int) -> Window:
        """The one mapping, and where the segment begins in it."""
        return Window(self._mapping.memory, self._mapping.view, slot * self.geometry.segment_bytes)

    def prepare(self, slot: int, start: int, end: int) -> None:
        """Makes the pages writable in one call. Raises StorageError where the medium does not let it."""
        origin = slot * self.geometry.segment_bytes
        if not self._mapping.prepare(origin + start, origin + end):
            reason = f"{self.path}/{SEGMENTS_FILE}: offset {origin + start} cannot be written"
            self.health.write_failed(reason)
            raise StorageError(reason, remedy="check the drive")

    def missing(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """What is not in the page cache."""
        return self._mapping.missing(extents)

    def fetch(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """Has the kernel read it all side by side, and waits for it."""
        return self._mapping.fetch(extents)

    def written(self) -> None:
        """Wakes the thread that syncs."""
        if not self._dirty.is_set():
            self._dirty.set()

    def write_back(self) -> None:
        """Nothing to do: what was written is in the page cache, which outlives the process."""

    def sync(self) -> None:
        """fdatasync of the segments, now and here. Raises StorageError."""
        file = Path(self.path or "") / SEGMENTS_FILE
        with self._syncing:
            # The kernel tells of a lost page once, and the thread may have been told.
            if self._lost is None:
                try:
                    os.fdatasync(self._fd)
                except OSError as error:
                    self._lost = error.strerror or "it cannot be synced"
                    self.health.write_failed(f"{file}: {self._lost}")
        if self._lost is not None:
            raise StorageError(f"{file}: {self._lost}", remedy="check the drive")

    def registry_load(self) -> bytes:
        """The registry's bytes."""
        with explained(Path(self.path or "") / REGISTRY_FILE):
            return os.pread(self._registry_fd, self.geometry.registry_bytes, 0)

    def registry_append(self, at: int, data: bytes) -> None:
        """pwrite and fdatasync of the registry's own file, which does not wait for the segments."""
        with explained(Path(self.path or "") / REGISTRY_FILE):
            os.pwrite(self._registry_fd, data, at)
            os.fdatasync(self._registry_fd)

    def probe(self) -> bool:
        """Writes the last block of the registry again, and waits until it is on the medium."""
        at = self.geometry.registry_bytes - REGISTRY_BLOCK_BYTES
        try:
            os.pwrite(self._registry_fd, os.pread(self._registry_fd, REGISTRY_BLOCK_BYTES, at), at)
            os.fdatasync(self._registry_fd)
        except OSError:
            return False
        return True

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
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for fd in (self._fd, self._registry_fd, self._lock_fd):
            os.close(fd)

    def _flush_forever(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            with contextlib.suppress(StorageError):  # the drive's health has it
                self.sync()
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
