# SPDX-License-Identifier: Apache-2.0
"""From the engine's facts to a pool's namespace: collects what the identity is made of, and binds pools.

One namespace for each pool, named by its identity's digest. Where the operator pins a namespace, its name becomes the
first part, the pool and the ranks that shard it the rest, and the server refuses a session with another identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from memkv_core import Client
from memkv_core.log import get_logger
from memkv_sglang import _compat, keymap
from memkv_sglang.binding import PoolBinding, PoolShape
from memkv_sglang.deadline import Deadline
from memkv_sglang.fingerprint import weights_fingerprint
from memkv_sglang.identity import is_replicated, pool_identity
from memkv_sglang.keymap import Ranks
from memkv_sglang.options import Options

logger = get_logger(__name__)


class Namespaces:
    """Binds the pools of one storage backend. Used by the scheduler's thread alone."""

    def __init__(self, storage_config: Any, options: Options, client: Client) -> None:
        self._options = options
        self._client = client
        self._ranks = Ranks.of(storage_config)
        self._is_mla = bool(getattr(storage_config, "is_mla_model", False))
        self._tp_lcm_size: int | None = getattr(storage_config, "tp_lcm_size", None)
        self._model = getattr(storage_config, "model_name", None) or "model"
        self._facts: Mapping[str, Any] | None = None  # weights and settings, collected once

    @property
    def suffix(self) -> str:
        """The documented suffix of this rank's KV keys."""
        return keymap.suffix(self._model, None if self._is_mla else self._ranks.tp, self._ranks.pp)

    def bind(self, name: str, pool: Any) -> PoolBinding:
        """The pool with its namespace and keys; logs one line. Reads the checkpoint's fingerprint the first time."""
        replicated = is_replicated(name, pool, is_mla_model=self._is_mla)
        shared_tp_size = self._shared_tp_size(name, pool, replicated)
        owners = [None] if replicated else keymap.virtual_ranks(self._ranks.tp, shared_tp_size)
        suffixes = [keymap.suffix(self._model, owner, self._ranks.pp) for owner in owners]
        shape = PoolShape.probe(pool, len(owners))
        if shape.is_logical:
            return PoolBinding(name, pool, shape, self._client, suffixes)
        args = _compat.server_args()
        kv_dtype, known = _compat.logical_dtype(pool, args, self._options.kv_cache_dtype)
        if not known:
            logger.warning(
                "pool %s stores %s and the engine does not say what that is: set kv_cache_dtype in the extra config",
                name, kv_dtype,
            )  # fmt: skip
        identity = pool_identity(
            model=self._model,
            tag=self._options.tag,
            weights=self._model_facts(args)["weights"],
            settings=self._model_facts(args)["settings"],
            kv_dtype=kv_dtype,
            pool_name=name,
            pool=pool,
            page_bytes=shape.page_bytes,
            page_order=shape.page_order,
            ranks=self._ranks,
            replicated=replicated,
            shared_tp_size=shared_tp_size,
        )
        client = self._client.scoped(identity=identity, namespace=self._pinned(name, replicated, shared_tp_size))
        logger.info(
            "MemKV keeps pool %s in namespace %s (%s, %s, %s, %d bytes a page, weights %s, tag %s)",
            name, client.namespace, type(pool).__name__, identity["layout"], kv_dtype,
            sum(shape.page_bytes) * len(suffixes), identity["weights"] or "unknown", self._options.tag or "none",
        )  # fmt: skip
        return PoolBinding(name, pool, shape, client, suffixes)

    @staticmethod
    def clear(bindings: Iterable[PoolBinding], timeout_ms: int) -> None:
        """Starts a new generation in every bound namespace; says so when the cluster did not take it."""
        deadline = Deadline(timeout_ms)
        for binding in bindings:
            if not binding.is_logical and not binding.generation.advance(deadline):
                logger.warning(
                    "pool %s is cleared in this process only: the cluster did not answer in time", binding.name
                )

    def _shared_tp_size(self, name: str, pool: Any, replicated: bool) -> int | None:
        """``tp_lcm_size`` where pages are split by head, so that replicas of other TP sizes share them."""
        size = self._tp_lcm_size
        splits = size and name == "kv" and not replicated and getattr(pool, "layout", None) == "page_head"
        return size if splits else None

    def _pinned(self, name: str, replicated: bool, shared_tp_size: int | None) -> str | None:
        """The namespace's name below a pinned one. Ranks hold different bytes, so each shard has a name of its own."""
        if self._client.config.namespace is None:
            return None
        parts = [self._client.config.namespace, name]
        ranks = self._ranks
        if not replicated:
            parts.append(f"tp{shared_tp_size}" if shared_tp_size else f"tp{ranks.tp[0]}of{ranks.tp[1]}")
        pairs = (("pp", ranks.pp), ("cp", ranks.cp), ("dcp", ranks.dcp))
        parts += [f"{kind}{rank}of{size}" for kind, (rank, size) in pairs if size > 1]
        return "/".join(parts)

    def _model_facts(self, args: Any) -> Mapping[str, Any]:
        if self._facts is None:
            settings = _compat.model_settings(args)
            draft = _compat.argument(args, "speculative_draft_model_path")
            if draft:
                settings["draft_weights"] = self._weights(draft, args, "speculative_draft_model_revision")
            for lora, path in sorted(_compat.lora_folders(args).items()):
                settings.setdefault("lora_weights", {})[lora] = self._weights(path, args, "revision")
            model = self._options.model_path or _compat.argument(args, "model_path") or self._model
            weights = self._weights(model, args, "revision")
            if weights is None:
                settings["revision"] = _compat.argument(args, "revision")
                if self._options.tag is None:
                    logger.warning(
                        "the weights of %s cannot be told from others of the same name: set \"tag\" (or "
                        "\"model_path\") in the extra config, and change it with the weights", self._model,
                    )  # fmt: skip
            self._facts = {"weights": weights, "settings": settings}
        return self._facts

    def _weights(self, model: str, args: Any, revision: str) -> str | None:
        """The fingerprint of a checkpoint; None where it is not on this machine, or the operator turned it off."""
        if not self._options.fingerprint:
            return None
        folder = _compat.model_folder(model, _compat.argument(args, revision))
        if folder is None:
            return None
        return _fingerprint(folder)


def _fingerprint(folder: Path) -> str | None:
    try:
        return weights_fingerprint(folder)
    except OSError as error:  # unreadable: the run goes on under its tag, and a warning says so
        logger.warning("cannot read the weights in %s: %s", folder, error)
        return None
