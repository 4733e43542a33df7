# SPDX-License-Identifier: Apache-2.0
"""A drive without the page cache: O_DIRECT on a preallocated file or a whole device, and a RAM pool of its own.

The pool (``ram_pool.py``) lies in an address space as large as the drive (``space.py``), so that the engine finds a
segment's bytes at ``window`` as it does on the other drives. What is read is loaded there by threads, side by side;
what is written waits there for ``write_back`` (``write_queue.py``). Until that has returned it is in this process's
memory only, and lost with it: an acknowledgement has to wait for it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.engine.drive import NoRoomError
from memkv_server.engine.health import DriveHealth
from memkv_server.engine.limits import (
    IO_THREADS,
    POOL_BYTES_MIN,
    POOL_RECORD_SHARE,
    READ_BYTES_MAX,
)
from memkv_server.engine.mapping import Window
from memkv_server.engine.ram_pool import PAGE_BYTES, Extent, RamPool
from memkv_server.engine.space import AddressSpace
from memkv_server.engine.store import DIRECT_ALIGNMENT, Store, is_device, open_device, open_folder
from memkv_server.engine.syncer import Syncer
from memkv_server.engine.write_queue import Write, WriteQueue, pages_of

_HEADER_PAGE: Final = PAGE_BYTES  # a segment's first page: the only one that is written again and again


class DirectDrive:
    """See ``Drive``. One thread calls it, but for ``fetch``, ``write_back`` and ``sync``."""

    mode = "direct"
    buffers_writes = True

    def __init__(self, store: Store, memory_bytes: int) -> None:
        self.path: str | None = store.path
        self.geometry = store.geometry
        self.health = DriveHealth()
        self.record_bytes_max: int | None = int(memory_bytes * POOL_RECORD_SHARE)
        self._store = store
        self._closed = False
        try:
            self._space = AddressSpace(store.geometry.data_bytes)
        except BaseException:
            store.close()
            raise
        self._pool = RamPool(memory_bytes, self._space.drop, self._space.drop_frame)
        self._arrived: deque[Extent] = deque()  # what has been read, for the pool to note
        self._threads = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="memkv-drive-read")
        self._queue = WriteQueue(store.fd, store.base, self._memory_at, self.health, store.name)
        self._headers: Counter[int] = Counter()  # address of a segment -> how often its first page is queued
        self._syncer = Syncer(store.fd, store.name, self.health, self._queue.write_back)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        capacity_bytes: int,
        segment_bytes: int | None = None,
        uuid: bytes | None = None,
        *,
        memory_bytes: int,
    ) -> DirectDrive:
        """Opens or makes the store in a folder or on a block device, with a pool of ``memory_bytes``.

        Raises StorageError; see ``open_folder`` and ``open_device``.
        """
        if memory_bytes < POOL_BYTES_MIN:
            raise StorageError(
                f"{path}: a RAM pool of {memory_bytes} bytes is too small",
                remedy=f"raise memory.max_size to {POOL_BYTES_MIN} or more for each drive",
            )
        if is_device(path):
            return cls(open_device(path, capacity_bytes, segment_bytes, uuid), memory_bytes)
        store = open_folder(path, capacity_bytes, segment_bytes, DIRECT_ALIGNMENT, uuid, direct=True)
        return cls(store, memory_bytes)

    def window(self, slot: int) -> Window:
        """The address space, and where the segment begins in it."""
        return Window(self._space.memory, self._space.view, self._space.origin + slot * self.geometry.segment_bytes)

    # -- writes -------------------------------------------------------------------------------------------------------
    def prepare(self, slot: int, start: int, end: int) -> None:
        """Makes room in the pool, by writing back what is dirty if it must. Raises NoRoomError where that is in vain.

        Of the pages that are written only a segment's first is kept in part, and therefore loaded.
        """
        segment_bytes = self.geometry.segment_bytes
        extent = pages_of((slot * segment_bytes + start, end - start))
        # Header and footer: they must find room, or no segment could be closed.
        urgent = end <= _HEADER_PAGE or end == segment_bytes
        self._settle()
        if end < _HEADER_PAGE:
            self._load_header(extent)
        while not self._pool.prepare(extent, urgent=urgent):
            if not self._make_clean():
                raise self._no_room()
        self._space.populate(*extent)

    def _load_header(self, extent: Extent) -> None:
        if self.missing([extent]) and self.fetch([extent]):
            reason = f"{self._store.name}: offset {self._store.base + extent[0]} cannot be read"
            self.health.read_failed(reason)
            raise StorageError(reason, remedy="check the drive")
        self._settle()

    def changed(self, extents: Sequence[Extent]) -> None:
        """Queues them for ``write_back``."""
        writes = []
        for extent in extents:
            start, length = pages_of(extent)
            fresh = self._pool.dirty((start, length))
            if length == _HEADER_PAGE and start % self.geometry.segment_bytes == 0:
                self._headers[start] += 1
                copy = memoryview(mmap.mmap(-1, length))  # as O_DIRECT wants it, a page
                copy[:] = self._memory_at((start, length))
                writes.append(Write(start, length, copy))
            else:
                writes += [Write(*part) for part in fresh]  # a page must not be queued twice: it may be gone by then
        self._queue.put(writes)

    def written(self) -> None:
        """Wakes the thread that syncs, and writes back before it."""
        self._syncer.written()

    def discard(self, slot: int, start: int, end: int) -> None:
        """Gives the memory back."""
        self._settle()
        extent = pages_of((slot * self.geometry.segment_bytes + start, end - start))
        if extent[1] > 0:
            self._pool.discard(extent)

    def write_back(self) -> None:
        """Writes what is dirty, in the order it was written. Raises StorageError."""
        self._queue.write_back()

    def sync(self) -> None:
        """``write_back``, then fdatasync. Raises StorageError, and again after the first that failed."""
        self._syncer.sync()

    # -- reads --------------------------------------------------------------------------------------------------------
    def missing(self, extents: Sequence[Extent]) -> list[int]:
        """What is not in the pool. It stays there until this is asked again, as far as there is room for all of it.

        NoRoomError where there is none for a single one.
        """
        self._settle()
        missing, refused = self._pool.look_at(extents)
        if refused and len(extents) == 1 and self._make_clean():
            missing, refused = self._pool.look_at(extents)
        if refused and len(extents) == 1:
            raise self._no_room()
        return missing + refused

    def hold(self, extents: Sequence[Extent]) -> tuple[list[int], list[int]]:
        """See ``RamPool.hold``; where there is no room, what is dirty is written back first."""
        self._settle()
        missing, refused = self._pool.hold(extents)
        if refused and self._make_clean():
            more, still = self._pool.hold([extents[position] for position in refused])
            missing += [refused[position] for position in more]
            refused = [refused[position] for position in still]
        return missing, refused

    def _no_room(self) -> NoRoomError:
        return NoRoomError(
            f"{self.path}: the RAM pool of {self._pool.limit_bytes} bytes is in use", remedy="raise memory.max_size"
        )

    def _make_clean(self) -> bool:
        """Writes back what is dirty, so that it may leave the pool; False where that changes nothing."""
        if self._queue.is_empty:
            return False
        with contextlib.suppress(StorageError):  # the drive's health has it; what is in memory can still be read
            self._queue.write_back()
        self._settle()
        return True

    def release(self, extents: Sequence[Extent]) -> None:
        """The end of a ``hold``."""
        if not self._closed:
            self._settle()  # what has arrived stays, what has not does not
            self._pool.release(extents)

    def fetch(self, extents: Sequence[Extent]) -> list[int]:
        """Reads what of them is missing, in pieces and side by side; the positions of those that cannot be read."""
        pieces = deque(
            (at, min(READ_BYTES_MAX, start + length - at))
            for start, length in self._pool.loading([pages_of(extent) for extent in extents])
            for at in range(start, start + length, READ_BYTES_MAX)
        )
        failed: list[Extent] = []
        if len(pieces) > 1:
            readers = [
                self._threads.submit(self._read_all, pieces, failed) for _ in range(min(IO_THREADS, len(pieces)))
            ]
            for reader in readers:
                reader.result()
        else:
            self._read_all(pieces, failed)
        return [
            position
            for position, (start, length) in enumerate(extents)
            if self._pool.is_absent((start, length))  # there was no room for it
            or any(at < start + length and start < at + size for at, size in failed)
        ]

    def _read_all(self, pieces: deque[Extent], failed: list[Extent]) -> None:
        """Reads pieces until there are none left; several threads do so with the same ones."""
        while True:
            try:
                piece = pieces.popleft()
            except IndexError:
                return
            if self._read(piece):
                self._arrived.append(piece)
            else:
                failed.append(piece)

    def _read(self, piece: Extent) -> bool:
        start, length = piece
        memory = self._memory_at(piece)
        done = 0
        try:
            while done < length:
                count = os.preadv(self._store.fd, [memory[done:]], self._store.base + start + done) & -PAGE_BYTES
                if count <= 0:
                    return False  # the file or device has lost its end
                done += count
        except OSError:
            return False
        return True

    def _settle(self) -> None:
        """Tells the pool what the threads have done since."""
        while self._arrived:
            self._pool.arrived(self._arrived.popleft())
        for write in self._queue.take_done():
            if write.copy is not None:
                self._headers[write.address] -= 1
                if self._headers[write.address]:
                    continue  # it was written again meanwhile
                del self._headers[write.address]
            self._pool.clean((write.address, write.length))

    def _memory_at(self, extent: Extent) -> memoryview:
        at = self._space.origin + extent[0]
        return self._space.view[at : at + extent[1]]

    # -- the rest -----------------------------------------------------------------------------------------------------
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
        """The pool's bound, what of it is in use, and what it has loaded and evicted."""
        pool = self._pool
        return {
            "memory_max_bytes": pool.limit_bytes,
            "memory_used_bytes": pool.used_bytes,
            "memory_unwritten_bytes": pool.unwritten_bytes,
            "memory_loaded_bytes": pool.loaded_bytes,
            "memory_evicted_bytes": pool.evicted_bytes,
        }

    def close(self) -> None:
        """Writes what is dirty, ends the threads, gives the memory back and unlocks. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._syncer.close()
        self._threads.shutdown()
        self._space.close()
        self._store.close()
