# SPDX-License-Identifier: Apache-2.0
"""Reads a drive past the page cache, at a bounded rate, on a thread of its own: what is read is what the medium holds.

The descriptor is the reader's own, beside the node's. A page that is dirty in the cache is written before it is read
here (the kernel does that for O_DIRECT), so both agree unless the medium lies.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.drives.image import PAGE_BYTES, UnreadableError, is_device
from memkv_server.engine.folder import SEGMENTS_FILE
from memkv_server.engine.superblock import SUPERBLOCK_BYTES, Geometry

_BUFFER_BYTES: Final = 1 << 20
_BURST_S: Final = 0.1  # of the rate may be read at once, after a time without reads

Extent = tuple[int, int]
"""(address on the drive, bytes)."""


class MediumReader:
    """Reads extents for one job. ``notify`` is called, on the thread, after each read."""

    def __init__(self, path: Path, geometry: Geometry, rate_bytes_s: int, notify: Callable[[], None]) -> None:
        device = is_device(path)
        self.file = str(path if device else path / SEGMENTS_FILE)
        self.base = SUPERBLOCK_BYTES + geometry.registry_bytes if device else 0
        self.bytes_read = 0
        self._rate = rate_bytes_s
        self._notify = notify
        self._fd = _open(self.file)
        self._buffer = mmap.mmap(-1, _BUFFER_BYTES + 2 * PAGE_BYTES)
        self._stop = threading.Event()
        self._free_at_s = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memkv-medium")

    def read(self, extents: Sequence[Extent]) -> Future[list[bytes | None]]:
        """The bytes of each extent, None for one that cannot be read. Extents close together are read as one."""
        future = self._thread.submit(self._read_all, list(extents))
        future.add_done_callback(lambda _: self._notify())
        return future

    def call(self, work: Callable[[], None]) -> Future[None]:
        """Runs ``work`` on the thread, between two reads."""
        future = self._thread.submit(work)
        future.add_done_callback(lambda _: self._notify())
        return future

    def close(self) -> None:
        """Ends the thread. A read that the drive does not answer is not waited for."""
        self._stop.set()
        self._thread.shutdown(wait=False, cancel_futures=True)
        threading.Thread(target=self._let_go, name="memkv-medium-close", daemon=True).start()

    def _let_go(self) -> None:
        self._thread.shutdown(wait=True)
        os.close(self._fd)
        self._buffer.close()

    def _read_all(self, extents: list[Extent]) -> list[bytes | None]:
        first = min(start for start, _ in extents)
        end = max(start + length for start, length in extents)
        if end - first <= _BUFFER_BYTES:
            span = self._read_one(first, end - first)
            if span is not None:
                return [span[start - first : start - first + length] for start, length in extents]
        return [self._read_one(start, length) for start, length in extents]

    def _read_one(self, start: int, length: int) -> bytes | None:
        pieces = []
        for at in range(start, start + length, _BUFFER_BYTES):
            piece = self._read_piece(at, min(_BUFFER_BYTES, start + length - at))
            if piece is None:
                return None
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_piece(self, start: int, length: int) -> bytes | None:
        """One aligned read of at most the buffer."""
        first = (self.base + start) & -PAGE_BYTES
        skip = self.base + start - first
        size = (skip + length + PAGE_BYTES - 1) & -PAGE_BYTES
        self._wait_for_turn(size)
        try:
            done = os.preadv(self._fd, [memoryview(self._buffer)[:size]], first)
        except OSError:
            return None
        self.bytes_read += done
        return self._buffer[skip : skip + length] if done >= skip + length else None

    def _wait_for_turn(self, size: int) -> None:
        now_s = time.monotonic()
        self._free_at_s = max(self._free_at_s, now_s - _BURST_S) + size / self._rate
        if self._free_at_s > now_s and self._stop.wait(self._free_at_s - now_s):
            raise StorageError("it was stopped")


class HeldPart:
    """Bytes that have been read already, to be looked at as if they were the drive; see ``Source``."""

    def __init__(self, reader: MediumReader, start: int, data: bytes | None) -> None:
        self.file = reader.file
        self.base = reader.base
        self._start = start
        self._data = data  # None: what stands at ``start`` cannot be read

    def read(self, at: int, length: int) -> bytes:
        """See ``Source``."""
        first = at - self._start
        if self._data is None or first < 0 or first + length > len(self._data):
            raise UnreadableError(f"{self.file}: offset {self.base + at} cannot be read", remedy="replace the drive")
        return self._data[first : first + length]

    def read_around(self, at: int, length: int) -> tuple[bytes, int]:
        """See ``Source``."""
        try:
            return self.read(at, length), 0
        except UnreadableError:
            return bytes(length), -(-length // PAGE_BYTES)


def _open(file: str) -> int:
    try:
        return os.open(file, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise StorageError(f"{file}: {error.strerror}", remedy="check the drive") from error
    return os.open(file, os.O_RDONLY | os.O_CLOEXEC)  # a filesystem without O_DIRECT
