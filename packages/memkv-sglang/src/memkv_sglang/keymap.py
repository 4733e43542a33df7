# SPDX-License-Identifier: Apache-2.0
"""sglang's page hash to MemKV's key: the hash, then a suffix that says whose page it is. Pure.

The suffix is the documented one: the model, then the tensor-parallel coordinates unless the KV is the same on every
rank (MLA), then the pipeline coordinates where there is more than one stage::

    a7e1…64 hex…03 _ org-model _ 3 _ 8 _pp1_2
    page hash        model       TP      PP
                                 rank size

What the hash and the suffix do not say (weights, dtype, layout, geometry) is the namespace's identity: ``identity.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memkv_sglang.limits import SUFFIX_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where one scheduler process stands: (rank, size) of each kind of parallelism that shards a page.

    The data-parallel rank is not here: replicas that differ in it hold the same pages and share them.
    """

    tp: tuple[int, int] = (0, 1)
    pp: tuple[int, int] = (0, 1)
    cp: tuple[int, int] = (0, 1)
    dcp: tuple[int, int] = (0, 1)

    @classmethod
    def of(cls, storage_config: Any) -> Ranks:
        """From sglang's ``HiCacheStorageConfig``; 0.5.6 has the TP fields only."""

        def pair(name: str) -> tuple[int, int]:
            return (
                int(getattr(storage_config, f"{name}_rank", 0) or 0),
                int(getattr(storage_config, f"{name}_size", 1) or 1),
            )

        return cls(tp=pair("tp"), pp=pair("pp"), cp=pair("attn_cp"), dcp=pair("dcp"))

    @property
    def index(self) -> int:
        """The number of this process among those of the model: pipeline stages are groups of TP ranks."""
        return self.pp[0] * self.tp[1] + self.tp[0]


def suffix(model: str, tp: tuple[int, int] | None, pp: tuple[int, int]) -> str:
    """The suffix of every key of one rank; ``tp`` is None where the KV does not depend on the rank.

    At most SUFFIX_BYTES_MAX bytes: of a longer one the head is kept and the rest becomes a digest.
    """
    text = "_" + model.replace("/", "-")
    if tp is not None:
        text += f"_{tp[0]}_{tp[1]}"
    if pp[1] > 1:
        text += f"_pp{pp[0]}_{pp[1]}"
    raw = text.encode()
    if len(raw) <= SUFFIX_BYTES_MAX:
        return text
    digest = hashlib.sha256(raw).hexdigest()[:32]
    head = raw[: SUFFIX_BYTES_MAX - len(digest) - 1].decode(errors="ignore")
    return f"{head}~{digest}"


def virtual_ranks(tp: tuple[int, int], tp_lcm_size: int | None) -> list[tuple[int, int]]:
    """The ranks that one rank's page is stored as when its heads are split (layout page_head).

    With ``tp_lcm_size`` 4, rank 1 of 2 writes what ranks 2 and 3 of 4 would, so that both sizes share the cache.
    """
    rank, size = tp
    if not tp_lcm_size or tp_lcm_size <= size:
        return [tp]
    factor = tp_lcm_size // size
    return [(rank * factor + index, tp_lcm_size) for index in range(factor)]


def block_keys(page_hashes: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """The keys of all pages, page by page: one for each suffix."""
    if len(suffixes) == 1:
        only = suffixes[0]
        return [page_hash + only for page_hash in page_hashes]
    return [page_hash + each for page_hash in page_hashes for each in suffixes]


def whole_pages(parts: Sequence[bool], parts_per_page: int) -> list[bool]:
    """Which pages have all their parts."""
    if parts_per_page == 1:
        return list(parts)
    return [all(parts[at : at + parts_per_page]) for at in range(0, len(parts), parts_per_page)]
