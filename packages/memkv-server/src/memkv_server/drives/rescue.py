# SPDX-License-Identifier: Apache-2.0
"""A damaged superblock, read all the same: its geometry, proven by what the segments say. Pure but for the reads.

Every segment header carries a checksum seeded with the store's uuid and the segment's sequence number. So a uuid can be
tried: with the right one the headers verify, with any other none does. What is tried is what the block says, and
that with any one byte of the uuid replaced. Sizes follow from the files and from where segment headers stand.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from memkv_core.errors import StorageError
from memkv_server.drives.image import StoreImage, UnreadableError
from memkv_server.engine import limits
from memkv_server.engine.segment import (
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    TRAILER_BYTES,
    SegmentState,
    decode_segment_header,
    trailer_sequence,
)
from memkv_server.engine.superblock import (
    FORMAT_VERSION,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_MAGIC,
    Geometry,
    decode_superblock,
)

_FIELDS: Final = struct.Struct("<8sIIQQQ16sQ")  # as superblock.py draws them
_ALIGNMENTS: Final = (64, 4096)
_SIZES: Final = [1 << bits for bits in range(16, 31)]  # as limits.py bounds them
_HEADERS_TRIED: Final = 16
_PLACES_TRIED: Final = 1 << 20
assert (_SIZES[0], _SIZES[-1]) == (limits.SEGMENT_BYTES_MIN, limits.SEGMENT_BYTES_MAX)


def read_superblock(image: StoreImage) -> Geometry | None:
    """The geometry, or None where the block is damaged. StorageError where a newer release wrote it."""
    block = _block(image)
    version = int.from_bytes(block[8:12], "little")
    if block.startswith(SUPERBLOCK_MAGIC) and version > FORMAT_VERSION and not _version_is_damaged(block):
        decode_superblock(block, image.superblock.file)  # raises
    try:
        return decode_superblock(block, image.superblock.file)
    except StorageError:
        return None


def _version_is_damaged(block: bytes) -> bool:
    """Whether the checksum fits once the version is one that this release knows."""
    for version in range(1, FORMAT_VERSION + 1):
        with contextlib.suppress(StorageError):
            decode_superblock(block[:8] + version.to_bytes(4, "little") + block[12:], "")
            return True
    return False


def rescue_superblock(image: StoreImage) -> Geometry | None:
    """The geometry that a damaged block must have held; None where the segments do not prove one."""
    block = _block(image)
    _, _, alignment, segment_bytes, segment_count, registry_bytes, uuid, created_at = _FIELDS.unpack_from(block)
    alignment = min(_ALIGNMENTS, key=lambda known: bin(known ^ alignment).count("1"))
    if not image.is_device:
        registry_bytes = image.registry.size
    if not 0 < registry_bytes <= limits.REGISTRY_BYTES_MAX or registry_bytes % SUPERBLOCK_BYTES:
        return None
    claimed = Geometry(segment_bytes, segment_count, registry_bytes, alignment, uuid, created_at)
    image.part_after(claimed)
    is_possible = segment_bytes in _SIZES
    headers = _headers(image, segment_bytes if is_possible else limits.SEGMENT_BYTES_MIN)
    for candidate in _uuids(uuid):
        proven = [at for at, header in headers if _proves(header, candidate)]
        if proven:
            size = segment_bytes if is_possible else _segment_bytes(image, proven, candidate)
            count = image.segments.size // size if size else 0
            if limits.SEGMENT_COUNT_MIN <= segment_count < count:
                count = segment_count
            if count >= limits.SEGMENT_COUNT_MIN:
                return replace(claimed, segment_bytes=size, segment_count=count, uuid=candidate)
    return None


def _block(image: StoreImage) -> bytes:
    try:
        return image.superblock.read(0, min(SUPERBLOCK_BYTES, image.superblock.size)).ljust(SUPERBLOCK_BYTES, b"\0")
    except UnreadableError:
        return bytes(SUPERBLOCK_BYTES)


def _headers(image: StoreImage, step: int) -> list[tuple[int, bytes]]:
    """The first headers of segments in use, with their places, where one may begin every ``step`` bytes."""
    found = []
    for at in range(0, min(image.segments.size, step * _PLACES_TRIED) - step + 1, step):
        try:
            header = image.segments.read(at, SEGMENT_HEADER.size)
        except UnreadableError:
            continue
        if header.startswith(SEGMENT_MAGIC):
            found.append((at, header))
        if len(found) == _HEADERS_TRIED:
            break
    return found


def _segment_bytes(image: StoreImage, places: list[int], uuid: bytes) -> int:
    """From where the trailers of these segments stand, or else from the distances between them; 0: it is not said."""
    for at in places:
        for size in _SIZES:
            if at + size > image.segments.size:
                break
            try:
                trailer = image.segments.read(at + size - TRAILER_BYTES, TRAILER_BYTES)
            except UnreadableError:
                continue
            if trailer_sequence(trailer, TRAILER_BYTES, uuid) is not None:
                return size
    size = math.gcd(*places)
    return size if size in _SIZES else 0


def _uuids(uuid: bytes) -> Iterator[bytes]:
    yield uuid
    for at in range(len(uuid)):
        for value in range(256):
            if value != uuid[at]:
                yield uuid[:at] + bytes([value]) + uuid[at + 1 :]


def _proves(header: bytes, uuid: bytes) -> bool:
    found = decode_segment_header(header, 0, uuid)
    return found is not None and found.state in (SegmentState.OPEN, SegmentState.SEALED)
