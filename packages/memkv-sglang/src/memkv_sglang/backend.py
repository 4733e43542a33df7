# SPDX-License-Identifier: Apache-2.0
"""sglang's HiCache storage backend on MemKV. Written against sglang 0.5.23; 0.5.6 calls a part of it.

Contract with the engine (its threads: prefetch, prefetch I/O, backup, scheduler; three calls at once at most):

* No method of the data path raises. What fails is a miss (``False``, ``0``, ``None``, an empty result), counted and
  logged by the guard of ``memkv_core``. An exception would kill a thread of sglang 0.5.6 for good.
* Every call ends within ``timeout_ms`` (5 s unless configured, 8 s at most): sglang joins these threads for 10 s.
* A page that is stored already counts as stored; one False makes sglang drop the rest of an operation.
* Pages move straight between the host pool's memory and the sockets (``layout.py``), on the ``interface_v1`` path.
* Construction fails fast: a missing license or a wrong setting stops the engine with one line that says why. A server
  that is down does not: until it is back every page is a miss.

The pool is not known at construction, so the namespace is bound in ``register_mem_pool_host``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from memkv_core import Client, ClientConfig
from memkv_core.errors import InvalidArgumentError
from memkv_core.guard import Guard
from memkv_core.log import RateLimitedLog, get_logger
from memkv_core.metrics import export
from memkv_sglang import _compat, layout
from memkv_sglang.binding import PoolBinding
from memkv_sglang.deadline import Deadline
from memkv_sglang.keymap import Ranks
from memkv_sglang.layout import Page
from memkv_sglang.namespaces import Namespaces
from memkv_sglang.options import Options, call_timeout_ms
from memkv_sglang.pools import ALL_PAGES, Verdict
from memkv_sglang.saving import Saving
from memkv_sglang.stats import TransferStats

logger = get_logger(__name__)
_log = RateLimitedLog(logger)

GUARD = Guard("memkv_sglang")
KV = "kv"


def _no_page(self: Any, keys: Sequence[str], *_: Any, **__: Any) -> list[bool]:
    return [False] * len(keys)


def _no_tensor(self: Any, keys: Sequence[str], *_: Any, **__: Any) -> list[Any]:
    return [None] * len(keys)


def _no_prefix(*_: Any, **__: Any) -> Any:
    return _compat.PoolTransferResult(0, {}, [])


def _no_side_page(self: Any, transfers: Sequence[Any], *_: Any, **__: Any) -> dict[Any, list[bool]]:
    return {transfer.name: [False] * len(transfer.keys or ()) for transfer in transfers}


class MemKVHiCacheStorage(_compat.HiCacheStorage):
    """HiCache pages in a MemKV cluster. Made by sglang from ``--hicache-storage-backend-extra-config``.

    Raises ConfigError or LicenseError (one line: the cause and the remedy) where it cannot work at all.
    """

    def __init__(self, storage_config: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        options = Options.parse(getattr(storage_config, "extra_config", None))
        config = options.client_config()
        logger.info("Creating memkv engine config=PluginConfig %s", config.describe())
        self._timeout_ms = call_timeout_ms(config)
        export.name_rank(Ranks.of(storage_config).index)
        self._client = Client(config)
        self._namespaces = Namespaces(storage_config, options, self._client)
        self._stats = TransferStats(enabled=bool(getattr(storage_config, "enable_storage_metrics", False)))
        self._saving = None
        if options.min_saving_ms is not None:
            self._saving = Saving(options.min_saving_ms, options.prefill_tokens_per_s)
        self._bindings: dict[str, PoolBinding] = {}
        _log_ready(self._client, config, self._namespaces.suffix)
        if not options.interface_v1:
            logger.warning(
                'the extra config lacks "interface_v1": 1, so sglang copies every page once more on its way; '
                "everything works, only slower"
            )

    # -- pools ------------------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=None)
    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The pool of the KV itself. Until here the page geometry, hence the namespace, is unknown."""
        super().register_mem_pool_host(mem_pool_host)
        self._bind(KV, mem_pool_host)

    @GUARD.guarded(miss=None)
    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """A pool by name: side pools (Mamba, SWA, indexers, drafts), and the KV pool once more."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        self._bind(_compat.pool_name(host_pool_name), host_pool)

    def on_host_pools_registered(self) -> None:
        """All pools of this attach are known. Nothing waits for that here: each is bound as it comes."""

    def _bind(self, name: str, pool: Any) -> None:
        bound = self._bindings.get(name)
        if bound is not None and bound.pool is pool:
            return
        self._bindings[name] = self._namespaces.bind(name, pool)
        if bound is not None:
            bound.client.close()

    # -- KV pages, in place (interface_v1) --------------------------------------------------------------------------
    @GUARD.guarded(miss=_no_page)
    def batch_get_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Fills the pages at ``host_indices``; True for each page that is there and verified."""
        kv = self._pool(KV)
        if kv.is_logical:
            return [True] * len(keys)
        return kv.read(keys, host_indices, self._deadline(), self._stats)

    @GUARD.guarded(miss=_no_page)
    def batch_set_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Stores the pages at ``host_indices``; True for each page that is stored now or was before."""
        kv = self._pool(KV)
        if kv.is_logical:
            return [True] * len(keys)
        self._computed(keys)
        return kv.write(keys, host_indices, self._deadline(), self._stats)

    # -- KV pages, as flat tensors (without interface_v1) -----------------------------------------------------------
    @GUARD.guarded(miss=None)
    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """The target filled with one page, or None. Without a target a new flat page is made."""
        target = self._pool(KV).pool.get_dummy_flat_data_page() if target_location is None else target_location
        return self._get_flat([key], [target])[0]

    @GUARD.guarded(miss=_no_tensor)
    def batch_get(self, keys: Sequence[str], target_locations: Any = None, target_sizes: Any = None) -> list[Any]:
        """The targets that could be filled, None for each other."""
        if target_locations is None:
            pool = self._pool(KV).pool
            target_locations = [pool.get_dummy_flat_data_page() for _ in keys]
        return self._get_flat(keys, target_locations)

    @GUARD.guarded(miss=False)
    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Stores one flat page."""
        return self._set_flat([key], [value if value is not None else target_location])

    @GUARD.guarded(miss=False)
    def batch_set(
        self, keys: Sequence[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """Stores flat pages; True when all of them are stored."""
        return self._set_flat(keys, values if values is not None else target_locations)

    def _get_flat(self, keys: Sequence[str], targets: Sequence[Any]) -> list[Any]:
        kv = self._pool(KV)
        if kv.is_logical:
            return list(targets)
        found = kv.get(keys, self._blocks(kv, targets), self._deadline(), self._stats)
        return [target if there else None for target, there in zip(targets, found, strict=True)]

    def _set_flat(self, keys: Sequence[str], values: Sequence[Any]) -> bool:
        kv = self._pool(KV)
        if kv.is_logical:
            return True
        self._computed(keys)
        return all(kv.put(keys, self._blocks(kv, values), self._deadline(), self._stats))

    @staticmethod
    def _blocks(kv: PoolBinding, tensors: Sequence[Any]) -> list[Page]:
        return kv.split([layout.tensor_view(tensor) for tensor in tensors])

    # -- what is there ----------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=False)
    def exists(self, key: str) -> bool:
        """Whether a page is stored."""
        return self._lookup([key], self._deadline()) == 1

    @GUARD.guarded(miss=0)
    def batch_exists(self, keys: Sequence[str], extra_info: Any = None) -> int:
        """How many pages from the first one on are stored without a gap. Any number of keys, one deadline.

        0 also where they are, but computing them is faster (``min_saving_ms``).
        """
        return self._worth_loading(keys, self._lookup(keys, self._deadline()))

    def _lookup(self, keys: Sequence[str], deadline: Deadline) -> int:
        kv = self._pool(KV)
        return 0 if kv.is_logical else kv.lookup(keys, deadline)

    # -- load, or compute again -------------------------------------------------------------------------------------
    def _worth_loading(self, keys: Sequence[str], pages: int) -> int:
        """``pages`` that are there, or 0 where the engine computes them faster than they load. Counted as declined."""
        saving = self._saving
        if saving is None:
            return pages
        kv = self._pool(KV)
        if pages and saving.declines(pages, kv.page_tokens, load_ms := kv.client.estimate(pages * kv.page_bytes)):
            kv.client.count_declined(pages)
            _log.log(
                logging.INFO, "declined",
                "%d pages are computed again: loading them would take %.1f ms and save less than %g ms",
                pages, load_ms, saving.min_saving_ms,
            )  # fmt: skip
            pages = 0
        saving.pace.missing(keys[pages:], time.monotonic())
        return pages

    def _computed(self, keys: Sequence[str]) -> None:
        if self._saving is not None:
            self._saving.pace.written(keys, time.monotonic())

    # -- side pools (v2) --------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=_no_prefix)
    def batch_exists_v2(
        self, keys: Sequence[str], pool_transfers: Sequence[Any] | None = None, extra_info: Any = None
    ) -> Any:
        """The longest prefix that every pool can serve, and every shorter one that they can all serve too.

        A logical KV pool (DeepSeek-V4) holds nothing itself: its pages count as there, the side pools decide.
        """
        deadline = self._deadline()
        kv_pages = len(keys)
        if not self._pool(KV).is_logical:
            kv_pages = self._worth_loading(keys, self._lookup(keys, deadline))
        verdict = Verdict(kv_pages)
        if kv_pages:
            verdict.pool_hits[_compat.kv_pool_name()] = kv_pages
        for transfer in pool_transfers or ():
            if not verdict.ends:
                break
            pool = self._pool(_compat.pool_name(transfer.name))
            policy = _compat.pool_name(getattr(transfer, "hit_policy", ALL_PAGES))
            present = pool.exists(keys[:kv_pages], deadline)
            verdict.restrict(transfer.name, policy, len(transfer.keys or ()), present)
        return _compat.PoolTransferResult(verdict.pages, verdict.pool_hits, verdict.ends)

    @GUARD.guarded(miss=_no_side_page)
    def batch_get_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Fills the pages of side pools; for each pool, True for each page that is there and verified."""
        deadline = self._deadline()
        return {each.name: self._move(each, deadline, write=False) for each in transfers}

    @GUARD.guarded(miss=_no_side_page)
    def batch_set_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Stores the pages of side pools."""
        deadline = self._deadline()
        return {each.name: self._move(each, deadline, write=True) for each in transfers}

    def _move(self, transfer: Any, deadline: Deadline, *, write: bool) -> list[bool]:
        keys = transfer.keys or ()
        binding = self._pool(_compat.pool_name(transfer.name))
        if binding.is_logical or not keys:
            return [True] * len(keys)
        move = binding.write if write else binding.read
        return move(keys, transfer.host_indices, deadline, self._stats)

    # -- the rest ---------------------------------------------------------------------------------------------------
    @GUARD.guarded(miss=None)
    def get_stats(self) -> Any:
        """Transfers since the last call, as sglang's StorageMetrics; None without ``--enable-metrics``. O(1)."""
        return self._stats.drain(_compat.storage_metrics_class())

    @GUARD.guarded(miss=None)
    def clear(self) -> None:
        """Makes every page stored so far a miss, for this model and every process that serves it."""
        self._namespaces.clear(self._bindings.values(), self._timeout_ms)

    @GUARD.guarded(miss=None)
    def close(self) -> None:
        """Ends the connections; whatever is called afterwards is a miss. Idempotent."""
        for binding in self._bindings.values():
            binding.client.close()
        self._client.close()

    def _pool(self, name: str) -> PoolBinding:
        bound = self._bindings.get(name)
        if bound is None:
            raise InvalidArgumentError(f"pool {name} is not bound", remedy="see the lines logged at its registration")
        return bound

    def _deadline(self) -> Deadline:
        return Deadline(self._timeout_ms)


def _log_ready(client: Client, config: ClientConfig, suffix: str) -> None:
    servers = ", ".join(f'"{server}"' for server in client.servers)
    rdma = "true" if config.transport == "rdma" else "false"
    logger.info("MemKVHiCacheStorage ready (servers=[%s], rdma=%s, suffix=%s)", servers, rdma, suffix)
