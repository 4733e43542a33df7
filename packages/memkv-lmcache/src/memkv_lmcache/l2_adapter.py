# SPDX-License-Identifier: Apache-2.0
"""The L2 adapter of ``lmcache server`` (MP mode) on MemKV. Written against LMCache 0.5.6 and 0.5.7rc2.

Contract with LMCache's controllers (one thread each, which serve every request):

* ``submit_*`` only queues. Every task is settled before its deadline (``timeout_ms``, 5 s unless configured) with its
  result published and then notified, whatever the network and the nodes do: LMCache itself waits without a bound.
* After a task is settled no byte can land in its objects: the client's calls guarantee that.
* A bitmap has a bit for each key, with holes where they are. A value of another layout than its target is a hole.
* A store is all or nothing for the task, and each key appears complete or not at all.
* Nothing needs a lock: a value that is evicted between lookup and load is a hole of the load.
* ``close()`` returns when no thread touches an object any more.
* Construction fails fast on a wrong setting or license, which stops the server's start with one line that says why. A
  node that is down does not: until it is back everything misses.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from memkv_core import Client
from memkv_core.guard import Guard
from memkv_lmcache import _compat, limits
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.identity import mp_identity
from memkv_lmcache.ledger import Ledger
from memkv_lmcache.objects import ObjectStore
from memkv_lmcache.options import Options
from memkv_lmcache.probe import report_strangers
from memkv_lmcache.tasks import Results, Workers, spans

logger: Final = logging.getLogger(__name__)

GUARD: Final = Guard("memkv_lmcache")


class MemKVL2AdapterConfig(_compat.L2AdapterConfigBase):
    """``adapter_params``, checked. LMCache finds this class by its name."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> MemKVL2AdapterConfig:
        """Raises ConfigError (a ValueError) that names the key."""
        return cls(Options.for_mp(d))

    @classmethod
    def help(cls) -> str:
        return (
            "MemKV L2 adapter params (all optional; docs/adapters/vllm.md has every one):\n"
            "- prefix (str): fleets with different prefixes never share (default empty)\n"
            f"- io_threads (int): threads for each of store and load (default {limits.IO_THREADS_COUNT})\n"
            "- servers, auth_key, license, timeout_ms, ...: as MEMKV_* in the environment, and before it"
        )


