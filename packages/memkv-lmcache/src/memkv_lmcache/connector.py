# SPDX-License-Identifier: Apache-2.0
"""A remote connector of LMCache's in-process mode on MemKV: ``remote_storage_plugins``. Written against LMCache 0.5.6.

LMCache's RemoteBackend stands around it and adds what a storage plugin does not get: its health monitor (by ``ping``),
its serializers, its metrics. It also adds a thread hop for each call and its own time-outs; ``backend.py`` is faster.

References are RemoteBackend's: it takes one before a put and gives it back after. What a get returns is allocated here
with one reference, which is the engine's. All coroutines run on the loop that every backend shares, so they only wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from memkv_core.guard import Guard
from memkv_lmcache import _compat, limits
from memkv_lmcache.chunks import ChunkStore, release
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.options import Options, plugin_start
from memkv_lmcache.probe import report_strangers
from memkv_lmcache.tasks import Workers, on

logger: Final = logging.getLogger(__name__)

GUARD: Final = Guard("memkv_lmcache")

URL: Final = "memkv://"

Objects = list[Any]  # LMCache has a method of the name list, which hides the type inside the class


class MemKVConnectorAdapter(_compat.ConnectorAdapter):
    """Makes the connector. LMCache calls this without arguments and asks it about ``plugin://<name>``."""

    def __init__(self) -> None:
        super().__init__(URL)

    def can_parse(self, url: str) -> bool:
        """Whether the URL is ours: ``memkv://...``, or ``plugin://memkv`` and ``plugin://memkv.<anything>``."""
        kind, _, name = url.partition("://")
        return kind == "memkv" or (kind == "plugin" and name.partition(".")[0] == "memkv")

    def create_connector(self, context: Any) -> MemKVConnector:
        return MemKVConnector(context.config, context.metadata, context.local_cpu_backend, context.plugin_name)


class MemKVConnector(_compat.RemoteConnector):
    """LMCache's chunks in a MemKV cluster, behind its RemoteBackend."""

    def __init__(self, config: Any, metadata: Any, local_cpu_backend: Any, plugin_name: str | None = None) -> None:
        super().__init__(config, metadata)
        extra = getattr(config, "extra_config", None)
        start = f"remote_storage_plugin.{plugin_name}." if plugin_name else None
        options = Options.for_in_process(extra, start or plugin_start(extra, "remote_storage_plugin", __name__))
        self._store = ChunkStore(config, metadata, local_cpu_backend, options)
        self._workers = Workers("remote", options.io_threads, GUARD)
        servers = ", ".join(f'"{server}"' for server in self._store.client.servers)
        logger.info("MemKVConnector ready (servers=[%s], namespace=%s)", servers, self._store.client.namespace)
        report_strangers(self._store.client, logger)

    # -- what is there -----------------------------------------------------------------------------------------------
    async def exists(self, key: Any) -> bool:
        """Whether a chunk is stored."""
        return await self.batched_async_contains("", [key]) == 1

    @GUARD.guarded(miss=False)
    def exists_sync(self, key: Any) -> bool:
        """As ``exists``, on the caller's thread."""
        return self._store.lookup([key]) == 1

    def support_batched_contains(self) -> bool:
        return True

    @GUARD.guarded(miss=0)
    def batched_contains(self, keys: Sequence[Any]) -> int:
        """How many chunks from the first one on are stored; on the caller's thread."""
        return self._store.lookup(keys)

    def support_batched_async_contains(self) -> bool:
        return True

    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Any], pin: bool = False) -> int:
        """How many chunks from the first one on are stored."""
        deadline = Deadline(self._store.lookup_timeout_ms)
        return await asyncio.wrap_future(on(self._workers, lambda _: self._store.lookup(keys), lambda: 0, deadline))

    async def list(self) -> list[str]:
        """Nothing: a cluster holds more than one process stored, and LMCache asks only to show it."""
        return []

    # -- get ---------------------------------------------------------------------------------------------------------
    async def get(self, key: Any) -> Any:
        """A new object with the chunk, or None."""
        return (await self.batched_get([key]))[0]

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: Sequence[Any]) -> Objects:
        """A new object for each chunk, None for each miss."""
        return await self._loaded(lambda left: self._store.get(keys, left), [None] * len(keys))

    def support_batched_get_non_blocking(self) -> bool:
        return True

    async def batched_get_non_blocking(self, lookup_id: str, keys: Sequence[Any]) -> Objects:
        """New objects for the run of chunks before the first miss."""
        return await self._loaded(lambda left: self._store.get_prefix(keys, left), [])

    async def _loaded(self, load: Callable[[Deadline], Objects], miss: Objects) -> Objects:
        loading = on(self._workers, load, lambda: miss, Deadline(self._store.timeout_ms))
        try:
            return await asyncio.wrap_future(loading)
        except asyncio.CancelledError:  # RemoteBackend's own time-out
            loading.add_done_callback(lambda done: release(each for each in done.result() if each is not None))
            raise

    # -- put ---------------------------------------------------------------------------------------------------------
    async def put(self, key: Any, memory_obj: Any) -> None:
        """Stores one chunk."""
        await self.batched_put([key], [memory_obj])

    def support_batched_put(self) -> bool:
        return True

    async def batched_put(self, keys: Sequence[Any], memory_objs: Sequence[Any]) -> None:
        """Stores chunks. Holds a reference of each meanwhile, in case that LMCache cancels the wait and frees them."""
        if not self._store.writes:
            return
        names = [self._store.name(key) for key in keys]
        for each in memory_objs:
            each.ref_count_up()
        storing = on(
            self._workers,
            lambda left: self._store.put(names, memory_objs, left),
            lambda: [False] * len(names),
            Deadline(self._store.timeout_ms),
        )
        storing.add_done_callback(lambda _: release(memory_objs))
        await asyncio.wrap_future(storing)

    # -- the rest ----------------------------------------------------------------------------------------------------
    def support_ping(self) -> bool:
        return True

    async def ping(self) -> int:
        """0 while at least one node answers; LMCache passes the backend by when it is something else."""
        deadline = Deadline(limits.CHECK_TIMEOUT_MS)
        return await asyncio.wrap_future(on(self._workers, lambda _: self._ping(), lambda: 1, deadline))

    def _ping(self) -> int:
        self._store.client.exists([b"memkv-lmcache-ping"], timeout_ms=limits.CHECK_TIMEOUT_MS)
        return 0 if len(self._store.client.servers_down()) < len(self._store.client.servers) else 1

    @GUARD.guarded(miss=False)
    def remove_sync(self, key: Any) -> bool:
        """Drops a chunk from the cluster, for everybody; whether it was there."""
        return self._store.delete([key]) == 1

    async def close(self) -> None:
        """Ends what runs and gives everything back. Idempotent."""
        self._workers.stop()
        self._store.close()
        await asyncio.get_running_loop().run_in_executor(None, self._workers.join, self._store.timeout_ms / 1000)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._store.client.namespace}>"
