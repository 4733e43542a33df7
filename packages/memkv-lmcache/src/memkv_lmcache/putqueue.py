# SPDX-License-Identifier: Apache-2.0
"""Chunks on their way into the cluster, in-process mode. The forward pass hands them over and goes on.

Each chunk that waits holds LMCache's host memory by one reference, which is given back exactly once: when the chunk is
stored, refused, too late, or dropped. The bound is in bytes; what does not fit is not queued, and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from memkv_core.guard import Guard
from memkv_core.log import RateLimitedLog
from memkv_lmcache.chunks import ChunkStore
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.limits import CLOSE_DRAIN_MS, PUT_THREADS_COUNT, PUT_WAIT_MS_MAX
from memkv_lmcache.tasks import Workers

_LOG: Final = RateLimitedLog(logging.getLogger(__name__))

OnComplete = Callable[[Any], object]


@dataclass(slots=True)
class _Entry:
    key: Any
    name: str
    object: Any
    size: int
    future: Future[bool] = field(default_factory=Future)
    on_complete: list[OnComplete] = field(default_factory=list)


class PutQueue:
    """Queues chunks for a ``ChunkStore``. Thread-safe; ``submit`` takes microseconds a chunk and waits for nothing."""

    def __init__(self, store: ChunkStore, bytes_max: int, guard: Guard) -> None:
        self._store = store
        self._bytes_max = bytes_max
        self._guard = guard
        self._lock = threading.Lock()
        self._pending: dict[str, _Entry] = {}
        self._bytes = 0
        self.dropped_count = 0
        self._workers = Workers("put", PUT_THREADS_COUNT, guard)

    def submit(self, keys: Sequence[Any], objects: Sequence[Any], on_complete: OnComplete | None) -> list[Future[bool]]:
        """Takes a reference of each object that is queued. A future for each key: whether it is stored."""
        entries = [
            _Entry(key, self._store.name(key), each, each.get_size()) for key, each in zip(keys, objects, strict=True)
        ]
        batch: list[_Entry] = []
        futures: list[Future[bool]] = []
        over: list[_Entry] = []
        for entry in entries:
            if on_complete is not None:
                entry.on_complete.append(on_complete)
            with self._lock:
                known = self._pending.get(entry.name)
                if known is not None:  # the same chunk is on its way
                    known.on_complete.extend(entry.on_complete)
                    futures.append(known.future)
                    continue
                futures.append(entry.future)
                if self._bytes + entry.size > self._bytes_max:
                    self.dropped_count += 1
                    over.append(entry)
                    continue
                entry.object.ref_count_up()
                self._pending[entry.name] = entry
                self._bytes += entry.size
            batch.append(entry)
        if over:
            _LOG.warning(
                "full", "%d chunks are not stored: %d MiB wait already (put_queue_mb)", len(over),
                self._bytes_max >> 20,
            )  # fmt: skip
            for entry in over:
                self._report(entry, stored=False)
        if batch:
            self._workers.submit(
                lambda _: self._put(batch),
                lambda stored: self._settle(batch, stored),
                lambda: [False] * len(batch),
                Deadline(PUT_WAIT_MS_MAX),
            )
        return futures

    def contains(self, key: Any) -> bool:
        """Whether a chunk is queued or on its way."""
        with self._lock:
            return self._store.name(key) in self._pending

    @property
    def waiting_bytes(self) -> int:
        with self._lock:
            return self._bytes

    def _put(self, batch: Sequence[_Entry]) -> list[bool]:
        for entry in batch:
            self._store.note(entry.key, entry.object)
        deadline = Deadline(self._store.timeout_ms)
        return self._store.put([entry.name for entry in batch], [entry.object for entry in batch], deadline)

    def _settle(self, batch: Sequence[_Entry], stored: Sequence[bool]) -> None:
        for entry, done in zip(batch, stored, strict=True):
            with self._lock:
                del self._pending[entry.name]
                self._bytes -= entry.size
            self._give_back(entry)
            self._report(entry, stored=done)

    def _give_back(self, entry: _Entry) -> None:
        self._guard.guarded(miss=None)(entry.object.ref_count_down)()

    def _report(self, entry: _Entry, *, stored: bool) -> None:
        entry.future.set_result(stored)
        for on_complete in entry.on_complete:
            self._guard.guarded(miss=None)(_call)(on_complete, entry.key)

    def close(self, interrupt: Callable[[], None]) -> None:
        """Waits a little for what is queued, then ``interrupt``s the calls under way; gives every reference back."""
        drain = Deadline(CLOSE_DRAIN_MS)
        while self.waiting_bytes and drain.left_ms() and not self._store.client.servers_down():
            time.sleep(0.01)
        self._workers.stop()
        interrupt()
        self._workers.join(self._store.timeout_ms / 1000)


def _call(on_complete: OnComplete, key: Any) -> None:
    on_complete(key)
