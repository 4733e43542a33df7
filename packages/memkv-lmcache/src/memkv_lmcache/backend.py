# SPDX-License-Identifier: Apache-2.0
"""The storage plugin of LMCache inside vLLM's workers (in-process mode) on MemKV. Written against LMCache 0.5.6.

Contract with the engine, whose threads these calls hold:

* No method raises, and none takes longer than its deadline: what fails is a miss, counted and logged by the guard of
  ``memkv_core``. An exception would leave the scheduler without an answer, or end vLLM's engine core. ``lookup`` takes
  at most 0.8 of LMCache's ``lookup_timeout_ms``, any other call at most ``timeout_ms`` (5 s unless configured); once a
  node has spent one deadline its chunks miss at once, until it is back.
* ``batched_submit_put_task`` only queues, in a bound of bytes, and takes one reference of each object that it queues.
* What a get returns is allocated here with one reference, which is the engine's. Nothing waits for memory.
* The loop that all backends share is never held: what moves bytes runs on threads of its own.
* ``batched_get_non_blocking`` returns the run before the first miss. The layerwise engine cannot take less than it was
  promised (it would compute on stale memory), so a chunk is promised there only when all its layers are in memory.
* Construction connects to nothing. LMCache swallows what it raises, and logs the text: one line, cause and remedy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from memkv_core.guard import Guard
from memkv_lmcache import _compat, limits
from memkv_lmcache.chunks import ChunkStore, release
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.layers import LayerStash
from memkv_lmcache.options import Options, plugin_start
from memkv_lmcache.probe import report_strangers
from memkv_lmcache.putqueue import PutQueue
from memkv_lmcache.tasks import Workers, on

logger: Final = logging.getLogger(__name__)

GUARD: Final = Guard("memkv_lmcache")


def _no_object(self: Any, keys: Sequence[Any], *_: Any, **__: Any) -> list[Any]:
    return [None] * len(keys)


class MemKVStorageBackend(_compat.StoragePluginInterface):
    """LMCache's chunks in a MemKV cluster. Made by LMCache from ``storage_plugins`` of its yaml, with keywords.

    In the scheduler's process there is no ``local_cpu_backend``; there it only says what is stored.
    """

    def __init__(
        self, dst_device: str = "cpu", config: Any = None, metadata: Any = None, local_cpu_backend: Any = None,
        loop: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            dst_device=dst_device, config=config, metadata=metadata, local_cpu_backend=local_cpu_backend, loop=loop
        )
        extra = getattr(config, "extra_config", None)
        options = Options.for_in_process(extra, plugin_start(extra, "storage_plugin", __name__))
        self._store = ChunkStore(config, metadata, local_cpu_backend, options)
        self._puts = PutQueue(self._store, options.put_queue_mb << 20, GUARD)
        self._loads = Workers("load", options.io_threads, GUARD)
        self._lookups = Workers("lookup", limits.LOOKUP_THREADS_COUNT, GUARD)
        self._layers = LayerStash(self._store)
        servers = ", ".join(f'"{server}"' for server in self._store.client.servers)
        logger.info(
            "MemKVStorageBackend ready (servers=[%s], namespace=%s, role=%s, worker=%s, writes=%s)",
            servers, self._store.client.namespace, metadata.role, metadata.worker_id, self._store.writes,
        )  # fmt: skip
        report_strangers(self._store.client, logger)

    def __str__(self) -> str:
        return type(self).__name__

    # -- what is there -----------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=False)
    def contains(self, key: Any, pin: bool = False) -> bool:
        """Whether a chunk is stored. For a layer: whether the whole chunk is, which is then in memory (see above)."""
        if _is_first_layer(key) and self.local_cpu_backend is not None:
            return self._layers.fetch(key)
        return self._store.lookup([key]) == 1

    @GUARD.guarded(miss=0)
    def batched_contains(self, keys: Sequence[Any], pin: bool = False) -> int:
        """How many chunks from the first one on are stored, in one round trip."""
        return self._store.lookup(keys)

    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Any], pin: bool = False) -> int:
        """As ``batched_contains``, without holding the loop."""
        deadline = Deadline(self._store.lookup_timeout_ms)
        return await asyncio.wrap_future(on(self._lookups, lambda _: self._store.lookup(keys), lambda: 0, deadline))

    @GUARD.guarded(miss=False)
    def exists_in_put_tasks(self, key: Any) -> bool:
        """Whether a chunk is on its way into the cluster."""
        return self._puts.contains(key)

    # -- put ---------------------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=None)
    def batched_submit_put_task(
        self,
        keys: Sequence[Any],
        objs: Sequence[Any],
        transfer_spec: Any = None,
        on_complete_callback: Callable[[Any], object] | None = None,
    ) -> list[Future[bool]] | None:
        """Queues chunks and returns; None where this rank stores nothing (another one has the same bytes)."""
        if not self._store.writes or self.local_cpu_backend is None:
            return None
        return self._puts.submit(keys, objs, on_complete_callback)

    # -- get ---------------------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=None)
    def get_blocking(self, key: Any) -> Any:
        """A new object with the chunk, or None."""
        return self._store.get([key], Deadline(self._store.timeout_ms))[0]

    @GUARD.guarded(miss=_no_object)
    def batched_get_blocking(self, keys: Sequence[Any]) -> list[Any]:
        """A new object for each chunk, None for each miss."""
        return self._store.get(keys, Deadline(self._store.timeout_ms))

    async def batched_get_non_blocking(
        self, lookup_id: str, keys: Sequence[Any], transfer_spec: Any = None
    ) -> list[Any]:
        """New objects for the run of chunks before the first miss, without holding the loop."""
        kept: list[Any] | None = self._kept_layers(keys)
        if kept is not None:
            return kept
        deadline = Deadline(self._store.timeout_ms)
        loading = on(self._loads, lambda left: self._store.get_prefix(keys, left), list, deadline)
        try:
            return await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(lambda done: release(done.result()))  # nobody else will
            raise

    @GUARD.guarded(miss=None)
    def _kept_layers(self, keys: Sequence[Any]) -> list[Any] | None:
        return self._layers.take(keys)

    # -- the rest ----------------------------------------------------------------------------------------------------
    def pin(self, key: Any) -> bool:
        """Nothing is pinned: a chunk that is gone by the time it is read is a miss."""
        return True

    def unpin(self, key: Any) -> bool:
        """See ``pin``."""
        return True

    @GUARD.guarded(miss=False)
    def remove(self, key: Any, force: bool = True) -> bool:
        """Drops a chunk from the cluster, for everybody; whether it was there."""
        return self._store.delete([key]) == 1

    @GUARD.guarded(miss=0)
    def batched_remove(self, keys: Sequence[Any], force: bool = True) -> int:
        """Drops chunks from the cluster, for everybody; how many were there."""
        return self._store.delete(keys)

    def touch_cache(self) -> None:
        """The nodes see what is read."""

    def cancel_request(self, req_id: str) -> None:
        """No state is kept for a request."""

    def get_allocator_backend(self) -> Any:
        """LMCache's LocalCPUBackend, whose memory chunks are sent from and received into."""
        return self.local_cpu_backend

    @GUARD.guarded(miss=None)
    def close(self) -> None:
        """Stores what is queued if that is quick, then gives everything back. Idempotent."""
        self._lookups.stop()
        self._loads.stop()
        self._puts.close(interrupt=self._store.close)
        for each in (self._lookups, self._loads):
            each.join(self._store.timeout_ms / 1000)
        self._layers.close()


def _is_first_layer(key: Any) -> bool:
    return getattr(key, "layer_id", None) == 0
