# SPDX-License-Identifier: Apache-2.0
"""How a chunk's bytes are to be read: shapes, dtypes, memory format. Travels beside each value as its meta. Pure.

The meta is what lets a fresh process, which has seen no chunk yet, make the right object for a value; and what lets a
reader refuse a value of the right length and the wrong meaning.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, Final

from memkv_lmcache.limits import LAYOUT_GROUPS_COUNT_MAX, LAYOUTS_COUNT_MAX

FORMAT: Final = 1  # raised whenever the bytes of a value, or its meta, change their meaning
OPAQUE: Final = ""  # the digest of a layout that says nothing: plain bytes


@dataclass(frozen=True)
class Layout:
    """One shape and dtype for each group of layers. ``dtypes`` without ``torch.``; ``fmt``: LMCache's name of it."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    fmt: str = ""

    @classmethod
    def of(cls, shapes: Sequence[Any], dtypes: Sequence[Any], fmt: str = "") -> Layout:
        """From torch's sizes and dtypes."""
        return cls(
            tuple(tuple(int(extent) for extent in shape) for shape in shapes),
            tuple(str(dtype).removeprefix("torch.") for dtype in dtypes),
            fmt,
        )

    @property
    def is_opaque(self) -> bool:
        """Whether it says nothing of a KV cache: no shape, or a row of bytes (what a serializer of LMCache makes)."""
        return all(len(shape) <= 1 for shape in self.shapes)

    @cached_property
    def digest(self) -> str:
        """16 hex digits over shapes and dtypes, and so over chunk size and KV dtype; OPAQUE for plain bytes."""
        if self.is_opaque:
            return OPAQUE
        return hashlib.sha256(_canonical([self.shapes, self.dtypes])).hexdigest()[:16]

    @cached_property
    def byte_count(self) -> int:
        """How long a value with this layout is. The bits of an element are the first number in its dtype's name."""
        return sum(prod(shape) * _element_bytes(dtype) for shape, dtype in zip(self.shapes, self.dtypes))

    def encode(self) -> bytes:
        """The meta of a value with this layout."""
        return _encode(self)


def _element_bytes(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1  # bool has none


@lru_cache(maxsize=256)
def _encode(layout: Layout) -> bytes:
    described = {"v": FORMAT, "fmt": layout.fmt, "shapes": layout.shapes, "dtypes": layout.dtypes}
    return _canonical(described)


@lru_cache(maxsize=256)
def decode(meta: bytes) -> Layout | None:
    """The layout that ``encode`` wrote; None for anything else, which is no value of ours."""
    try:
        described = json.loads(meta)
        if described["v"] != FORMAT:
            return None
        layout = Layout(tuple(map(tuple, described["shapes"])), tuple(described["dtypes"]), described["fmt"])
    except (ValueError, KeyError, TypeError):
        return None
    return layout if layout.encode() == meta else None


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


class LayoutBook:
    """Which layouts the object groups of each model were seen with, newest first.

    LMCache tells the layout of a group when it looks up, but not always (its own bench does not), and with a
    serializer in between the stored objects are plain bytes, of which the lookup knows nothing. Used under the
    caller's lock.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[Hashable, tuple[str, ...]] = OrderedDict()

    def note(self, group: Hashable, digest: str) -> None:
        """Objects of ``group`` were stored or loaded with this layout."""
        known = self._seen.get(group, ())
        if known[:1] != (digest,):
            self._seen[group] = (digest, *(each for each in known if each != digest))[:LAYOUTS_COUNT_MAX]
            if len(self._seen) > LAYOUT_GROUPS_COUNT_MAX:
                self._seen.popitem(last=False)

    def candidates(self, group: Hashable, stated: str | None) -> tuple[str, ...]:
        """The digests that objects of ``group`` may be stored under; ``stated``: what LMCache says, if it does."""
        known = self._seen.get(group, ())
        if not stated:
            return known or (OPAQUE,)
        if stated in known:
            return (stated, OPAQUE) if OPAQUE in known else (stated,)
        return (OPAQUE,) if OPAQUE in known else (stated, OPAQUE)
