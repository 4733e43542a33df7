# SPDX-License-Identifier: Apache-2.0
"""What a store is: its geometry, planned from a capacity, and the superblock that records it. Pure.

The superblock is one 4 KiB block. Fields are only ever added, in the zeros, with a higher format version::

    0        8             12              16              24              32               40
    +--------+-------------+---------------+---------------+---------------+----------------+
    | magic  | format      | alignment u32 | segment bytes | segment count | registry bytes |
    | 8 B    | version u32 |               | u64           | u64           | u64            |
    +--------+-------------+---------------+---------------+---------------+----------------+
    40       56            64              72                                               4096
    +--------+-------------+---------------+------------------------------------------------+
    | uuid   | created at  | check u64     | zeros                                          |
    | 16 B   | u64, unix   |               |                                                |
    +--------+-------------+---------------+------------------------------------------------+

``check`` is the xxh3-64 of the 64 bytes before it. Magic and version keep their place for ever, so that any version
can say what it found.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass, replace
from typing import Final

import xxhash

from memkv_core.errors import StorageError
from memkv_server.engine import limits

# 1: the first. 2: the registry of namespaces has kinds of entries, and is written anew in turns into its two halves.
# A store of an earlier version becomes one of this version when it is opened for writing.
FORMAT_VERSION: Final = 2
SUPERBLOCK_BYTES: Final = 4096
SUPERBLOCK_MAGIC: Final = b"MEMKV\x00FS"
_SUPERBLOCK: Final = struct.Struct("<8sIIQQQ16sQ")
_CHECK: Final = struct.Struct("<Q")
assert _SUPERBLOCK.size == 64


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of a store. ``store_bytes`` is all it ever occupies: never above the capacity it was planned for."""

    segment_bytes: int  # a power of two
    segment_count: int
    registry_bytes: int
    alignment: int  # of records and payloads, in bytes
    uuid: bytes  # 16 bytes
    created_at: int  # unix seconds
    format_version: int = FORMAT_VERSION

    @property
    def data_bytes(self) -> int:
        return self.segment_bytes * self.segment_count

    @property
    def store_bytes(self) -> int:
        return self.data_bytes + self.registry_bytes + SUPERBLOCK_BYTES


def default_segment_bytes(capacity_bytes: int) -> int:
    """A power of two that gives about 32 to 63 segments, within 4 MiB and 256 MiB."""
    wanted = max(1, capacity_bytes // limits.SEGMENT_COUNT_WANTED)
    power = 1 << (wanted.bit_length() - 1)
    return min(max(power, limits.SEGMENT_BYTES_DEFAULT_MIN), limits.SEGMENT_BYTES_DEFAULT_MAX)


def plan_geometry(capacity_bytes: int, segment_bytes: int | None, alignment: int, place: str) -> Geometry:
    """A new store that fits into ``capacity_bytes``, all metadata included.

    ``place`` names the folder or the memory in messages. StorageError where the numbers do not make a store.
    """
    size = default_segment_bytes(capacity_bytes) if segment_bytes is None else segment_bytes
    if size & (size - 1) or not limits.SEGMENT_BYTES_MIN <= size <= limits.SEGMENT_BYTES_MAX:
        raise StorageError(
            f"{place}: a segment of {size} bytes is not possible",
            remedy=f"use a power of two from {limits.SEGMENT_BYTES_MIN} to {limits.SEGMENT_BYTES_MAX}",
        )
    # Where the capacity is too small the registry is that of the least capacity, for the message to name.
    registry_bytes = registry_share(max(capacity_bytes, limits.SEGMENT_COUNT_MIN * size))
    geometry = Geometry(size, 0, registry_bytes, alignment, os.urandom(16), int(time.time()))
    return resize_geometry(geometry, capacity_bytes, place)


def registry_share(capacity_bytes: int) -> int:
    """The bytes of a new store's registry: as a part of 16 MiB steps, so that a few bytes more take nothing away."""
    steps_bytes = capacity_bytes & -(16 << 20)
    share = min(max(steps_bytes // limits.REGISTRY_SHARE, limits.REGISTRY_BYTES_MIN), limits.REGISTRY_BYTES_MAX)
    return share & ~(SUPERBLOCK_BYTES - 1)


def resize_geometry(geometry: Geometry, capacity_bytes: int, place: str) -> Geometry:
    """The same store with as many segments as ``capacity_bytes`` holds, in the format of this release."""
    if capacity_bytes > limits.DRIVE_BYTES_MAX:
        raise StorageError(
            f"{place}: a capacity of {capacity_bytes} bytes is more than one lane addresses",
            remedy=f"use at most {limits.DRIVE_BYTES_MAX} bytes a drive, and several drives",
        )
    overhead = geometry.registry_bytes + SUPERBLOCK_BYTES
    segment_count = max(0, capacity_bytes - overhead) // geometry.segment_bytes
    if segment_count < limits.SEGMENT_COUNT_MIN:
        least = limits.SEGMENT_COUNT_MIN * geometry.segment_bytes + overhead
        raise StorageError(
            f"{place}: {capacity_bytes} bytes are too few for segments of {geometry.segment_bytes} bytes",
            remedy=f"give it at least {least} bytes, or smaller segments",
        )
    return replace(geometry, segment_count=segment_count, format_version=FORMAT_VERSION)


def encode_superblock(geometry: Geometry) -> bytes:
    """The 4 KiB block."""
    fields = _SUPERBLOCK.pack(
        SUPERBLOCK_MAGIC,
        geometry.format_version,
        geometry.alignment,
        geometry.segment_bytes,
        geometry.segment_count,
        geometry.registry_bytes,
        geometry.uuid,
        geometry.created_at,
    )
    return (fields + _CHECK.pack(xxhash.xxh3_64_intdigest(fields))).ljust(SUPERBLOCK_BYTES, b"\0")


def decode_superblock(block: bytes, place: str) -> Geometry:
    """The geometry recorded in ``block``; StorageError naming ``place`` where it is foreign, newer or damaged."""
    if len(block) < _SUPERBLOCK.size + _CHECK.size or not block.startswith(SUPERBLOCK_MAGIC):
        raise StorageError(f"{place} is not the superblock of a MemKV store", remedy="use an empty folder")
    _, version, alignment, segment_bytes, segment_count, registry_bytes, uuid, created_at = _SUPERBLOCK.unpack_from(
        block
    )
    if version > FORMAT_VERSION:
        raise StorageError(
            f"{place} has format version {version}, and this release knows versions up to {FORMAT_VERSION}",
            remedy="start the release of memkv-server that wrote it, or use another folder",
        )
    (check,) = _CHECK.unpack_from(block, _SUPERBLOCK.size)
    if version < 1 or check != xxhash.xxh3_64_intdigest(block[: _SUPERBLOCK.size]):
        raise StorageError(
            f"{place} is damaged: its checksum does not match",
            remedy="restore the file from a backup, or empty the folder to begin with an empty store",
        )
    return Geometry(segment_bytes, segment_count, registry_bytes, alignment, uuid, created_at, version)
