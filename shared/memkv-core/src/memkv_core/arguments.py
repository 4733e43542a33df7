# SPDX-License-Identifier: Apache-2.0
"""The arguments of a batch, checked and brought to one form; what is wrong raises InvalidArgumentError. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, MutableSequence, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from memkv_core.buffers import Block, are_flat_views, parts_of, total_bytes
from memkv_core.errors import InvalidArgumentError
from memkv_core.limits import (
    FRAME_KEYS_MAX,
    FRAME_PAYLOAD_BYTES_TARGET,
    KEY_BYTES_MAX,
    KEY_BYTES_MIN,
    META_BYTES_MAX,
    TIMEOUT_MS_MAX,
    VALUE_BYTES_MAX,
)

Key = bytes | str
T = TypeVar("T")


def checked_keys(keys: Sequence[Key]) -> list[bytes]:
    """Keys as bytes; a key is 1 to 512 bytes. Checked by sets of types and lengths: 0.1 us a key."""
    if isinstance(keys, (str, bytes)):
        raise InvalidArgumentError("keys is one key, not a list of them", remedy="pass [key]")
    try:
        encoded = [key.encode() if type(key) is str else key for key in keys]
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a key that is not UTF-8: {error.reason}", remedy="pass bytes") from error
    for kind in set(map(type, encoded)) - {bytes}:
        raise InvalidArgumentError(f"a key is {kind.__name__}", remedy="pass bytes or str")
    for size in set(map(len, encoded)):
        if not KEY_BYTES_MIN <= size <= KEY_BYTES_MAX:
            raise InvalidArgumentError(
                f"a key of {size} bytes", remedy=f"keys are {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes long"
            )
    return encoded  # type: ignore[return-value]  # every element was checked to be bytes


def checked_blocks(
    blocks: Sequence[Block], key_count: int, *, writable: bool
) -> tuple[list[list[memoryview]], list[int]]:
    """(parts of each block, bytes of each block)."""
    name = "targets" if writable else "sources"
    if len(blocks) != key_count:
        raise InvalidArgumentError(f"{key_count} keys and {len(blocks)} {name}", remedy="pass one per key")
    if are_flat_views(blocks, writable=writable):
        parts = [[block] for block in blocks]
        sizes = list(map(len, blocks))
    else:
        parts = [parts_of(block, writable=writable) for block in blocks]
        sizes = list(map(total_bytes, parts))
    if not writable and sizes and max(sizes) > VALUE_BYTES_MAX:
        raise InvalidArgumentError(
            f"a value of {max(sizes)} bytes", remedy=f"values are at most {VALUE_BYTES_MAX} bytes long: split it"
        )
    return parts, sizes


def checked_metas(metas: Any, key_count: int) -> list[bytes]:
    """One bytes object per key, empty for None; ``metas`` is whatever the caller passed."""
    if isinstance(metas, (bytes, str)) or len(metas) != key_count:
        raise InvalidArgumentError("meta is not one bytes object (or None) per key", remedy="pass a list")
    filled = [b"" if meta is None else meta for meta in metas]
    if not all(type(meta) is bytes for meta in filled):
        raise InvalidArgumentError("meta is not one bytes object (or None) per key", remedy="pass bytes or None")
    longest = max(map(len, filled), default=0)
    if longest > META_BYTES_MAX:
        raise InvalidArgumentError(f"{longest} bytes of meta", remedy=f"{META_BYTES_MAX} at most beside a value")
    return filled


def checked_timeout_s(timeout_ms: int | None, default_ms: int) -> float:
    """A call's time-out in seconds."""
    chosen = default_ms if timeout_ms is None else timeout_ms
    if not 0 < chosen <= TIMEOUT_MS_MAX:
        raise InvalidArgumentError(f"timeout_ms={chosen}", remedy=f"choose 1 to {TIMEOUT_MS_MAX}")
    return chosen / 1000


def taken(values: Sequence[T], positions: Sequence[int]) -> Sequence[T]:
    """``values`` at these positions: a slice where they are a run, which a batch for one server is."""
    if type(positions) is range and positions.step == 1:
        return values[positions.start : positions.stop]
    return [values[position] for position in positions]


def spread(values: Sequence[T], positions: Sequence[int], target: MutableSequence[T]) -> None:
    """The reverse of ``taken``: puts one value at each position of ``target``."""
    if type(positions) is range and positions.step == 1:
        target[positions.start : positions.stop] = values
        return
    for position, value in zip(positions, values):
        target[position] = value


def cut(
    positions: Sequence[int], sizes: Sequence[int] | None, frame_bytes: int = FRAME_PAYLOAD_BYTES_TARGET
) -> Iterator[Sequence[int]]:
    """Cuts a route's share of a batch into frames: at most FRAME_KEYS_MAX keys, about ``frame_bytes`` each."""
    if sizes is None:
        for start in range(0, len(positions), FRAME_KEYS_MAX):
            yield positions[start : start + FRAME_KEYS_MAX]
        return
    ends = list(accumulate(taken(sizes, positions)))
    start = taken_bytes = 0
    while start < len(ends):
        end = bisect_right(ends, taken_bytes + frame_bytes, start)
        end = max(start + 1, min(end, start + FRAME_KEYS_MAX))
        yield positions[start:end]
        start, taken_bytes = end, ends[end - 1]
