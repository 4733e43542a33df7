# SPDX-License-Identifier: Apache-2.0
"""From host indices to the bytes of pages, in place. No byte is copied here.

A host pool's tensors are mapped once, as memoryviews over their memory; a page is then a list of slices of them, cut
at the addresses that the pool's own ``get_page_buffer_meta`` gives. So every layout works that the pool can describe,
and an address outside the pool's memory is refused instead of followed.

A page is stored in one order, whichever of sglang's interfaces moved it: that of its flat page, K of all layers and
then V of all layers. For most layouts the segments come in that order; for MHA in layer_first they alternate::

    flat page (generic)   K0 K1 … Kn V0 V1 … Vn
    segments (v1)         K0 V0 K1 V1 … Kn Vn      ──► reordered when they are cut

Pools without a known flat order keep that of their segments; the identity says which.
"""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from memkv_sglang.identity import is_mha

FLAT = "flat"
SEGMENTS = "segments"

Page = list[memoryview]


class LayoutError(ValueError):
    """A pool gave addresses, sizes or indices that do not fit together; the call becomes a miss."""


class PoolMemory:
    """The memory of a pool's host tensors as writable memoryviews. Immutable once made, hence thread-safe.

    The views keep the tensors, so that the memory outlives the pool's own reference to them.
    """

    def __init__(self, tensors: Iterable[Any]) -> None:
        spans: dict[int, tuple[int, Any]] = {}
        for tensor in tensors:
            base, size = _span(tensor)
            if size > spans.get(base, (0, None))[0]:
                spans[base] = (size, tensor)
        self._bases = sorted(spans)
        self._sizes = [spans[base][0] for base in self._bases]
        self.views = [_map(base, *spans[base]) for base in self._bases]

    def cut(self, address: int, size: int) -> memoryview:
        """The ``size`` bytes at ``address``; raises LayoutError where they are not the pool's."""
        index = bisect.bisect_right(self._bases, address) - 1
        offset = address - self._bases[index] if index >= 0 else -1
        if index < 0 or size < 0 or offset + size > self._sizes[index]:
            raise LayoutError(f"{size} bytes at {address:#x} are outside the pool's memory")
        return self.views[index][offset : offset + size]


# Where pool classes keep their memory that have no get_hybrid_pool_buffer(); several are views of the first.
_BUFFERS = ("kv_buffer", "k_buffer", "v_buffer", "index_k_buffer", "index_k_scale_buffer")


def pool_tensors(pool: Any) -> list[Any]:
    """The host tensors that a pool's pages live in; empty for a logical pool, which has none."""
    if hasattr(pool, "get_hybrid_pool_buffer"):
        buffers = list(pool.get_hybrid_pool_buffer())
    else:
        buffers = [getattr(pool, name, None) for name in _BUFFERS]
    tensors = [tensor for each in buffers for tensor in (each if isinstance(each, list | tuple) else [each])]
    return [tensor for tensor in tensors if tensor is not None and tensor.numel() > 0]


def page_order(pool: Any, parts_per_page: int) -> str:
    """FLAT where the parts of a page, reordered if need be, are those of its flat page; else SEGMENTS."""
    layout = getattr(pool, "layout", None)
    if _alternates(pool, parts_per_page):
        return FLAT
    if is_mha(pool):
        return FLAT if parts_per_page <= 2 else SEGMENTS  # K and V, or K alone
    if any("MLA" in base.__name__ for base in type(pool).__mro__):
        layers = getattr(pool, "layer_num", 0)
        return FLAT if parts_per_page == (layers if layout == "layer_first" else 1) else SEGMENTS
    return SEGMENTS


def pages(pool: Any, memory: PoolMemory, host_indices: Any, page_count: int) -> list[Page]:
    """The parts of each page that ``host_indices`` names: ``page_count`` times the pool's page size of them.

    Raises LayoutError where the pool's answer does not divide into that many pages.
    """
    addresses, sizes = pool.get_page_buffer_meta(host_indices)
    return _regroup(pool, _cut(memory, addresses, sizes), page_count)


def split_pages(pool: Any, memory: PoolMemory, host_indices: Any, page_count: int, factor: int) -> list[Page]:
    """As ``pages``, with each page cut by heads into ``factor`` pages of virtual ranks (layout page_head)."""
    addresses, sizes = pool.get_split_heads_page_buffer_meta(host_indices, factor)
    return _regroup(pool, _cut(memory, addresses, sizes), page_count * factor)


def split_flat(page: memoryview, factor: int) -> list[Page]:
    """A flat page_head page (all of K, then all of V, by head) as ``factor`` pages of virtual ranks."""
    if factor == 1:
        return [[page]]
    half, rest = divmod(len(page), 2)
    piece, odd = divmod(half, factor)
    if rest or odd:
        raise LayoutError(f"a page of {len(page)} bytes does not split into {factor} virtual ranks")
    return [
        [page[at : at + piece], page[half + at : half + at + piece]] for at in range(0, half, piece)
    ]  # fmt: skip


def tensor_view(tensor: Any) -> memoryview:
    """The bytes of a contiguous CPU tensor, or of any object with the buffer protocol, in place."""
    if hasattr(tensor, "data_ptr"):
        if not tensor.is_contiguous():
            raise LayoutError("a tensor that is not contiguous cannot be read or filled in place")
        size = tensor.numel() * tensor.element_size()
        return _map(tensor.data_ptr(), size, tensor) if size else memoryview(b"")
    return memoryview(tensor).cast("B")


def _alternates(pool: Any, parts_per_page: int) -> bool:
    """Whether the pool gives K and V of each layer in turn (MHA in layer_first)."""
    layers = getattr(pool, "layer_num", 0)
    return getattr(pool, "layout", None) == "layer_first" and is_mha(pool) and parts_per_page == 2 * layers


def _regroup(pool: Any, parts: list[memoryview], page_count: int) -> list[Page]:
    per_page, rest = divmod(len(parts), page_count)
    if rest or not per_page:
        raise LayoutError(f"{len(parts)} segments do not divide into {page_count} pages")
    cut = [parts[at : at + per_page] for at in range(0, len(parts), per_page)]
    if _alternates(pool, per_page):
        return [page[0::2] + page[1::2] for page in cut]
    return cut


def _cut(memory: PoolMemory, addresses: Sequence[int], sizes: Sequence[int] | int) -> list[memoryview]:
    each = [sizes] * len(addresses) if isinstance(sizes, int) else sizes
    if len(each) != len(addresses):
        raise LayoutError(f"{len(addresses)} addresses with {len(each)} sizes")
    return [memory.cut(int(address), int(size)) for address, size in zip(addresses, each, strict=True)]


def _span(tensor: Any) -> tuple[int, int]:
    """Base address and length in bytes of the storage below a tensor (of the tensor itself where it has none)."""
    if hasattr(tensor, "untyped_storage"):
        storage = tensor.untyped_storage()
        return int(storage.data_ptr()), int(storage.nbytes())
    return int(tensor.data_ptr()), int(tensor.numel() * tensor.element_size())


def _map(base: int, size: int, owner: Any) -> memoryview:
    """A view that keeps ``owner``, whose memory it is, alive; and so does every slice of it."""
    array = (ctypes.c_ubyte * size).from_address(base)
    array.owner = owner  # type: ignore[attr-defined]  # ctypes arrays have a __dict__
    return memoryview(array).cast("B")
