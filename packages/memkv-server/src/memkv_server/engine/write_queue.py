# SPDX-License-Identifier: Apache-2.0
"""Memory on its way to the medium: a thread of its own writes what is queued, in order, neighbours in one call.

In order, because what a start makes of a store rests on it: a segment's FREE mark reaches the medium before anything
that was written later. Each call carries up to WRITE_BYTES_MAX, which a drive splits and works on side by side. The
GIL is free meanwhile. After the first write that fails nothing more is written.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from memkv_server.engine.health import DriveHealth
from memkv_server.engine.limits import SYNC_INTERVAL_S, WRITE_BYTES_MAX
from memkv_server.engine.ram_pool import PAGE_BYTES, Extent

_PAGE_MASK: Final = -PAGE_BYTES


class WriteQueue:
    """``put``, ``take_done``, ``wait`` and ``close`` are for the lane's thread.

    ``fd`` is open with O_DIRECT; ``base`` is where byte 0 of the space lies in it; ``memory_at`` gives the memory of
    an extent.
    """

    def __init__(
        self, fd: int, base: int, memory_at: Callable[[Extent], memoryview], health: DriveHealth, name: str
    ) -> None:
        self.queued = 0  # extents put so far: a ticket
        self.landed = 0  # of them, those that are on the medium, or will never be
        self._fd = fd
        self._base = base
        self._memory_at = memory_at
        self._health = health
        self._name = name
        self._queue: deque[Extent] = deque()
        self._done: deque[Extent] = deque()
        self._changed = threading.Condition()
        self._stop = False
        self._unsynced = False
        self._sync_at_s = 0.0
        self._thread = threading.Thread(target=self._write_forever, name="memkv-drive-write", daemon=True)
        self._thread.start()

    def put(self, extents: Sequence[Extent]) -> None:
        """These bytes are to be written; they stay as they are until ``take_done`` returns them."""
        with self._changed:
            self._queue.extend(extents)
            self.queued += len(extents)
            self._changed.notify_all()

    def take_done(self) -> list[Extent]:
        """What has been written since the last call."""
        done = []
        while self._done:
            done.append(self._done.popleft())
        return done

    def wait(self, ticket: int) -> None:
        """Returns when the first ``ticket`` extents have landed; whether they did, the drive's health says."""
        with self._changed:
            self._changed.wait_for(lambda: self.landed >= ticket)

    def close(self) -> None:
        """Writes what is left, and syncs it. Idempotent."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join()

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                due_s = max(0.0, self._sync_at_s - time.monotonic()) if self._unsynced else None
                self._changed.wait_for(lambda: self._queue or self._stop, due_s)
                batch, self._queue = list(self._queue), deque()
                stop = self._stop
            for start, length, count in _coalesced(batch):
                self._write(start, length)
                with self._changed:
                    self._done.extend(batch[:count])
                    del batch[:count]
                    self.landed += count
                    self._changed.notify_all()
            if self._unsynced and (stop or time.monotonic() >= self._sync_at_s):
                self._sync()
            if stop and not self._queue:
                return

    def _write(self, start: int, length: int) -> None:
        if self._health.write_errors:
            return
        if not self._unsynced:
            self._unsynced, self._sync_at_s = True, time.monotonic() + SYNC_INTERVAL_S
        end = -(-(start + length) // PAGE_BYTES) * PAGE_BYTES
        start &= _PAGE_MASK
        try:
            while start < end:
                written = os.pwritev(self._fd, [self._memory_at((start, end - start))], self._base + start)
                if written <= 0:
                    raise OSError(0, "nothing was written")
                start += written
        except OSError as error:
            self._health.write_failed(f"{self._name}: offset {self._base + start}: {error.strerror}")

    def _sync(self) -> None:
        self._unsynced = False
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._health.write_failed(f"{self._name}: {error.strerror}")


def _coalesced(extents: Sequence[Extent]) -> list[tuple[int, int, int]]:
    """Extents that follow each other, in the queue and on the drive, as one: first byte, length, how many."""
    merged: list[tuple[int, int, int]] = []
    for start, length in extents:
        if merged:
            before, size, count = merged[-1]
            if before + size == start and size + length <= WRITE_BYTES_MAX:
                merged[-1] = before, size + length, count + 1
                continue
        merged.append((start, length, 1))
    return merged
