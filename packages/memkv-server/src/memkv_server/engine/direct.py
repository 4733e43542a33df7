# SPDX-License-Identifier: Apache-2.0
"""A drive without the page cache: O_DIRECT on a preallocated file or a whole device, and a RAM pool of its own.

The pool (``ram_pool.py``) lies in an address space as large as the drive (``space.py``), so that the engine finds a
segment's bytes at ``window`` as it does on the other drives. What is read is loaded there by threads, side by side;
what is written is sent to the medium by a queue (``write_queue.py``), and a put is acknowledged when it has landed:
the memory of a process that dies is gone, and with it everything that had not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.engine.drive import Extent, NoRoomError
from memkv_server.engine.health import DriveHealth
from memkv_server.engine.limits import IO_THREADS, POOL_BYTES_MIN, POOL_RECORD_SHARE, READ_BYTES_MAX
from memkv_server.engine.mapping import Window
from memkv_server.engine.ram_pool import RamPool
from memkv_server.engine.space import AddressSpace
from memkv_server.engine.store import DIRECT_ALIGNMENT, Store, is_device, open_device, open_folder
from memkv_server.engine.write_queue import WriteQueue

_O_DIRECT: Final = os.O_DIRECT


class DirectDrive:
    """See ``Drive``. One thread calls it, but for ``fetch``."""

    mode = "direct"

    def __init__(self, store: Store, memory_bytes: int) -> None:
        self.path: str | None = store.path
        self.geometry = store.geometry
        self.health = DriveHealth()
        self.record_bytes_max = memory_bytes // POOL_RECORD_SHARE
        self._store = store
        self._closed = False
        try:
            self._space = AddressSpace(store.geometry.data_bytes)
        except BaseException:
            store.close()
            raise
        self._pool = RamPool(memory_bytes, self._space.drop)
        self._threads = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="memkv-drive-read")
        self._queue = WriteQueue(store.fd, store.base, self._memory_at, self.health, store.name)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        capacity_bytes: int | None,
        segment_bytes: int | None = None,
        uuid: bytes | None = None,
        *,
        memory_bytes: int,
    ) -> DirectDrive:
        """Opens or makes the store in a folder or on a block device. ``capacity_bytes`` None: the whole device.

        Raises StorageError; see ``open_folder`` and ``open_device``.
        """
        if memory_bytes < POOL_BYTES_MIN:
            raise StorageError(
                f"{path}: a pool of {memory_bytes} bytes is too small", remedy=f"give it {POOL_BYTES_MIN} or more"
            )
        if is_device(path):
            return cls(open_device(path, capacity_bytes, segment_bytes, uuid), memory_bytes)
        if capacity_bytes is None:
            raise StorageError(f"{path} has no capacity", remedy="set it, or name a block device")
        store = open_folder(path, capacity_bytes, segment_bytes, DIRECT_ALIGNMENT, uuid, flags=_O_DIRECT)
        return cls(store, memory_bytes)

    def window(self, slot: int) -> Window:
        """The address space, and where the segment begins in it."""
        return Window(self._space.memory, self._space.view, self._space.origin + slot * self.geometry.segment_bytes)

    # -- writes -------------------------------------------------------------------------------------------------------
    def prepare(self, slot: int, start: int, end: int) -> None:
        """Makes room in the pool, and waits for the queue where it must. Raises NoRoomError where that is in vain."""
        extent = slot * self.geometry.segment_bytes + start, end - start
        self._take_done()
        while not self._pool.prepare(extent):
            if self._queue.landed >= self._queue.queued:
                raise NoRoomError(
                    f"{self.path}: the pool of {self._pool.limit_bytes} bytes is in use", remedy="raise memory.max_size"
                )
            self._queue.wait(self._queue.landed + 1)
            self._take_done()

    def written(self, extents: Sequence[Extent]) -> None:
        """Queues them."""
        self._queue.put(extents)

    def discarded(self, extents: Sequence[Extent]) -> None:
        """Their memory may be used for something else."""
        self._pool.clean(extents)

    def land(self) -> None:
        """Waits for the queue."""
        self._queue.wait(self._queue.queued)
        self._take_done()

    def sync(self) -> None:
        """Waits for the queue, and for the medium. Raises StorageError."""
        self.land()
        try:
            os.fdatasync(self._store.fd)
        except OSError as error:
            raise StorageError(f"{self._store.name}: {error.strerror}", remedy="check the drive") from error

    def _take_done(self) -> None:
        self._pool.clean(self._queue.take_done())

    # -- reads --------------------------------------------------------------------------------------------------------
    def hold(self, extents: Sequence[Extent]) -> tuple[list[Extent], list[int]]:
        """See ``RamPool.hold``; where there is no room it waits for what is on its way to the drive."""
        self._take_done()
        missing, refused = self._pool.hold(extents)
        while refused and self._queue.landed < self._queue.queued:
            self._queue.wait(self._queue.landed + 1)
            self._take_done()
            more, still = self._pool.hold([extents[position] for position in refused])
            missing += more
            refused = [refused[position] for position in still]
        return missing, refused

    def fetch(self, extents: Sequence[Extent]) -> list[Extent]:
        """Reads them in pieces, side by side."""
        pieces = [
            (at, min(READ_BYTES_MAX, start + length - at))
            for start, length in extents
            for at in range(start, start + length, READ_BYTES_MAX)
        ]
        read = map(self._read, pieces) if len(pieces) == 1 else self._threads.map(self._read, pieces)
        return [piece for piece, whole in zip(pieces, read, strict=True) if not whole]

    def arrived(self, extents: Sequence[Extent], failed: Sequence[Extent]) -> None:
        """See ``RamPool.arrived``."""
        self._pool.arrived(failed, whole=False)
        self._pool.arrived(extents)

    def release(self, extents: Sequence[Extent]) -> None:
        """See ``RamPool.release``."""
        self._pool.release(extents)

    def _read(self, piece: Extent) -> bool:
        start, length = piece
        try:
            return os.preadv(self._store.fd, [self._memory_at(piece)], self._store.base + start) == length
        except OSError:
            return False

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
        """The pool's bound, and what of it is in use."""
        return {"memory_bytes": self._pool.limit_bytes, "memory_used_bytes": self._pool.used_bytes}

    def close(self) -> None:
        """Writes what is queued, ends the threads, gives the memory back and unlocks."""
        if self._closed:
            return
        self._closed = True
        self._queue.close()
        self._threads.shutdown()
        self._space.close()
        self._store.close()
