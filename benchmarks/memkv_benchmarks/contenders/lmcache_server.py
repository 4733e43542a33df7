# SPDX-License-Identifier: Apache-2.0
"""LMCache's own ``lm://`` server through its own connector, which moves one chunk at a time.

Of what stands around the connector in LMCache only the memory is replaced: a chunk is received straight into its row,
so that no allocation is counted. A put is not answered; a question for the last key says when the server has them all.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import sys
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector.lm_connector import LMCServerConnector

from memkv_benchmarks.contenders.base import Blocks, ContenderError, Server, free_port


class _Rows:
    """Where chunks are received: the row that is next."""

    def __init__(self, config: Any, metadata: Any) -> None:
        self.config, self.metadata = config, metadata
        self.next: memoryview | None = None

    def allocate(self, *_: Any) -> Any:
        return SimpleNamespace(byte_array=self.next)


class _Chunk:
    """A chunk to put, as the connector asks for it."""

    def __init__(self, row: memoryview, shape: Any) -> None:
        self.byte_array, self._shape = row, shape

    def get_shape(self) -> Any:
        return self._shape

    def get_dtype(self) -> Any:
        return torch.uint8

    def get_memory_format(self) -> Any:
        return MemoryFormat.BINARY


class LMServer:
    synthetic = False

    def __init__(self) -> None:
        port = free_port()
        self._server = Server([sys.executable, "-m", "lmcache.v1.server", "127.0.0.1", str(port)], port)
        self._loop = asyncio.new_event_loop()
        metadata = LMCacheMetadata("bench", 1, 1, 0, 0, torch.uint8, (1, 2, 256, 1, 64))
        self._rows = _Rows(LMCacheEngineConfig.from_defaults(), metadata)
        self._connector = LMCServerConnector("127.0.0.1", port, self._loop, self._rows)

    def versions(self) -> str:
        return f"lmcache.v1.server of lmcache {importlib.metadata.version('lmcache')}, its own connector"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        shape = torch.Size([source.shape[1], 0, 0, 0])
        self._sources = [_Chunk(row.data, shape) for row in source]
        self._targets = [row.data for row in target]

    def put(self, keys: Sequence[str]) -> None:
        async def all_of_them() -> bool:
            for key, chunk in zip(chunks, self._sources):
                await self._connector.put(key, chunk)
            return bool(await self._connector.exists(chunks[-1]))

        chunks = self._keys(keys)
        if not self._run(all_of_them()):
            raise ContenderError("the last chunk was not stored")

    def get(self, keys: Sequence[str]) -> None:
        async def all_of_them() -> bool:
            for key, row in zip(chunks, self._targets):
                self._rows.next = row
                if await self._connector.get(key) is None:
                    return False
            return True

        chunks = self._keys(keys)
        if not self._run(all_of_them()):
            raise ContenderError("a chunk is missing")

    def exists(self, keys: Sequence[str]) -> int:
        async def all_of_them() -> int:
            return sum([await self._connector.exists(key) for key in chunks])

        chunks = self._keys(keys)
        return int(self._run(all_of_them()))

    def forget(self, keys: Sequence[str]) -> None:
        """It cannot; keys are used again, and overwritten."""

    def close(self) -> None:
        if hasattr(self, "_connector"):
            self._run(self._connector.close())
        self._loop.close()
        self._server.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    @staticmethod
    def _keys(keys: Sequence[str]) -> list[Any]:
        return [
            CacheEngineKey("bench", 1, 0, int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"), torch.uint8)
            for key in keys
        ]


make = LMServer
