# SPDX-License-Identifier: Apache-2.0
"""The segments of a drive and the phases they go through.

::

    FREE --open--> OPEN --full--> CLOSED --last writer done--> SEALED --evicted--> FREE
                                    |                            |
                                    +----- evicted while written or pinned ----> CONDEMNED --last one gone--> FREE
    QUARANTINED: found damaged at start; neither read nor written

Where puts wait for the drive (``durability.py``), so do three steps, each for the one before it to be durable. With a
drive that has nothing to wait for they follow at once:

- *Sealed late.* A footer vouches for records that a start does not read, so it is written when they are durable.
- *Marked free late.* A segment that was given up is marked FREE when what replaces its records is durable: survivors
  that were copied, newer values, tombstones. Until then a start must find it as it was.
- *Used again late.* Its space is given to a new segment when the mark is durable, and the next segment is marked only
  then: marks become durable oldest first.

What waits for that counts as the free segment that is kept ahead.

**Segments are given up strictly oldest first**, and everything about deletes and replacements rests on that. A
tombstone, or a newer value, lies in a younger segment than what it hides. So when the tombstone's segment is given
up, no older record of that key is left on the drive to come back after a restart, and the tombstone need not be kept.
That is also why a segment that a reader still pins is *condemned* rather than passed over: it is marked FREE on the
drive at once, which ends the life of its records, and only its memory lives on until the last pin is gone. And every
segment header says which segment was the oldest when it was opened: after a power loss that undid a FREE mark, the
younger headers still know better.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from memkv_core.errors import StorageError
from memkv_core.log import RateLimitedLog
from memkv_server.engine.drive import SEGMENTS_FILE, Drive, NoRoomError
from memkv_server.engine.durability import SETTLED, Durability, Immediate, Ticket
from memkv_server.engine.health import DriveState
from memkv_server.engine.limits import PREPARE_BYTES_MIN
from memkv_server.engine.segment import (
    ENTRY_BYTES,
    SEGMENT_DATA_AT,
    SEGMENT_HEADER,
    SEGMENT_STATE_AT,
    TRAILER_BYTES,
    UNIT_SHIFT,
    SegmentState,
    decode_footer,
    encode_segment_header,
    encode_trailer,
    segment_seed,
)

_LOG: Final = RateLimitedLog(logging.getLogger(__name__))


class Phase(IntEnum):
    """Where a segment is in its life; see the module."""

    FREE = 0
    OPEN = 1
    CLOSED = 2
    SEALED = 3
    CONDEMNED = 4
    QUARANTINED = 5


class Segment:
    """One segment. ``tail`` counts from its first byte; ``origin + tail`` is a place in ``memory``."""

    __slots__ = (
        "address",
        "end",
        "entries",
        "entry_count",
        "freed",
        "memory",
        "opened_at_s",
        "origin",
        "phase",
        "pins",
        "prepared",
        "seed",
        "sequence",
        "slot",
        "tail",
        "view",
        "writers",
    )

    def __init__(self, slot: int, drive: Drive) -> None:
        self.slot = slot
        self.memory, self.view, self.origin = drive.window(slot)
        self.address = slot * drive.geometry.segment_bytes  # on the drive
        self.end = drive.geometry.segment_bytes
        self.phase = Phase.FREE
        self.sequence = 0
        self.opened_at_s = 0  # unix time, for people: nothing is decided by it
        self.seed = 0
        self.tail = SEGMENT_DATA_AT
        self.prepared = 0  # up to here it has been made ready to be written
        self.entry_count = 0  # records that may yet want an entry in the footer
        self.entries = bytearray()  # of committed records and tombstones, until the segment is sealed
        self.pins = 0  # read batches being sent
        self.writers = 0  # reservations being received
        self.freed = True  # nothing on the drive needs what it held: of one that is FREE or CONDEMNED

    def has_room(self, size: int) -> bool:
        """Whether a record of so many bytes, and its footer entry, fit."""
        return self.tail + size + (self.entry_count + 1) * ENTRY_BYTES + TRAILER_BYTES <= self.end

    @property
    def footer(self) -> tuple[int, int]:
        """The footer's extent on the drive, of a sealed segment."""
        size = self.entry_count * ENTRY_BYTES + TRAILER_BYTES
        return self.address + self.end - size, size

    def footer_entries(self) -> bytes:
        """The entries: of a sealed segment from its footer, which has been loaded; empty if it was damaged since."""
        if self.phase != Phase.SEALED:
            return bytes(self.entries)
        footer = decode_footer(self.memory, self.origin, self.origin + self.end, self.sequence, self.seed)
        return footer[0] if footer is not None else b""


