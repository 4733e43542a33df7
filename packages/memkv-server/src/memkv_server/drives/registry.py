# SPDX-License-Identifier: Apache-2.0
"""Checks the registry of namespaces: a log whose entries stand one after the other, drawn in ``engine/registry.py``.

Only the log that counts is looked at: what an earlier one left behind does not verify. A torn entry at the end is what
an interrupted start left, and no damage. Whole entries behind one that is not are out of a node's sight: it reads up
to the first that does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from memkv_server.drives.findings import Damage, Finding, Findings
from memkv_server.drives.image import Part
from memkv_server.engine.registry import Entry, Kind, decode_entry, encode_entry, find_log, half_bytes
from memkv_server.engine.superblock import Geometry

_ALIGNMENT: Final = 8
_MAGIC: Final = b"\x02MNS"
_NUMBERS_TRIED: Final = 1 << 16


@dataclass(slots=True)
class RegistryCheck:
    """The log as it should be: every whole entry, one after the other."""

    names: list[str] = field(default_factory=list)  # of namespaces that are not dropped
    log: bytes = b""
    damaged: bool = False


def check_registry(part: Part, geometry: Geometry, findings: Findings) -> RegistryCheck:
    """Reads the log through, past what is damaged."""
    size = min(part.size, geometry.registry_bytes)
    content, unreadable = part.read_around(0, size)
    check = RegistryCheck()
    at, number, end_of_log = _log_of(content, half_bytes(geometry.registry_bytes))
    gap_at = None
    pieces: list[bytes] = []
    names: dict[str, None] = {}
    while at < end_of_log:
        found = decode_entry(content, at, number)
        if found is None:
            gap_at = at if gap_at is None else gap_at
            at = _next_entry(content, at)
            if at < 0:
                break
            continue
        if gap_at is not None:
            check.damaged = True
            findings.add(
                Finding(
                    Damage.REGISTRY,
                    part.file,
                    part.base + gap_at,
                    f"{at - gap_at} bytes are no entry, and the namespaces recorded behind them are not seen",
                )
            )
            gap_at = None
        entry, end = found
        if entry.kind == Kind.OPEN:
            names[entry.name] = None
        elif entry.kind == Kind.DROPPED:
            names.pop(entry.name, None)
        pieces.append(content[at:end])
        at = end
    check.names = list(names)
    if pieces and number:
        start = encode_entry(Entry(Kind.START, number))
        pieces = [start, *(piece for piece in pieces if piece != start)]  # it may be what was damaged
    if unreadable:
        check.damaged = True
        findings.add(
            Finding(Damage.UNREADABLE, part.file, part.base, f"{unreadable} pages of the registry cannot be read")
        )
    check.log = b"".join(pieces)
    return check


def _log_of(content: bytes, second: int) -> tuple[int, int, int]:
    """Where the log that counts begins, its number, and where it ends at the latest.

    Where no START is whole and there are entries all the same, the number is the one by which an entry verifies.
    """
    base, number = find_log(content, second)
    if number:
        return base, number, base + second
    if decode_entry(content, 0, 0) is None:
        base, number = max(
            ((base, _number_of(content, base, second)) for base in (0, second)), key=lambda each: each[1]
        )
    return (base, number, base + second) if number > 0 else (0, 0, len(content))


def _number_of(content: bytes, base: int, second: int) -> int:
    """The number by which an entry in this half verifies; -1: none does."""
    at = _next_entry(content, base)
    while 0 <= at < base + second:
        for number in range(_NUMBERS_TRIED):
            if decode_entry(content, at, number) is not None:
                return number
        at = _next_entry(content, at)
    return -1


def _next_entry(content: bytes, at: int) -> int:
    """Where the magic of an entry stands next, after ``at``; -1: nowhere."""
    at = content.find(_MAGIC, at + 1)
    while at >= 0 and at % _ALIGNMENT:
        at = content.find(_MAGIC, at + 1)
    return at
