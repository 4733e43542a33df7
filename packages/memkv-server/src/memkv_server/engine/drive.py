# SPDX-License-Identifier: Apache-2.0
"""The space segments live in; the only module of the server that opens files or devices for storage.

A drive is one linear space of equal segments, and beside it a small durable log, the registry of namespaces. The
engine reads and writes a segment through its *window*: a buffer, and the position of the segment's first byte in it.
On the drives here the window of every segment is the one mapping of the whole space; a drive without a mapping
(O_DIRECT) gives an open segment a buffer of its own and loads ranges of sealed ones on request.

A folder holds::

    memkv.format      the superblock, 4 KiB: magic, format version, geometry, uuid
    memkv.namespaces  the registry, preallocated
    memkv.segments    all segments, preallocated and mapped
    memkv.lock        held by the node that serves the folder; its process id, for the message to the second one

One file for all segments and not one each: Python's ``mmap`` keeps a descriptor per mapping, so that 1,024 segments
would meet the usual limit on open files; and a raw block device is one linear space as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from memkv_core.errors import StorageError
from memkv_server.engine.limits import SYNC_INTERVAL_S
from memkv_server.engine.mapping import Mapping, Window
from memkv_server.engine.superblock import (
    Geometry,
    decode_superblock,
    encode_superblock,
    plan_geometry,
    resize_geometry,
)

RECORD_ALIGNMENT: Final = 64

FORMAT_FILE: Final = "memkv.format"
REGISTRY_FILE: Final = "memkv.namespaces"
SEGMENTS_FILE: Final = "memkv.segments"
LOCK_FILE: Final = "memkv.lock"
# What may lie in a folder that has no superblock yet: what a start that was interrupted left, and mkfs.
_BENIGN: Final = {LOCK_FILE, FORMAT_FILE + ".new", "lost+found"}


class Drive(Protocol):
    """What the engine asks of a drive. One thread calls it."""

    mode: str  # "file" or "memory"
    path: str | None
    geometry: Geometry
    failure: str | None  # why the drive takes no more writes; None while it does

    def window(self, slot: int) -> Window: ...

    def prepare(self, slot: int, start: int, end: int) -> None:
        """A hint: this part of a segment is about to be written."""

    def prefetch(self, extents: Sequence[tuple[int, int]]) -> None:
        """A hint: these extents, (address on the drive, length), are about to be read."""

    def written(self) -> None:
        """Bytes of some window have changed: they are on their way to the medium within a second."""

    def sync(self) -> None:
        """Returns when all bytes written so far are on the medium. Raises StorageError."""

    def registry_load(self) -> bytes:
        """The registry, ``geometry.registry_bytes`` long; zeros where nothing was written."""

    def registry_append(self, at: int, data: bytes) -> None:
        """Writes into the registry; durable on return. Raises StorageError."""

    def close(self) -> None:
        """Syncs and lets go. Idempotent."""


class MemoryDrive:
    """Anonymous memory: fast, and gone with the process."""

    mode = "memory"
    path: str | None = None

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.failure: str | None = None
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

    def prefetch(self, extents: Sequence[tuple[int, int]]) -> None:
        """Nothing to do: it is all in memory."""

    def written(self) -> None:
        """Nothing to do: memory is all there is."""

    def sync(self) -> None:
        """Nothing to do."""

    def registry_load(self) -> bytes:
        """The registry's bytes."""
        return bytes(self._registry)

    def registry_append(self, at: int, data: bytes) -> None:
        """Lasts as long as the rest."""
        self._registry[at : at + len(data)] = data

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

    def __init__(self, path: Path, geometry: Geometry, lock_fd: int) -> None:
        self.path: str | None = str(path)
        self.geometry = geometry
        self.failure: str | None = None
        self._lock_fd = lock_fd
        self._closed = False
        with contextlib.ExitStack() as on_error:
            self._registry_fd = _open_preallocated(path / REGISTRY_FILE, geometry.registry_bytes)
            on_error.callback(os.close, self._registry_fd)
            self._fd = _open_preallocated(path / SEGMENTS_FILE, geometry.data_bytes)
            on_error.callback(os.close, self._fd)
            with _explained(path / SEGMENTS_FILE):
                self._mapping = Mapping(mmap.mmap(self._fd, geometry.data_bytes))
            on_error.pop_all()
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flush_forever, name="memkv-drive-sync", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: str | os.PathLike[str], capacity_bytes: int, segment_bytes: int | None = None) -> FileDrive:
        """Opens the store in ``path``, or makes one there; grows or shrinks it to ``capacity_bytes``.

        Raises StorageError, and then has changed nothing: a foreign, unwritable, full or too small folder, a store
        of a newer format or in use by another node, or another segment size than the store was made with.
        A store that shrinks loses the segments that no longer fit.
        """
        place = Path(path)
        _refuse_foreign(place)
        _refuse_full(place, _planned(place, capacity_bytes, segment_bytes)[1])
        with _explained(place):
            place.mkdir(parents=True, exist_ok=True)
        lock_fd = _lock(place)
        try:
            # Again, now that nobody else can make a store here.
            existing, geometry = _planned(place, capacity_bytes, segment_bytes)
            if geometry != existing:
                _store_superblock(place, geometry)
            try:
                return cls(place, geometry, lock_fd)
            except StorageError:
                if existing is None:
                    (place / FORMAT_FILE).unlink()
                elif geometry != existing:
                    _store_superblock(place, existing)
                raise
        except BaseException:
            os.close(lock_fd)
            raise

    def window(self, slot: int) -> Window:
        """The one mapping, and where the segment begins in it."""
        return Window(self._mapping.memory, self._mapping.view, slot * self.geometry.segment_bytes)

    def prepare(self, slot: int, start: int, end: int) -> None:
        """Makes the pages writable in one call."""
        origin = slot * self.geometry.segment_bytes
        self._mapping.prepare(origin + start, origin + end)

    def prefetch(self, extents: Sequence[tuple[int, int]]) -> None:
        """Starts reading what is not in the page cache."""
        self._mapping.prefetch(extents)

    def written(self) -> None:
        """Wakes the thread that syncs."""
        if not self._dirty.is_set():
            self._dirty.set()

    def sync(self) -> None:
        """fdatasync of the segments, now and here. Raises StorageError."""
        with _explained(Path(self.path or "") / SEGMENTS_FILE):
            os.fdatasync(self._fd)

    def registry_load(self) -> bytes:
        """The registry's bytes."""
        with _explained(Path(self.path or "") / REGISTRY_FILE):
            return os.pread(self._registry_fd, self.geometry.registry_bytes, 0)

    def registry_append(self, at: int, data: bytes) -> None:
        """pwrite and fdatasync of the registry's own file, which does not wait for the segments."""
        with _explained(Path(self.path or "") / REGISTRY_FILE):
            os.pwrite(self._registry_fd, data, at)
            os.fdatasync(self._registry_fd)

    def close(self) -> None:
        """Stops the thread, syncs what is left, unmaps and unlocks."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._dirty.set()
        self._thread.join()
        self._mapping.close()
        for fd in (self._fd, self._registry_fd, self._lock_fd):
            os.close(fd)

    def _flush_forever(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self.failure = f"{self.path}: {error.strerror}"
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


@contextlib.contextmanager
def _explained(place: Path) -> Iterator[None]:
    """The one point where the system's errors become StorageErrors that name the file and the remedy."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        remedy = "check the owner, the permissions and the mount of the folder"
        if error.errno in (28, 122, 27):  # ENOSPC, EDQUOT, EFBIG
            remedy = "free some space there, or lower the capacity"
        raise StorageError(f"{place}: {error.strerror}", remedy=remedy) from error