class SegmentPool:
    """All segments of a drive, by phase. Pure bookkeeping and a few bytes of header and footer."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.durability: Durability = Immediate(drive.written)
        geometry = drive.geometry
        self.alignment = geometry.alignment
        self.segment_bytes = geometry.segment_bytes
        self.segment_shift = geometry.segment_bytes.bit_length() - 1
        self.segments = [Segment(slot, drive) for slot in range(geometry.segment_count)]
        self.free: deque[Segment] = deque()
        self.closed: deque[Segment] = deque()  # CLOSED and SEALED, oldest first
        self.sealing: deque[tuple[Segment, Ticket]] = deque()  # CLOSED, full, waiting to be sealed
        self.freeing: deque[Segment] = deque()  # CONDEMNED, oldest first, waiting to be marked and then freed
        self._freeing_ticket = SETTLED  # what the first of them waits for
        self._first_is_marked = False
        self.current: Segment | None = None
        self.sequence = 0  # of the newest segment
        self.record_sequence = 0  # of the newest committed record
        self.quarantined_count = 0
        self.expected_bytes = 0  # of the batch being reserved, what the current segment has no room for

    @property
    def record_bytes_max(self) -> int:
        """The longest record that an empty segment holds, and the drive takes."""
        held = self.segment_bytes - SEGMENT_DATA_AT - TRAILER_BYTES - ENTRY_BYTES
        return held if self.drive.record_bytes_max is None else min(held, self.drive.record_bytes_max)

    @property
    def file(self) -> str:
        """What holds the segments, for messages: a file in the drive's folder, or a device."""
        path = self.drive.path or "memory"
        return os.path.join(path, SEGMENTS_FILE) if os.path.isdir(path) else path

    @property
    def ahead(self) -> int:
        """Segments that are free, or will be without anything being given up."""
        return len(self.free) + len(self.freeing)

    @property
    def writable(self) -> bool:
        """Whether the drive takes writes."""
        return self.drive.health.state is DriveState.ONLINE

    def load(self, extents: Sequence[tuple[int, int]]) -> list[int]:
        """Brings extents (address, length) into memory; the positions of those that cannot be read."""
        missing = self.drive.missing(extents)
        if not missing:
            return missing
        failed = [missing[position] for position in self.drive.fetch([extents[position] for position in missing])]
        self.unreadable([extents[position] for position in failed])
        return failed

    def unreadable(self, extents: Sequence[tuple[int, int]]) -> None:
        """Counts extents that could not be read against the drive."""
        for address, length in extents:
            reason = f"{self.file}: offset {address}: {length} bytes cannot be read"
            self.drive.health.read_failed(reason)
            _LOG.error(f"read {self.drive.path}", "%s; check the drive", reason)

    def expect(self, payload_bytes: int) -> None:
        """Prepares the next so many bytes for being written, in this segment and those opened before the next call."""
        self.expected_bytes = payload_bytes
        if self.current is not None:
            self._prepare_expected(self.current)

    def changed(self, segment: Segment, start: int, end: int) -> None:
        """This part of a segment has changed for good."""
        self.drive.changed([(segment.address + start, end - start)])

    def _prepare_expected(self, segment: Segment) -> None:
        part = min(self.expected_bytes, segment.end - segment.tail)
        if part > 0:
            self.expected_bytes -= part
            with contextlib.suppress(NoRoomError):  # each record will ask for what it needs
                self.prepare(segment, segment.tail + part)

    def prepare(self, segment: Segment, end: int) -> None:
        """Makes the segment ready to be written up to ``end``. Raises StorageError where the drive fails."""
        if end > segment.prepared:
            end = min(max(end, segment.prepared + PREPARE_BYTES_MIN), segment.end)
            self.drive.prepare(segment.slot, segment.prepared, end)
            segment.prepared = end

    def open_next(self) -> Segment | None:
        """Closes the current segment and opens a free one; None, and nothing is changed, where none is free.

        Raises StorageError where the drive fails.
        """
        if not self.free:
            return None
        self.free[0].prepared = 0
        self.prepare(self.free[0], SEGMENT_DATA_AT)
        if self.current is not None:
            self._close(self.current)
        segment = self.free.popleft()
        self.sequence += 1
        oldest = self._oldest_sequence()
        now_s = int(time.time())
        header = encode_segment_header(self.sequence, oldest, now_s, self.drive.geometry.uuid)
        at = segment.origin
        segment.memory[at : at + SEGMENT_HEADER.size] = header
        segment.memory[at + SEGMENT_STATE_AT] = SegmentState.OPEN
        self.changed(segment, 0, SEGMENT_HEADER.size)
        segment.phase = Phase.OPEN
        segment.sequence = self.sequence
        segment.opened_at_s = now_s
        segment.seed = segment_seed(self.drive.geometry.uuid, self.sequence)
        segment.tail = SEGMENT_DATA_AT
        segment.entry_count = 0
        segment.entries = bytearray()
        self.current = segment
        self._prepare_expected(segment)
        return segment

    def _oldest_sequence(self) -> int:
        """Every segment before this one has been given up, and what replaces its records is durable."""
        unmarked = 1 if self._first_is_marked else 0
        if len(self.freeing) > unmarked:
            return self.freeing[unmarked].sequence
        return self.closed[0].sequence if self.closed else self.sequence

    def _close(self, segment: Segment) -> None:
        if segment.prepared > segment.tail:
            self.drive.discard(segment.slot, segment.tail, segment.prepared)
        segment.phase = Phase.CLOSED
        self.closed.append(segment)
        if segment.writers == 0:
            self.seal(segment)

    def seal(self, segment: Segment) -> None:
        """Writes the footer, once all that it vouches for is durable."""
        ticket = self.durability.join()
        if ticket.settled:
            self._write_footer(segment, ticket)
        else:
            self.sealing.append((segment, ticket))

    def _write_footer(self, segment: Segment, ticket: Ticket) -> None:
        """The state comes last: until then a start would scan the segment.

        On a drive that fails it stays as it is, closed: a start will scan it.
        """
        if segment.phase != Phase.CLOSED or ticket.failure is not None:
            return  # given up meanwhile, or the drive has failed
        entries = segment.entries
        try:
            self.drive.prepare(segment.slot, segment.end - TRAILER_BYTES - len(entries), segment.end)
            self.drive.prepare(segment.slot, 0, SEGMENT_HEADER.size)
        except StorageError as error:
            _LOG.error(f"seal {self.drive.path}", "segment %d is not sealed: %s", segment.slot, error)
            return
        end = segment.origin + segment.end
        trailer_at = end - TRAILER_BYTES
        segment.memory[trailer_at - len(entries) : trailer_at] = entries
        segment.memory[trailer_at:end] = encode_trailer(
            segment.sequence, segment.tail >> UNIT_SHIFT, entries, segment.seed
        )
        self.changed(segment, segment.end - TRAILER_BYTES - len(entries), segment.end)
        segment.memory[segment.origin + SEGMENT_STATE_AT] = SegmentState.SEALED
        segment.phase = Phase.SEALED
        segment.entry_count = len(entries) // ENTRY_BYTES
        segment.entries = bytearray()
        self.changed(segment, 0, SEGMENT_HEADER.size)
        self.durability.wrote()

    def evictable(self) -> bool:
        """Whether giving up segments, oldest first, will sooner or later free one."""
        return any(segment.pins == 0 and segment.writers == 0 for segment in self.closed)

    def give_up(self, segment: Segment) -> None:
        """Ends the life of the oldest segment's records; the caller has taken them out of the index.

        Raises StorageError, and has changed nothing, where the drive fails.
        """
        self.drive.prepare(segment.slot, 0, SEGMENT_HEADER.size)
        oldest = self.closed.popleft()
        assert oldest is segment
        segment.entries = bytearray()
        segment.phase = Phase.CONDEMNED
        segment.freed = False
        if not self.freeing:
            self._freeing_ticket = self.durability.join()
        self.freeing.append(segment)
        self.advance()

    def advance(self) -> None:
        """Goes on with the segments that wait for something that has become durable. Cheap.

        Raises StorageError where the drive fails; they stay as they are.
        """
        while self.sealing and self.sealing[0][1].settled:
            self._write_footer(*self.sealing.popleft())
        while self.freeing and self._freeing_ticket.settled and self._freeing_ticket.failure is None:
            segment = self.freeing[0]
            if not self._first_is_marked:
                self.drive.prepare(segment.slot, 0, SEGMENT_HEADER.size)
                segment.memory[segment.origin + SEGMENT_STATE_AT] = SegmentState.FREE
                self.changed(segment, 0, SEGMENT_HEADER.size)
                self.durability.wrote()
                self._first_is_marked = True
            else:
                self.freeing.popleft()
                self._first_is_marked = False
                segment.freed = True
                self._free_if_unused(segment)
            if self.freeing:
                self._freeing_ticket = self.durability.join()

    def await_freed(self) -> bool:
        """Waits for the drive until nothing that was given up waits any more. False where the drive fails."""
        while self.freeing:
            self.durability.flush()
            if self._freeing_ticket.failure is not None:
                return False
            self.advance()
        return True

    def unpin(self, segment: Segment) -> None:
        """A read batch is done with the segment."""
        segment.pins -= 1
        assert segment.pins >= 0
        self._free_if_unused(segment)

    def done_writing(self, segment: Segment) -> None:
        """A reservation is done with the segment."""
        segment.writers -= 1
        assert segment.writers >= 0
        if segment.writers == 0 and segment.phase == Phase.CLOSED:
            self.seal(segment)
        self._free_if_unused(segment)

    def _free_if_unused(self, segment: Segment) -> None:
        if segment.phase == Phase.CONDEMNED and segment.freed and segment.pins == 0 and segment.writers == 0:
            segment.phase = Phase.FREE
            self.free.append(segment)
