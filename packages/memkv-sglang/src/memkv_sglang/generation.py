# SPDX-License-Identifier: Apache-2.0
"""``clear()`` for a store that many processes share: a number in every key, raised to make older pages unreachable.

Deleting would need the keys of all pages ever written, by any process. Instead the cluster holds the namespace's
generation, 0 until something is cleared, under a few keys of its own (so that it outlives a node), and every process
reads it again every few seconds, along with a question it asks anyway. Pages of an older generation are never asked
for again and go as the server evicts. The greatest number wins, so ranks that clear at the same moment agree soon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from memkv_core import Client
from memkv_sglang.deadline import Deadline
from memkv_sglang.limits import GENERATION_REFRESH_S

_COPIES: Final = tuple(f"generation/{copy}" for copy in range(4))  # no page key has a slash
_RECORD_BYTES: Final = 8


class Generation:
    """The generation of one namespace as this process knows it. Thread-safe.

    ``mark`` is what every key of the namespace ends in; empty in generation 0.
    """

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._number = 0
        self._read_at_s: float | None = None
        self.mark = ""

    def refresh(self, deadline: Deadline) -> None:
        """Reads the cluster's number where that is due. One thread does; the others go on with what is known."""
        due_s = None if self._read_at_s is None else self._read_at_s + GENERATION_REFRESH_S
        if due_s is not None and self._clock() < due_s:
            return
        # Nothing is known before the first answer, so then every thread waits for it.
        if not self._lock.acquire(timeout=0 if due_s is not None else deadline.left_ms() / 1000):
            return
        try:
            if self._read_at_s is None or due_s is not None:
                self._read(deadline)
        finally:
            self._lock.release()

    def advance(self, deadline: Deadline) -> bool:
        """Starts a new generation, for this process at once; True when the cluster has it too."""
        with self._lock:
            self._read(deadline)
            # The clock, so that ranks which clear one after another do not count to different numbers for long.
            self._set(max(self._number + 1, time.time_ns() // 1_000_000))
            return self._write(deadline)

    def _read(self, deadline: Deadline) -> None:
        targets = [bytearray(_RECORD_BYTES) for _ in _COPIES]
        lengths = self._client.get(_COPIES, targets, timeout_ms=max(1, deadline.left_ms()))
        self._read_at_s = self._clock()
        known = [
            int.from_bytes(target, "little")
            for target, length in zip(targets, lengths, strict=True)
            if length == _RECORD_BYTES
        ]
        stored = max(known, default=0)
        if stored > self._number:
            self._set(stored)
        elif self._number and (stored < self._number or len(known) < len(_COPIES)):
            self._write(deadline)  # a node lost it, or an older one was written over it

    def _write(self, deadline: Deadline) -> bool:
        record = self._number.to_bytes(_RECORD_BYTES, "little")
        left_ms = deadline.left_ms()
        return bool(left_ms) and any(self._client.put(_COPIES, [record] * len(_COPIES), timeout_ms=left_ms))

    def _set(self, number: int) -> None:
        self._number = number
        self.mark = f"~{number:x}"