def _refuse_foreign(place: Path) -> None:
    with _explained(place):
        if not place.exists():
            return
        if not place.is_dir():
            raise StorageError(f"{place} is not a folder", remedy="name a folder for the store")
        names = {entry.name for entry in place.iterdir()}
    foreign = sorted(names - _BENIGN)
    if FORMAT_FILE not in names and foreign:
        raise StorageError(
            f"{place} holds {foreign[0]!r}, and no MemKV store",
            remedy="name an empty folder; nothing in this one was touched",
        )


def _planned(place: Path, capacity_bytes: int, segment_bytes: int | None) -> tuple[Geometry | None, Geometry]:
    """What is there, and what is to be there."""
    existing = _load_superblock(place)
    if existing is None:
        return None, plan_geometry(capacity_bytes, segment_bytes, RECORD_ALIGNMENT, str(place))
    if segment_bytes not in (None, existing.segment_bytes):
        raise StorageError(
            f"{place} was made with segments of {existing.segment_bytes} bytes, not {segment_bytes}",
            remedy="leave the segment size out, or use an empty folder",
        )
    return existing, resize_geometry(existing, capacity_bytes, str(place))


def _load_superblock(place: Path) -> Geometry | None:
    file = place / FORMAT_FILE
    with _explained(file):
        try:
            block = file.read_bytes()
        except FileNotFoundError:
            return None
    return decode_superblock(block, str(file))


def _store_superblock(place: Path, geometry: Geometry) -> None:
    fresh = place / (FORMAT_FILE + ".new")
    with _explained(fresh):
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        try:
            os.write(fd, encode_superblock(geometry))
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.rename(place / FORMAT_FILE)
        folder_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)


def _refuse_full(place: Path, geometry: Geometry) -> None:
    """The filesystem must hold the whole store now, so that no write meets its end later."""
    nearest = place
    while not nearest.exists():
        nearest = nearest.parent
    with _explained(nearest):
        filesystem = os.statvfs(nearest)
        held = 0
        for name in (FORMAT_FILE, REGISTRY_FILE, SEGMENTS_FILE):
            with contextlib.suppress(FileNotFoundError):
                held += (place / name).stat().st_blocks * 512
    free = filesystem.f_bavail * filesystem.f_frsize + held
    if geometry.store_bytes > free:
        raise StorageError(
            f"{place}: {geometry.store_bytes} bytes are needed and {free} are free",
            remedy="free some space there, or lower the capacity",
        )


def _lock(place: Path) -> int:
    file = place / LOCK_FILE
    with _explained(file):
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise StorageError(
                f"{place} is in use by another node (process {holder or 'unknown'})",
                remedy="stop that node, or give this one a folder of its own",
            ) from error
        raise StorageError(f"{file}: {error.strerror}", remedy="use a filesystem that has locks") from error
    return fd


def _open_preallocated(file: Path, size: int) -> int:
    """Opens the file at exactly ``size`` bytes, all of them allocated."""
    with _explained(file):
        created = not file.exists()
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            if os.fstat(fd).st_size > size:
                os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            if created:
                file.unlink()
            raise
    return fd
