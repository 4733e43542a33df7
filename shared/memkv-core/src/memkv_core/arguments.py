# SPDX-License-Identifier: Apache-2.0
"""The arguments of a batch, checked and brought to one form; what is wrong raises InvalidArgumentError. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from memkv_core.buffers import Block, parts_of, total_bytes
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


def checked_keys(keys: Sequence[Key]) -> list[bytes]:
    """Keys as bytes; a key is 1 to 512 bytes."""
    if isinstance(keys, (str, bytes)):
        raise InvalidArgumentError("keys is one key, not a list of them", remedy="pass [key]")
    try:
        encoded = [key.encode() if type(key) is str else key for key in keys]
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a key that is not UTF-8: {error.reason}", remedy="pass bytes") from error
    for key in encoded:
        if type(key) is not bytes:
            raise InvalidArgumentError(f"a key is {type(key).__name__}", remedy="pass bytes or str")
        if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
            raise InvalidArgumentError(
                f"a key of {len(key)} bytes", remedy=f"keys are {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes long"
            )
    return encoded  # type: ignore[return-value]  # every element was checked to be bytes


def checked_blocks(
    blocks: Sequence[Block], key_count: int, *, writable: bool
) -> tuple[list[list[memoryview]], list[int]]:
    """(parts of each block, bytes of each block)."""
    name = "targets" if writable else "sources"
    if len(blocks) != key_count:
        raise InvalidArgumentError(f"{key_count} keys and {len(blocks)} {name}", remedy="pass one per key")
    parts = [parts_of(block, writable=writable) for block in blocks]
    sizes = [len(block[0]) if len(block) == 1 else total_bytes(block) for block in parts]
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


def cut(positions: Sequence[int], sizes: Sequence[int] | None) -> Iterator[Sequence[int]]:
    """Cuts a route's share of a batch into frames: at most FRAME_KEYS_MAX keys, about the target's bytes each."""
    if sizes is None and 0 < len(positions) <= FRAME_KEYS_MAX:
        yield positions
        return
    if sizes is None:
        for start in range(0, len(positions), FRAME_KEYS_MAX):
            yield positions[start : start + FRAME_KEYS_MAX]
        return
    start = total = 0
    for at, position in enumerate(positions):
        size = sizes[position]
        if at > start and (total + size > FRAME_PAYLOAD_BYTES_TARGET or at - start >= FRAME_KEYS_MAX):
            yield positions[start:at]
            start, total = at, 0
        total += size
    if start < len(positions):
        yield positions[start:]
