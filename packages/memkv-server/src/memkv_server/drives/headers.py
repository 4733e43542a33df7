# SPDX-License-Identifier: Apache-2.0
"""Which segments of an image hold records: by their headers, and where a header is damaged by what else is proven.

A damaged header is rebuilt where a sequence number can be proven: by the header's own checksum (then only its state is
damaged), by the segment's trailer, or by its first record, whose checksums are seeded with that number. Whether the
segment was still in use follows from the order in which segments are given up, strictly oldest first: it was, where
an older one still is. Where that is not so, and what is left of the header does not say it, it counts as given up: what
it holds may have been deleted or replaced since, and must not come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from memkv_server.drives.findings import Damage, Finding
from memkv_server.drives.image import Part, UnreadableError
from memkv_server.drives.records import HEADER_BYTES_MAX, SegmentPlace, header_at
from memkv_server.engine.segment import (
    SEGMENT_DATA_AT,
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    TRAILER_BYTES,
    SegmentHeader,
    SegmentState,
    decode_record,
    decode_segment_header,
    segment_seed,
    trailer_sequence,
)
from memkv_server.engine.superblock import Geometry

_IN_USE: Final = (SegmentState.OPEN, SegmentState.SEALED)
_SEARCHED: Final = 64  # sequence numbers below and above those that are known


@dataclass(slots=True)
class Slot:
    """One segment of the image: what its header says, and what it is taken for."""

    number: int
    place: SegmentPlace  # with the sequence that is proven; 0 where none is
    header: SegmentHeader | None  # None: it is to be written anew, or the segment to be freed
    in_use: bool = False
    damaged: bool = False


def read_slots(part: Part, geometry: Geometry) -> list[Slot]:
    """Every segment. Those in use have their sequence; a damaged header is ``damaged``, and in use where proven."""
    slots = [_read(part, geometry, number) for number in range(geometry.segment_count)]
    _settle_twins(slots, geometry)
    known = [slot.header for slot in slots if slot.in_use and slot.header is not None]
    oldest = max((header.oldest_sequence for header in known), default=0)
    for slot in slots:
        if slot.in_use and slot.place.sequence < oldest:
            slot.in_use = False  # given up before a younger one was opened; a power loss undid the mark
    taken = {slot.place.sequence for slot in slots if slot.in_use}
    for slot in slots:
        if slot.damaged:
            _rescue(slot, part, geometry, taken, oldest)
    return slots


def oldest_known(slots: Iterable[Slot]) -> int:
    """What the headers say of the oldest segment: all before it had been given up."""
    return max((slot.header.oldest_sequence for slot in slots if slot.in_use and slot.header is not None), default=0)


def finding_of(slot: Slot) -> Finding:
    """What is said of a damaged header."""
    after = "it is written anew from what the segment holds" if slot.in_use else "nothing proves that it is in use"
    return Finding(
        Damage.SEGMENT_HEADER,
        slot.place.part.file,
        slot.place.part.base + slot.place.address,
        f"its header is damaged, and a node sets it aside ({after})",
        segment=slot.number,
    )


def _place(part: Part, geometry: Geometry, number: int, sequence: int) -> SegmentPlace:
    size = geometry.segment_bytes
    seed = segment_seed(geometry.uuid, sequence)
    return SegmentPlace(part, number * size, size, geometry.alignment, sequence, seed)


def _read(part: Part, geometry: Geometry, number: int) -> Slot:
    try:
        block = part.read(number * geometry.segment_bytes, SEGMENT_HEADER.size)
    except UnreadableError:
        return Slot(number, _place(part, geometry, number, 0), None, damaged=True)
    header = decode_segment_header(block, 0, geometry.uuid)
    sequence = header.sequence if header is not None else 0
    slot = Slot(number, _place(part, geometry, number, sequence), header)
    slot.damaged = header is None
    slot.in_use = header is not None and header.state in _IN_USE
    return slot


def _settle_twins(slots: list[Slot], geometry: Geometry) -> None:
    """Of two segments with one sequence number the one whose records bear it is right: the other's header is not."""
    by_sequence: dict[int, Slot] = {}
    for slot in slots:
        if not slot.in_use:
            continue
        twin = by_sequence.setdefault(slot.place.sequence, slot)
        if twin is slot:
            continue
        wrong = slot if _proves(twin.place, geometry.uuid) or not _proves(slot.place, geometry.uuid) else twin
        by_sequence[slot.place.sequence] = slot if wrong is twin else twin
        wrong.header, wrong.in_use, wrong.damaged = None, False, True


