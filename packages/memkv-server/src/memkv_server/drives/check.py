# SPDX-License-Identifier: Apache-2.0
"""Checks a store that no node has open: superblock, registry, every segment's header and footer, every record.

What a running node would find only when it reads a record (or never, for one that nobody asks for) is found here, with
its place. Nothing is written; ``repair.py`` writes what a check has worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from memkv_server.drives.findings import REPAIR, Damage, Finding, Findings
from memkv_server.drives.headers import Slot, finding_of, read_slots
from memkv_server.drives.image import StoreImage
from memkv_server.drives.records import Record, Scan, footer_of, footer_records, scanned_records
from memkv_server.drives.registry import RegistryCheck, check_registry
from memkv_server.drives.rescue import read_superblock, rescue_superblock
from memkv_server.engine.segment import ENTRY_DTYPE, SEGMENT_DATA_AT, UNIT_SHIFT, RecordState, SegmentState
from memkv_server.engine.superblock import Geometry

Progress = Callable[[int, int], None]
"""Takes the bytes that have been gone through, and those of all segments."""


_LOST: Final = "copy it back from a backup, or begin with an empty store (`memkv setup --force`)"


def no_progress(_done: int, _total: int) -> None:
    """Nobody watches."""


@dataclass(slots=True)
class SegmentCheck:
    """One segment in use. ``entries`` is what its footer should say: damaged records are tombstones there."""

    slot: Slot
    sealed: bool  # it has a footer that holds
    entries: bytearray = field(default_factory=bytearray)
    tail: int = SEGMENT_DATA_AT
    records: int = 0  # intact, live or not
    damaged: int = 0
    suspects: list[Record] = field(default_factory=list)  # damaged, in a segment without a footer
    durable_sequence: int = 0  # all records up to this one are known to have been durable
    must_seal: bool = False  # a repair has to write header and footer


@dataclass(slots=True)
class StoreCheck:
    """What a check found, and what a repair needs to know."""

    path: Path
    findings: Findings
    geometry: Geometry | None = None  # None: the superblock is damaged beyond rescue
    superblock_damaged: bool = False
    registry: RegistryCheck | None = None
    slots: list[Slot] = field(default_factory=list)
    segments: list[SegmentCheck] = field(default_factory=list)  # those in use, oldest first
    cut_short: bool = False  # the segments file is shorter than the store
    with_data: bool = False
    live_records: int = 0
    live_bytes: int = 0

    @property
    def is_clean(self) -> bool:
        """Nothing is damaged."""
        return not self.findings.count

    @property
    def lost_records(self) -> int:
        """Damaged ones that were found by their place."""
        return sum(segment.damaged for segment in self.segments)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        geometry = self.geometry
        return {
            "path": str(self.path),
            "clean": self.is_clean,
            "data_checked": self.with_data,
            "format_version": geometry.format_version if geometry is not None else None,
            "uuid": geometry.uuid.hex() if geometry is not None else None,
            "segments": {
                "total": geometry.segment_count if geometry is not None else None,
                "in_use": len(self.segments),
                "sealed": sum(segment.sealed for segment in self.segments),
                "damaged_headers": sum(slot.damaged for slot in self.slots),
            },
            "records": {
                "live": self.live_records,
                "live_bytes": self.live_bytes,
                "intact": sum(segment.records for segment in self.segments),
                "damaged": self.lost_records,
            },
            **self.findings.as_json(),
        }


def check_store(image: StoreImage, *, data: bool = False, progress: Progress = no_progress) -> StoreCheck:
    """Looks at everything; with ``data`` at every payload as well. Raises StorageError only for a newer format."""
    image.forget_cached()
    check = StoreCheck(image.place, Findings(), with_data=data)
    geometry = _geometry(image, check)
    if geometry is None:
        return check
    check.geometry = geometry
    image.part_after(geometry)
    if image.segments.size < geometry.data_bytes:
        check.cut_short = True
        check.findings.add(
            Finding(
                Damage.SIZE,
                image.segments.file,
                image.segments.base + image.segments.size,
                f"it ends here, and {geometry.data_bytes - image.segments.size} bytes are missing",
            )
        )
    check.registry = check_registry(image.registry, geometry, check.findings)
    check.slots = read_slots(image.segments, geometry)
    for slot in check.slots:
        if slot.damaged and slot.place.address < image.segments.size:
            check.findings.add(finding_of(slot))
    used = sorted((slot for slot in check.slots if slot.in_use), key=lambda slot: slot.place.sequence)
    for number, slot in enumerate(used):
        check.segments.append(_check_segment(slot, data, check.findings))
        progress((number + 1) * geometry.segment_bytes, len(used) * geometry.segment_bytes)
    _judge(check.segments)
    _restore_copies(check.segments)
    check.live_records, check.live_bytes = _live(check.segments)
    return check


def _geometry(image: StoreImage, check: StoreCheck) -> Geometry | None:
    geometry = read_superblock(image)
    if geometry is not None:
        return geometry
    check.superblock_damaged = True
    geometry = rescue_superblock(image)
    proven = geometry is not None
    how = "what it held is proven by the segments" if proven else "and no segment proves what it held"
    remedy = REPAIR if proven else _LOST
    check.findings.add(
        Finding(Damage.SUPERBLOCK, image.superblock.file, 0, f"the superblock is damaged ({how})", remedy)
    )
    return geometry


def _check_segment(slot: Slot, data: bool, findings: Findings) -> SegmentCheck:
    place = slot.place

    def report(damage: Damage, at: int, cause: str) -> None:
        offset = place.part.base + place.address + at
        findings.add(Finding(damage, place.part.file, offset, cause, segment=slot.number))

    header = slot.header
    state = header.state if header is not None else SegmentState.SEALED
    before = findings.count
    footer = footer_of(place) if state == SegmentState.SEALED else None
    segment = SegmentCheck(slot, sealed=footer is not None)
    if footer is not None:
        segment.tail = footer[1]
        for record in footer_records(footer[0], place, data, report):
            _take(segment, record)
            segment.durable_sequence = max(segment.durable_sequence, record.sequence)
    else:
        if state == SegmentState.SEALED and header is not None:
            report(Damage.FOOTER, place.size - 64, "its footer is damaged, and a node has to scan it at every start")
        scan = Scan()
        for record in scanned_records(place, scan, report):
            _take(segment, record)
        segment.tail, segment.durable_sequence = scan.tail, scan.durable_sequence
    segment.must_seal = slot.damaged or findings.count > before
    return segment


def _take(segment: SegmentCheck, record: Record) -> None:
    state = record.state
    if state == RecordState.COMMITTED:
        segment.records += record.intact
        segment.damaged += not record.intact
        if not record.intact:
            if not segment.sealed:
                segment.suspects.append(record)
                return
            # Not left out: what it replaced must not come back in its place.
            state = RecordState.TOMBSTONE
    segment.entries += record.encode(state)


def _judge(segments: list[SegmentCheck]) -> None:
    """A damaged record hides what it replaced, unless it was under way when the power failed: see recovery.py."""
    durable_sequence = max((segment.durable_sequence for segment in segments), default=0)
    for segment in segments:
        for record in segment.suspects:
            if not record.stamp or record.sequence <= durable_sequence:
                segment.entries += record.encode(RecordState.TOMBSTONE)


def _restore_copies(segments: list[SegmentCheck]) -> None:
    """Where a record was being copied forward it stands twice: a damaged copy must not hide the intact one."""
    if not any(segment.damaged for segment in segments):
        return
    tables = [np.frombuffer(bytes(segment.entries), dtype=ENTRY_DTYPE) for segment in segments]
    intact = {
        (entry["key_hash"].tobytes(), int(entry["sequence"]))
        for table in tables
        for entry in table[table["state"] == RecordState.COMMITTED]
    }
    for segment, table in zip(segments, tables, strict=True):
        if segment.damaged:
            kept = [
                entry["state"] == RecordState.COMMITTED
                or (entry["key_hash"].tobytes(), int(entry["sequence"])) not in intact
                for entry in table
            ]
            segment.entries = bytearray(table[np.array(kept, dtype=bool)].tobytes())


def _live(segments: list[SegmentCheck]) -> tuple[int, int]:
    """How many records are the newest of their key, and their bytes."""
    tables = [np.frombuffer(bytes(segment.entries), dtype=ENTRY_DTYPE) for segment in segments if segment.entries]
    if not tables:
        return 0, 0
    table = np.concatenate(tables)
    age = np.repeat(np.arange(len(tables)), [len(entries) for entries in tables])
    order = np.lexsort((age, table["sequence"]))[::-1]  # the newest first, and of its copies the youngest
    _, first = np.unique(table["key_hash"][order].view("V16"), return_index=True)
    newest = table[order][first]
    newest = newest[newest["state"] == RecordState.COMMITTED]
    return len(newest), int(newest["length"].astype(np.int64).sum()) << UNIT_SHIFT
