# SPDX-License-Identifier: Apache-2.0
"""Chunks of the layerwise engine: read whole, handed out layer by layer.

That engine asks once for each chunk whether its first layer is there, then counts the chunk's tokens as loaded, and
asks for one layer after the other. A layer that is missing then would go unnoticed, and the attention of that layer
would run over whatever lay in the GPU's pages. So the question about the first layer reads all layers of the chunk, and
is answered with yes only when each of them is in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from memkv_lmcache.chunks import ChunkStore, release
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.limits import LAYERS_KEPT_MS_MAX


class LayerStash:
    """Layers that were read and not asked for yet, once for each time that their chunk was promised. Thread-safe."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, list[tuple[Any, Deadline]]] = OrderedDict()
        self._closed = False

    def fetch(self, key: Any) -> bool:
        """Reads all layers of the chunk that ``key`` is the first layer of; whether all are there."""
        self._give_back_old()
        layers = self._store.layer_keys(key)
        names = [self._store.name(each) for each in layers]
        with self._lock:
            if all(name in self._kept for name in names):  # promised to somebody else too: one more reference
                for name in names:
                    each = self._kept[name][-1][0]
                    each.ref_count_up()
                    self._kept[name].append((each, Deadline(LAYERS_KEPT_MS_MAX)))
                return True
        objects = self._store.get_prefix(layers, Deadline(self._store.timeout_ms))
        if len(objects) == len(layers):
            with self._lock:
                if not self._closed:
                    for name, each in zip(names, objects):
                        self._kept.setdefault(name, []).append((each, Deadline(LAYERS_KEPT_MS_MAX)))
                    return True
        release(objects)
        return False

    def take(self, keys: Sequence[Any]) -> list[Any] | None:
        """The layers of ``keys``, if all of them are kept; they are the caller's then."""
        if not all(getattr(key, "layer_id", None) is not None for key in keys):
            return None
        names = [self._store.name(key) for key in keys]
        with self._lock:
            if len(set(names)) != len(names) or not all(name in self._kept for name in names):
                return None
            return [self._pop(name) for name in names]

    def _pop(self, name: str) -> Any:
        kept = self._kept[name]
        each, _ = kept.pop(0)
        if not kept:
            del self._kept[name]
        return each

    def _give_back_old(self) -> None:
        """Of requests that were aborted between question and answer."""
        old = []
        with self._lock:
            for name in list(self._kept):
                while name in self._kept and not self._kept[name][0][1].left_ms():
                    old.append(self._pop(name))
        release(old)

    def close(self) -> None:
        """Gives everything back."""
        with self._lock:
            self._closed = True
            kept = [each for entries in self._kept.values() for each, _ in entries]
            self._kept.clear()
        release(kept)