class MemKVL2Adapter(_compat.L2AdapterInterface):
    """LMCache's objects in a MemKV cluster. Made by ``lmcache server --l2-adapter`` from the JSON there.

    Raises ConfigError or LicenseError (one line: the cause and the remedy) where it cannot work at all.
    """

    def __init__(self, config: MemKVL2AdapterConfig | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__()  # no capacity: MemKV keeps its own, so LMCache has nothing to evict here
        options = config.options if isinstance(config, MemKVL2AdapterConfig) else Options.for_mp(config)
        settings = options.client_config(timeout_ms_max=limits.TASK_TIMEOUT_MS_MAX)
        self._timeout_ms = settings.timeout_ms
        self._client = Client(settings, identity=mp_identity(options.prefix))
        self._region = _register(self._client, kwargs.get("l1_memory_desc"))
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._objects = ObjectStore(self._client)
        self._ledger: Ledger[Any] = Ledger()
        self._closed = False
        self._stored: Results[Any] = Results(_compat.create_event_notifier())
        self._found: Results[Any] = Results(_compat.create_event_notifier())
        self._loaded: Results[Any] = Results(_compat.create_event_notifier())
        self._store_workers = Workers("store", options.io_threads, GUARD)
        self._lookup_workers = Workers("lookup", limits.LOOKUP_THREADS_COUNT, GUARD)
        self._load_workers = Workers("load", options.io_threads, GUARD)
        servers = ", ".join(f'"{server}"' for server in self._client.servers)
        logger.info(
            "MemKVL2Adapter ready (servers=[%s], namespace=%s, prefix=%s, timeout_ms=%d)",
            servers, self._client.namespace, options.prefix or "none", self._timeout_ms,
        )  # fmt: skip
        report_strangers(self._client, logger)

    # -- wake-ups ----------------------------------------------------------------------------------------------------
    def get_store_event_fd(self) -> int:
        return self._stored.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        return self._found.fileno()

    def get_load_event_fd(self) -> int:
        return self._loaded.fileno()

    # -- store -------------------------------------------------------------------------------------------------------
    def submit_store_task(self, keys: Sequence[Any], objects: Sequence[Any]) -> int:
        """Queues a store of one object for each key; returns the task's id."""
        task_id = next(self._ids)
        self._store_workers.submit_parts(
            [partial(self._store, keys[span], objects[span]) for span in self._spans(objects)],
            lambda parts: self._stored.publish(task_id, _store_result(parts)),
            lambda: None,
            Deadline(self._timeout_ms),
        )
        return task_id

    def _store(self, keys: Sequence[Any], objects: Sequence[Any], deadline: Deadline) -> int | None:
        """How many bytes were sent; None where not all is stored."""
        missing, sent_bytes = self._objects.store(keys, objects, deadline)
        if missing:
            GUARD.count("miss", missing)
            return None
        self._note_stored(keys, [each.get_size() for each in objects])
        return sent_bytes

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        """The store tasks settled since the last call: id to ``L2StoreResult``."""
        return self._stored.take_all()

    # -- lookup ------------------------------------------------------------------------------------------------------
    def submit_lookup_and_lock_task(
        self, keys: Sequence[Any], group_layout_descs: Mapping[int, Any] | None = None, *_: Any, **__: Any
    ) -> int:
        """Queues a lookup; returns the task's id. Older versions pass one layout, or none."""
        task_id = next(self._ids)
        descs = group_layout_descs if isinstance(group_layout_descs, Mapping) else {}
        self._lookup_workers.submit(
            lambda deadline: self._lookup(keys, descs, deadline),
            lambda result: self._found.publish(task_id, result),
            lambda: _compat.Bitmap(len(keys)),
            Deadline(self._timeout_ms),
        )
        return task_id

    def _lookup(self, keys: Sequence[Any], descs: Mapping[int, Any], deadline: Deadline) -> Any:
        hits = self._objects.find(keys, descs, deadline)
        self._notify_accessed([keys[index] for index in hits])
        return _bitmap(len(keys), hits)

    def query_lookup_and_lock_result(self, task_id: int) -> Any:
        """The bitmap of a settled lookup, once; None before."""
        return self._found.take(task_id)

    def submit_unlock(self, keys: Sequence[Any]) -> None:
        """Nothing is locked."""

    # -- load --------------------------------------------------------------------------------------------------------
    def submit_load_task(self, keys: Sequence[Any], objects: Sequence[Any]) -> int:
        """Queues a load of each key into its object; returns the task's id."""
        task_id = next(self._ids)
        cut = self._spans(objects)
        nothing: Callable[[], list[int]] = list

        def settle(parts: Sequence[list[int]]) -> None:
            hits = (span.start + hit for span, hits in zip(cut, parts) for hit in hits)
            self._loaded.publish(task_id, _bitmap(len(keys), hits))

        self._load_workers.submit_parts(
            [partial(self._load, keys[span], objects[span]) for span in cut],
            settle,
            nothing,
            Deadline(self._timeout_ms),
        )
        return task_id

    def _load(self, keys: Sequence[Any], objects: Sequence[Any], deadline: Deadline) -> list[int]:
        """Which of the keys are in their objects now."""
        hits = self._objects.load(keys, objects, deadline)
        GUARD.count("miss", len(keys) - len(hits))
        self._note_stored([keys[index] for index in hits], [objects[index].get_size() for index in hits])
        return hits

    def query_load_result(self, task_id: int) -> Any:
        """The bitmap of a settled load, once; None before."""
        return self._loaded.take(task_id)

    # -- what is there -----------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=None)
    def delete(self, keys: Sequence[Any]) -> None:
        """Drops objects, from every node and for everybody; those that are not there are skipped."""
        self._objects.delete(keys)
        gone = self._ledger.discard(keys)
        if gone:
            self._notify_keys_deleted([key for key, _ in gone], [size for _, size in gone])

    def list_l2_keys(self, model_name: str | None = None, page_size: int = 500, cursor: str | None = None) -> Any:
        """The keys that this server stored or loaded and that the cluster still holds, oldest first.

        Raises ValueError for a page size below 1 and for a cursor that is none of ours.
        """
        if page_size < 1:
            raise ValueError(f"page_size is {page_size}, and must be at least 1")
        after = _serial(cursor)
        entries = self._ledger.page(after, page_size)
        wanted = [(key, size) for key, _, size in entries if model_name in (None, key.model_name)]
        held = self._holds([key for key, _ in wanted])
        listed = tuple(
            _compat.KeyEntry(key=key.to_encoded_object_key(), size_bytes=size)
            for (key, size), there in zip(wanted, held, strict=True)
            if there
        )
        last = entries[-1][1] if len(entries) == page_size else None
        return _compat.KeyListPage(entries=listed, next_page_token=None if last is None else str(last))

    @GUARD.guarded(miss=lambda self, keys: [False] * len(keys))
    def _holds(self, keys: Sequence[Any]) -> list[bool]:
        return self._objects.holds(keys)

    @GUARD.guarded(miss=None)
    def submit_touch(self, keys: Sequence[Any]) -> None:
        """Tells LMCache's own listeners that keys were used. MemKV sees use when a value is read."""
        self._notify_accessed(list(keys))

    def get_memory_tags(self) -> Any:
        """LMCache 0.5.7 and later: storage, elsewhere."""
        return _compat.remote_memory_tags()

    def report_status(self) -> dict[str, Any]:
        """``is_healthy``: open, all threads alive, and at least one node answers. Never waits."""
        down = {} if self._closed else self._client.servers_down()
        workers = (self._store_workers, self._lookup_workers, self._load_workers)
        reachable = len(down) < len(self._client.servers)
        usage = self.get_usage()
        return {
            "is_healthy": not self._closed and reachable and all(each.alive for each in workers),
            "type": type(self).__name__,
            "namespace": self._client.namespace,
            "servers": {server: down.get(server, "up") for server in self._client.servers},
            "waiting_tasks": {name: each.waiting_count for name, each in zip(("store", "lookup", "load"), workers)},
            "misses": GUARD.counts(),
            "known_keys": len(self._ledger),
            "current_size_bytes": usage.total_bytes_used,
            "max_capacity_bytes": usage.total_capacity_bytes,
        }

    def close(self) -> None:
        """Settles what waits as misses, cuts short what runs, and returns when no thread is left. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        workers = (self._lookup_workers, self._load_workers, self._store_workers)
        for each in workers:
            each.stop()
        self._client.close()  # interrupts the calls under way: they end as misses, and no byte lands after that
        for each in workers:
            if not each.join(self._timeout_ms / 1000):
                logger.error("a thread of MemKV did not end within %d ms of close()", self._timeout_ms)
        if self._region is not None:
            self._region.close()
        for results in (self._stored, self._found, self._loaded):
            results.close()

    # -- pieces ------------------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=lambda self, objects: [slice(0, len(objects))])
    def _spans(self, objects: Sequence[Any]) -> list[slice]:
        """The parts of a task that different threads do: one connection alone leaves a fast network half idle."""
        byte_count = len(objects) * objects[0].get_size() if objects else 0
        return spans(
            len(objects), byte_count, part_bytes_min=limits.PART_BYTES_MIN, parts_max=self._store_workers.thread_count
        )

    @GUARD.guarded(miss=None)
    def _note_stored(self, keys: Sequence[Any], sizes: Sequence[int]) -> None:
        """Books what is stored. Guarded by itself: a listener that fails must not turn a hit into a miss."""
        fresh, dropped = self._ledger.add(keys, sizes)
        if fresh:
            self._notify_keys_stored([key for key, _ in fresh], [size for _, size in fresh])
        if dropped:
            self._notify_keys_deleted([key for key, _ in dropped], [size for _, size in dropped])

    @GUARD.guarded(miss=None)
    def _notify_accessed(self, keys: list[Any]) -> None:
        if keys:
            self._notify_keys_accessed(keys)


def _store_result(parts: Sequence[int | None]) -> Any:
    sent = [each for each in parts if each is not None]
    done = len(sent) == len(parts)
    return _compat.L2StoreResult(done, sum(sent) if done else 0)


def _bitmap(size: int, indices: Iterable[int]) -> Any:
    bitmap = _compat.Bitmap(size)
    for index in indices:
        bitmap.set(index)
    return bitmap


def _serial(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit():
        raise ValueError(f"cursor {cursor[:40]!r} is none that this adapter gave")
    return int(cursor)


def _register(client: Client, desc: Any) -> Any:
    """Registers LMCache's arena once: the fast transports read and write it in place.

    Of an arena that grows LMCache states the part that is there to stay; it states none of one in POSIX shared memory,
    which is there whole (only io_uring cannot register that, which is what LMCache's field is for).
    """
    if desc is None or not desc.ptr:
        return None
    size = getattr(desc, "stable_registration_size", None) or desc.size
    return client.register(memoryview((ctypes.c_ubyte * size).from_address(desc.ptr)).cast("B"))
