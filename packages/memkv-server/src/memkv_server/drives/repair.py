# SPDX-License-Identifier: Apache-2.0
"""Mends a store by what a check has found: it opens cleanly afterwards, and every record that was intact is served.

* A damaged record becomes a tombstone in its segment's footer: a miss, and what it replaced stays hidden.
* A footer is written anew from the records; a segment header from what the segment proves about itself.
* A segment of which nothing can be proven is given back as free space.
* The registry is written anew with every whole entry; a superblock with the geometry that the segments prove.

Each footer is written before its header's state, so that a repair which is interrupted can be run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from memkv_core.errors import StorageError
from memkv_server.drives.check import SegmentCheck, StoreCheck
from memkv_server.drives.headers import oldest_known
from memkv_server.drives.image import StoreImage
from memkv_server.engine.segment import (
    ENTRY_BYTES,
    SEGMENT_HEADER,
    SEGMENT_STATE_AT,
    TRAILER_BYTES,
    UNIT_SHIFT,
    SegmentState,
    encode_segment_header,
    encode_trailer,
)


def repair_store(image: StoreImage, check: StoreCheck) -> Iterator[str]:
    """Mends what the check has found, and says each step in a line. Raises StorageError where the drive fails."""
    geometry = check.geometry
    if geometry is None:
        finding = check.findings.kept[0]
        raise StorageError(f"{finding.file}: offset {finding.offset}: {finding.cause}", remedy=finding.remedy)
    if check.cut_short:
        image.extend(geometry.data_bytes)
        yield f"{image.segments.file}: extended to {geometry.data_bytes} bytes"
    if check.registry is not None and check.registry.damaged:
        image.registry.write(0, check.registry.log.ljust(geometry.registry_bytes, b"\0"))
        yield f"{image.registry.file}: written anew with {len(check.registry.names)} namespaces"
    oldest = oldest_known(check.slots)
    for segment in check.segments:
        if segment.must_seal:
            yield _seal(image, check, segment, oldest)
    for slot in check.slots:
        if slot.damaged and not slot.in_use:
            image.segments.write(slot.place.address, bytes(SEGMENT_HEADER.size))
            yield f"{_where(image, slot.place.address)}: segment {slot.number} is free space again"
    image.sync()
    if check.superblock_damaged:
        image.write_superblock(geometry)
        yield f"{image.superblock.file}: written anew"


def _seal(image: StoreImage, check: StoreCheck, segment: SegmentCheck, oldest: int) -> str:
    slot, place, entries = segment.slot, segment.slot.place, bytes(segment.entries)
    assert check.geometry is not None
    footer_at = place.size - TRAILER_BYTES - len(entries)
    assert footer_at >= segment.tail, "a writer leaves room for the footer"
    trailer = encode_trailer(place.sequence, segment.tail >> UNIT_SHIFT, entries, place.seed)
    image.segments.write(place.address + footer_at, entries + trailer)
    image.sync()
    if slot.header is None:
        header = bytearray(
            encode_segment_header(place.sequence, min(oldest, place.sequence), int(time.time()), check.geometry.uuid)
        )
        header[SEGMENT_STATE_AT] = SegmentState.SEALED
        image.segments.write(place.address, bytes(header))
    else:
        image.segments.write(place.address + SEGMENT_STATE_AT, bytes([SegmentState.SEALED]))
    kept = len(entries) // ENTRY_BYTES
    dropped = f", {segment.damaged} damaged dropped" if segment.damaged else ""
    return (
        f"{_where(image, place.address)}: segment {slot.number} sealed anew with {kept} entries "
        f"({segment.records} records{dropped})"
    )


def _where(image: StoreImage, address: int) -> str:
    return f"{image.segments.file}: offset {image.segments.base + address}"
