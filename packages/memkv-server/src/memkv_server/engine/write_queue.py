# SPDX-License-Identifier: Apache-2.0
"""What was written in memory, on its way to the drive: in order, neighbours in one call.

In order, because what a start makes of a store rests on it: a segment's footer reaches the drive before the mark that
says that it is there, and a copy before the end of what it was copied from. A header is written again and again in the
same place, so its bytes are taken when they are queued; all other bytes stay as they are until they have been written.

After the first write that fails nothing more is written: what came after it would lie on top of a hole.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from memkv_core.errors import StorageError
from memkv_server.engine.health import DriveHealth
from memkv_server.engine.limits import WRITE_BYTES_MAX
from memkv_server.engine.ram_pool import PAGE_BYTES, Extent

_PAGE_MASK: Final = -PAGE_BYTES


class Write(NamedTuple):
    """Whole pages of the space; ``copy`` holds their bytes where the memory may change meanwhile."""

    address: int
    length: int
    copy: memoryview | None = None


def pages_of(extent: Extent) -> Extent:
    """The whole pages that an extent touches."""
    first = extent[0] & _PAGE_MASK
    return first, -(-(extent[0] + extent[1]) // PAGE_BYTES) * PAGE_BYTES - first


class WriteQueue:
    """``put`` and ``take_done`` are for the lane's thread, ``write_back`` for any.

    ``fd`` is open with O_DIRECT; ``base`` is where byte 0 of the space lies in it; ``memory_at`` gives the memory of
    an extent.
    """

    def __init__(
        self, fd: int, base: int, memory_at: Callable[[Extent], memoryview], health: DriveHealth, name: str
    ) -> None:
        self.failure: str | None = None
        self.written_bytes = 0
        self._fd = fd
        self._base = base
        self._memory_at = memory_at
        self._health = health
        self._name = name
        self._queue: deque[Write] = deque()
        self._done: deque[Write] = deque()
        self._turn = threading.Lock()  # one writes at a time: in order

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be written; what is being written at this moment does not count."""
        return not self._queue

    def put(self, writes: Sequence[Write]) -> None:
        """These are to be written."""
        self._queue.extend(writes)

    def take_done(self) -> list[Write]:
        """What has been written since the last call."""
        done = []
        while self._done:
            done.append(self._done.popleft())
        return done

    def write_back(self) -> None:
        """Returns when all that was put before the call is on its drive. Raises StorageError. Any thread."""
        with self._turn:
            for batch in self._batches(len(self._queue)):
                if self.failure is None:
                    self._write(batch)
            if self.failure is not None:
                raise StorageError(self.failure, remedy="check the drive")

    def _batches(self, count: int) -> Iterator[list[Write]]:
        """The first ``count`` of the queue, those that lie one after the other together."""
        batch: list[Write] = []
        size = 0
        for _ in range(count):
            write = self._queue.popleft()
            if batch and not (
                write.address == batch[0].address + size
                and size + write.length <= WRITE_BYTES_MAX
                and write.copy is batch[-1].copy is None
            ):
                yield batch
                batch, size = [], 0
            batch.append(write)
            size += write.length
        if batch:
            yield batch

    def _write(self, batch: list[Write]) -> None:
        start, end = batch[0].address, batch[-1].address + batch[-1].length
        source = batch[0].copy or self._memory_at((start, end - start))
        at = start
        try:
            while at < end:
                part = source[at - start : min(end, at + WRITE_BYTES_MAX) - start]
                written = os.pwritev(self._fd, [part], self._base + at) & _PAGE_MASK
                if written <= 0:
                    raise OSError(errno.EIO, "nothing was written")
                at += written
        except OSError as error:
            self.failure = f"{self._name}: offset {self._base + at}: {error.strerror}"
            self._health.write_failed(self.failure)
            return
        self.written_bytes += end - start
        self._done.extend(batch)
