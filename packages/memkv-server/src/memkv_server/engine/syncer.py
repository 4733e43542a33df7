# SPDX-License-Identifier: Apache-2.0
"""Who syncs a drive: whoever asks, and a thread that does so within a second of every change."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from memkv_core.errors import StorageError
from memkv_server.engine.health import DriveHealth
from memkv_server.engine.limits import SYNC_INTERVAL_S


class Syncer:
    """fdatasync of one file or device; the GIL is free meanwhile. Any thread calls it.

    After the first that failed none is believed: the kernel tells of a lost page once, and what it lost cannot be
    told. The drive takes no more writes then.

    ``write_back`` is called before each sync, for what is still in this process's memory; it raises StorageError.
    """

    def __init__(self, fd: int, name: str, health: DriveHealth, write_back: Callable[[], None]) -> None:
        self._fd = fd
        self._name = name
        self._health = health
        self._write_back = write_back
        self._lost: str | None = None  # why a sync failed
        self._syncing = threading.Lock()
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memkv-drive-sync", daemon=True)
        self._thread.start()

    def written(self) -> None:
        """Something has changed: the thread will sync it."""
        if not self._dirty.is_set():
            self._dirty.set()

    def sync(self) -> None:
        """Returns when all that has been written is on the medium. Raises StorageError."""
        self._write_back()
        with self._syncing:
            if self._lost is None:
                try:
                    os.fdatasync(self._fd)
                except OSError as error:
                    self._lost = f"{self._name}: {error.strerror}"
                    self._health.write_failed(self._lost)
        if self._lost is not None:
            raise StorageError(self._lost, remedy="check the drive")

    def close(self) -> None:
        """Syncs what is left, and ends the thread."""
        self._stop.set()
        self._dirty.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            with contextlib.suppress(StorageError):  # the drive's health has it
                self.sync()
            if self._stop.wait(SYNC_INTERVAL_S):
                if self._dirty.is_set():
                    continue
                return
