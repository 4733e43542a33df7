# SPDX-License-Identifier: Apache-2.0
"""LMCache's chunks in a MemKV namespace, in-process mode: what the storage plugin and the remote connector share.

Nothing here catches anything, but every object that was allocated is given back when a call does not hand it out.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from memkv_core import Client
from memkv_core.metrics import export
from memkv_lmcache import _compat, limits
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.identity import in_process_identity, ranks_share
from memkv_lmcache.keymap import chunk_name
from memkv_lmcache.layout import Layout, decode
from memkv_lmcache.options import Options


class ChunkStore:
    """Chunks of one model, by LMCache's keys. Thread-safe.

    ``allocator`` is LMCache's LocalCPUBackend; None in the scheduler, which only asks what is there. Raises
    ConfigError or LicenseError at construction; connects at first use.
    """

    def __init__(self, config: Any, metadata: Any, allocator: Any, options: Options) -> None:
        settings = options.client_config(timeout_ms_max=limits.CALL_TIMEOUT_MS_MAX)
        identity = in_process_identity(config, metadata, prefix=options.prefix, tag=options.tag)
        export.name_rank(metadata.worker_id)
        self.client = Client(settings, identity=identity)
        self.timeout_ms = settings.timeout_ms
        patience_ms = getattr(config, "lookup_timeout_ms", None) or settings.timeout_ms
        self.lookup_timeout_ms = max(1, min(settings.timeout_ms, int(limits.LOOKUP_SHARE * patience_ms)))
        self._shared_rank = _compat.pipeline_rank() if ranks_share(config, metadata) else None
        self.writes = self._shared_rank is None or metadata.worker_id == 0 or self._shared_rank > 0
        self._metadata = metadata
        self._layerwise_2td = bool(getattr(config, "enable_blending", False))
        self._allocator = allocator
        self._lock = threading.Lock()
        self._learned: dict[bool, Layout] = {}  # by whether it is a layer

    def name(self, key: Any) -> str:
        """MemKV's key of a chunk, or of a layer of one."""
        return chunk_name(key, shared_rank=self._shared_rank)

    def layer_keys(self, key: Any) -> list[Any]:
        """The keys of all layers of the chunk that ``key`` is a layer of, the first one first."""
        return list(key.split_layers(int(self._metadata.kv_shape[0])))

    # -- what is there -----------------------------------------------------------------------------------------------
    def lookup(self, keys: Sequence[Any]) -> int:
        """How many chunks from the first one on are stored."""
        return self.client.lookup([self.name(key) for key in keys], timeout_ms=self.lookup_timeout_ms) if keys else 0

    def delete(self, keys: Sequence[Any]) -> int:
        """Drops chunks; how many were there."""
        return sum(self.client.delete([self.name(key) for key in keys], timeout_ms=self.timeout_ms)) if keys else 0

    # -- put ---------------------------------------------------------------------------------------------------------
    def put(self, names: Sequence[str], objects: Sequence[Any], deadline: Deadline) -> list[bool]:
        """Stores chunks that are not there yet; True for each that is there now."""
        stored = self.client.exists(names, timeout_ms=max(1, deadline.left_ms()))
        new = [index for index, present in enumerate(stored) if not present]
        if not new:
            return stored
        put = self.client.put(
            [names[index] for index in new],
            [objects[index].byte_array for index in new],
            meta=[_layout_of(objects[index]).encode() for index in new],
            timeout_ms=max(1, deadline.left_ms()),
        )
        for index, done in zip(new, put, strict=True):
            stored[index] = done
        return stored

    def note(self, key: Any, each: Any) -> None:
        """Learns from an object of this process how large one must be to take a stored chunk."""
        self._learn(_is_layer(key), _layout_of(each), each.get_size())

    # -- get ---------------------------------------------------------------------------------------------------------
    def get(self, keys: Sequence[Any], deadline: Deadline) -> list[Any]:
        """A new object for each chunk, None for a miss. The caller owns what it gets, with one reference each.

        A miss is also what the allocator has no room for: nothing waits for memory here.
        """
        objects = self._allocate(keys)
        kept: list[Any] = [None] * len(keys)
        try:
            found = self.client.get(
                [self.name(key) for key in keys[: len(objects)]],
                [each.byte_array for each in objects],
                with_meta=True,
                timeout_ms=max(1, deadline.left_ms()),
            )
            for index, value in enumerate(found):
                if value is not None:
                    kept[index] = self._fitted(keys[index], objects[index], *value)
        except BaseException:
            release(each for each in kept if each is not None and all(each is not other for other in objects))
            release(objects)
            raise
        handed_out = {id(each) for each in kept}
        release(each for each in objects if id(each) not in handed_out)
        return kept

    def get_prefix(self, keys: Sequence[Any], deadline: Deadline) -> list[Any]:
        """As ``get``, cut at the first miss; what came behind it is given back."""
        found = self.get(keys, deadline)
        run = next((index for index, each in enumerate(found) if each is None), len(found))
        release(each for each in found[run:] if each is not None)
        return found[:run]

    def _allocate(self, keys: Sequence[Any]) -> list[Any]:
        """Objects for the keys from the first one on, as many as there is room for."""
        objects: list[Any] = []
        if self._allocator is None:
            return objects
        try:
            for key in keys:
                layout = self._template(_is_layer(key))
                made = self._make(layout)
                if made is None:
                    break
                objects.append(made)
        except BaseException:
            release(objects)
            raise
        return objects

    def _make(self, layout: Layout) -> Any:
        return self._allocator.allocate(*_compat.torch_layout(layout), eviction=True, busy_loop=False)

    def _fitted(self, key: Any, each: Any, size: int, meta: bytes) -> Any:
        """The object as the value's own layout wants it: itself, or a smaller copy (the last chunk of a prompt)."""
        layout = decode(meta)
        if layout is None:
            return None
        if layout == self._template(_is_layer(key)):
            return each if size == each.get_size() else None
        exact = self._make(layout)
        if exact is None:
            return None
        if exact.get_size() != size:
            release([exact])
            return None
        _copy(each.byte_array, exact.byte_array, size)
        self._learn(_is_layer(key), layout, size)
        return exact

    def _template(self, is_layer: bool) -> Layout:
        """The layout of a whole chunk, or of a layer of one: the largest seen, else what the metadata says."""
        learned = self._learned.get(is_layer)
        if learned is None:
            learned = self._stated(is_layer)
            with self._lock:
                learned = self._learned.setdefault(is_layer, learned)
        return learned

    def _stated(self, is_layer: bool) -> Layout:
        shapes, dtypes = self._metadata.get_shapes(), self._metadata.get_dtypes()
        mla = bool(self._metadata.use_mla)
        if not is_layer:
            return Layout.of(shapes, dtypes, "KV_MLA_FMT" if mla else "KV_2LTD")
        kv_size, _, tokens, hidden = (int(extent) for extent in shapes[0])
        if mla:
            return Layout.of([(tokens, hidden)], dtypes[:1], "KV_MLA_FMT")
        if self._layerwise_2td:
            return Layout.of([(kv_size, tokens, hidden)], dtypes[:1], "KV_2TD")
        return Layout.of([(tokens, kv_size, hidden)], dtypes[:1], "KV_T2D")

    def _learn(self, is_layer: bool, layout: Layout, size: int) -> None:
        known = self._template(is_layer)
        if layout == known:
            return
        with self._lock:
            if size >= known.byte_count:
                self._learned[is_layer] = layout

    def close(self) -> None:
        """Ends the connections; calls under way come back as misses."""
        self.client.close()


def release(objects: Any) -> None:
    """Gives objects back to LMCache's allocator."""
    for each in objects:
        each.ref_count_down()


def _copy(source: Any, target: Any, size: int) -> None:
    """LMCache's views come from ctypes, and Python copies no slice of such a one (format "<B")."""
    np.copyto(np.frombuffer(target, np.uint8, size), np.frombuffer(source, np.uint8, size))


def _is_layer(key: Any) -> bool:
    return getattr(key, "layer_id", None) is not None


def _layout_of(each: Any) -> Layout:
    meta = each.meta
    shapes, dtypes = getattr(meta, "shapes", None), getattr(meta, "dtypes", None)
    if not shapes or not dtypes:
        shapes, dtypes = [meta.shape], [meta.dtype]
    return Layout.of(shapes, dtypes, meta.fmt.name)