def _proves(place: SegmentPlace, uuid: bytes) -> bool:
    """Whether trailer or first record bear the segment's sequence number."""
    try:
        trailer = place.read(place.size - TRAILER_BYTES, TRAILER_BYTES)
        if trailer_sequence(trailer, TRAILER_BYTES, uuid) == place.sequence:
            return True
        return header_at(place, SEGMENT_DATA_AT) is not None
    except UnreadableError:
        return False


def _rescue(slot: Slot, part: Part, geometry: Geometry, taken: set[int], oldest: int) -> None:
    sequence = _proven_sequence(slot, part, geometry, taken)
    if sequence is None or sequence < max(oldest, 1) or sequence in taken:
        return
    if any(known < sequence for known in taken) or _says_in_use(slot, part, geometry, sequence):
        slot.place, slot.in_use = _place(part, geometry, slot.number, sequence), True
        taken.add(sequence)


def _proven_sequence(slot: Slot, part: Part, geometry: Geometry, taken: set[int]) -> int | None:
    """The sequence number that the trailer bears, or else the first record under one of those that are likely."""
    at, size = slot.place.address, geometry.segment_bytes
    trailer, _ = part.read_around(at + size - TRAILER_BYTES, TRAILER_BYTES)
    sealed = trailer_sequence(trailer, TRAILER_BYTES, geometry.uuid)
    if sealed is not None:
        return sealed
    block, _ = part.read_around(at, SEGMENT_HEADER.size)
    first, _ = part.read_around(at + SEGMENT_DATA_AT, HEADER_BYTES_MAX)
    for sequence in _likely(SEGMENT_HEADER.unpack(block)[2], taken):
        if decode_record(first, 0, len(first), segment_seed(geometry.uuid, sequence)) is not None:
            return sequence
    return None


def _likely(said: int, taken: set[int]) -> Iterator[int]:
    """What the header says, that with any one bit flipped, and the neighbours of the others: a run counts by one."""
    yield said
    yield from (said ^ 1 << bit for bit in range(64))
    tried = set(taken)
    for known in taken:
        for sequence in range(max(1, known - _SEARCHED), known + _SEARCHED):
            if sequence not in tried:
                tried.add(sequence)
                yield sequence


def _says_in_use(slot: Slot, part: Part, geometry: Geometry, sequence: int) -> bool:
    """Whether the header, damaged as it is, still says that this segment was in use.

    The codes of the states differ in four bits each, so one that is at most a bit away from a code in use is believed
    where the rest stands by it: it verifies with magic and sequence put right, or both are as they should be.
    """
    block, _ = part.read_around(slot.place.address, SEGMENT_HEADER.size)
    magic, state, said, *rest = SEGMENT_HEADER.unpack(block)
    nearest = [known for known in SegmentState if bin(known ^ state).count("1") <= 1]
    if len(nearest) != 1 or nearest[0] not in _IN_USE:
        return False
    mended = SEGMENT_HEADER.pack(SEGMENT_MAGIC, nearest[0], sequence, *rest)
    if decode_segment_header(mended, 0, geometry.uuid) is not None:
        return True
    return bool(magic == SEGMENT_MAGIC and said == sequence and state == nearest[0])
