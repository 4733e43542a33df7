# SPDX-License-Identifier: Apache-2.0
"""What the adapter uses of LMCache, where there is no LMCache: in unit tests, and where the CLI runs elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class L2AdapterInterface:
    """Keeps the books as LMCache's base class does."""

    def __init__(self, max_capacity_bytes: int = 0) -> None:
        self._listeners: list[Any] = []
        self._max_capacity_bytes = max_capacity_bytes
        self._total_bytes_used = 0

    def register_listener(self, listener: Any) -> None:
        self._listeners.append(listener)

    def _notify_keys_stored(self, keys: list[Any], sizes: list[int]) -> None:
        self._total_bytes_used += sum(sizes)
        for listener in self._listeners:
            listener.on_l2_keys_stored(keys, sizes)

    def _notify_keys_accessed(self, keys: list[Any]) -> None:
        for listener in self._listeners:
            listener.on_l2_keys_accessed(keys)

    def _notify_keys_deleted(self, keys: list[Any], sizes: list[int]) -> None:
        self._total_bytes_used -= sum(sizes)
        for listener in self._listeners:
            listener.on_l2_keys_deleted(keys)

    def get_usage(self) -> Any:
        return AdapterUsage(self._total_bytes_used, self._max_capacity_bytes)


@dataclass(frozen=True)
class AdapterUsage:
    """Bytes; a capacity of 0 is unknown."""

    total_bytes_used: int
    total_capacity_bytes: int


class L2AdapterConfigBase:
    """The base of an adapter's config; LMCache's holds common settings as well."""


class StoragePluginInterface:
    """The base of a storage plugin: keeps what it was made with."""

    def __init__(
        self, dst_device: str = "cpu", config: Any = None, metadata: Any = None, local_cpu_backend: Any = None,
        loop: Any = None,
    ) -> None:  # fmt: skip
        self.dst_device = dst_device
        self.config = config
        self.metadata = metadata
        self.local_cpu_backend = local_cpu_backend
        self.loop = loop


class RemoteConnector:
    """The base of a remote connector."""

    def __init__(self, config: Any, metadata: Any) -> None: ...


class ConnectorAdapter:
    """The base of what makes a remote connector from a URL."""

    def __init__(self, schema: str = "") -> None:
        self.schema = schema

    def can_parse(self, url: str) -> bool:
        return self.schema != "" and url.startswith(self.schema)


class Bitmap:
    """One bit for each key of a task."""

    def __init__(self, size: int) -> None:
        self._bits = [False] * size

    def set(self, index: int) -> None:
        self._bits[index] = True

    def batched_set(self, indices: Iterable[int]) -> None:
        for index in indices:
            self._bits[index] = True

    def test(self, index: int) -> bool:
        return self._bits[index]

    def popcount(self) -> int:
        return sum(self._bits)


class L2StoreResult(int):
    """Bytes moved, or -1 for a failure."""

    def __new__(cls, success: bool, bytes_transferred: int) -> L2StoreResult:
        return super().__new__(cls, bytes_transferred if success else -1)

    def is_successful(self) -> bool:
        return self >= 0

    def bytes_transferred(self) -> int:
        return max(0, int(self))


class EventNotifier:
    """A wake-up by file descriptor."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._read_fd

    def notify(self) -> None:
        try:
            os.write(self._write_fd, b"\1")
        except BlockingIOError:  # full: whoever polls is awake already
            return

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)


@dataclass(frozen=True)
class KeyEntry:
    """A key as LMCache lists it, with its size."""

    key: Any
    size_bytes: int


@dataclass(frozen=True)
class KeyListPage:
    """A page of a listing."""

    entries: Sequence[KeyEntry]
    next_page_token: str | None
