# SPDX-License-Identifier: Apache-2.0
"""LMCache's objects in a MemKV namespace, MP mode: names, layouts, and what is there under which. No thread, no event.

Nothing here catches anything. A value of another layout than its target is a hole.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from memkv_core import Client
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.keymap import object_name
from memkv_lmcache.layout import Layout, LayoutBook


class ObjectStore:
    """Objects by LMCache's ``ObjectKey``. Thread-safe; the client belongs to the caller."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._timeout_ms = client.config.timeout_ms
        self._lock = threading.Lock()
        self._layouts = LayoutBook()

    def store(self, keys: Sequence[Any], objects: Sequence[Any], deadline: Deadline) -> tuple[int, int]:
        """Stores what is not there yet. (how many are not there now, how many bytes were sent)"""
        layouts = [_layout_of(each) for each in objects]
        names = self._names(keys, layouts)
        there = self._client.exists(names, timeout_ms=max(1, deadline.left_ms()))
        new = [index for index, present in enumerate(there) if not present]
        if not new:
            return 0, 0
        stored = self._client.put(
            [names[index] for index in new],
            [objects[index].byte_array for index in new],
            meta=[layouts[index].encode() for index in new],
            timeout_ms=max(1, deadline.left_ms()),
        )
        return stored.count(False), sum(objects[index].get_size() for index in new)

    def find(self, keys: Sequence[Any], descs: Mapping[int, Any], deadline: Deadline) -> list[int]:
        """Which of the keys are stored. ``descs``: the layouts of object groups, as far as LMCache states them."""
        stated = {group: Layout.of(desc.shapes, desc.dtypes).digest for group, desc in descs.items()}
        with self._lock:
            candidates = [self._layouts.candidates(_group(key), stated.get(key.object_group_id)) for key in keys]
        found = [False] * len(keys)
        for turn in range(max(map(len, candidates), default=0)):
            asked = [index for index in range(len(keys)) if not found[index] and turn < len(candidates[index])]
            if not asked or not deadline.left_ms():
                break
            names = [object_name(keys[index], candidates[index][turn]) for index in asked]
            present = self._client.exists(names, timeout_ms=max(1, deadline.left_ms()))
            for index, there in zip(asked, present, strict=True):
                found[index] = there
        return [index for index, there in enumerate(found) if there]

    def load(self, keys: Sequence[Any], objects: Sequence[Any], deadline: Deadline) -> list[int]:
        """Which of the keys are in their objects now."""
        layouts = [_layout_of(each) for each in objects]
        targets = [each.byte_array for each in objects]
        found = self._client.get(
            self._names(keys, layouts), targets, with_meta=True, timeout_ms=max(1, deadline.left_ms())
        )
        return [
            index
            for index, value in enumerate(found)
            if value is not None and value == (len(targets[index]), layouts[index].encode())
        ]

    def delete(self, keys: Sequence[Any]) -> None:
        """Drops objects, under every layout that this process has seen."""
        names, _ = self._known_names(keys)
        if names:
            self._client.delete(names, timeout_ms=self._timeout_ms)

    def holds(self, keys: Sequence[Any]) -> list[bool]:
        """Whether each key is stored, under whichever layout this process has seen."""
        names, counts = self._known_names(keys)
        present = iter(self._client.exists(names, timeout_ms=self._timeout_ms) if names else ())
        by_key = [[next(present) for _ in range(count)] for count in counts]
        return [any(each) for each in by_key]

    def _known_names(self, keys: Sequence[Any]) -> tuple[list[str], list[int]]:
        """All names that the keys may have, and how many there are for each key."""
        with self._lock:
            candidates = [self._layouts.candidates(_group(key), None) for key in keys]
        names = [object_name(key, digest) for key, digests in zip(keys, candidates) for digest in digests]
        return names, list(map(len, candidates))

    def _names(self, keys: Sequence[Any], layouts: Sequence[Layout]) -> list[str]:
        """The names of objects with known layouts, which are noted for later lookups."""
        with self._lock:
            for key, layout in zip(keys, layouts, strict=True):
                self._layouts.note(_group(key), layout.digest)
        return [object_name(key, layout.digest) for key, layout in zip(keys, layouts)]


def _group(key: Any) -> tuple[Any, ...]:
    """What shares one layout."""
    return key.model_name, key.object_group_id


def _layout_of(each: Any) -> Layout:
    meta = each.meta
    shapes, dtypes = getattr(meta, "shapes", None), getattr(meta, "dtypes", None)
    if not shapes or not dtypes:
        shapes, dtypes = [meta.shape], [meta.dtype]
    return _layout(tuple(map(tuple, shapes)), tuple(dtypes))


@lru_cache(maxsize=256)
def _layout(shapes: tuple[tuple[int, ...], ...], dtypes: tuple[Any, ...]) -> Layout:
    """One for all objects that are alike, which are many: its digest is computed once."""
    return Layout.of(shapes, dtypes)
