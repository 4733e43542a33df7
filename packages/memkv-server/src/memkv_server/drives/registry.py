# SPDX-License-Identifier: Apache-2.0
"""Checks the registry of namespaces: a log whose entries stand one after the other, drawn in ``engine/namespaces.py``.

A torn entry at the end is what an interrupted start left, and no damage. Whole entries behind one that is not are
out of a node's sight: it reads up to the first that does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from memkv_core.limits import IDENTITY_BYTES_MAX, NAMESPACE_BYTES_MAX
from memkv_server.drives.findings import Damage, Finding, Findings
from memkv_server.drives.image import Part
from memkv_server.engine.namespaces import decode_entries
from memkv_server.engine.superblock import Geometry

_ALIGNMENT: Final = 8
_MAGIC: Final = b"\x02MNS"
_ENTRY_BYTES_MAX: Final = 64 + NAMESPACE_BYTES_MAX + IDENTITY_BYTES_MAX


@dataclass(slots=True)
class RegistryCheck:
    """The log as it should be: every whole entry, one after the other."""

    names: list[str] = field(default_factory=list)
    log: bytes = b""
    damaged: bool = False


def check_registry(part: Part, geometry: Geometry, findings: Findings) -> RegistryCheck:
    """Reads the log through, past what is damaged."""
    size = min(part.size, geometry.registry_bytes)
    content, unreadable = part.read_around(0, size)
    check = RegistryCheck()
    at, gap_at = 0, None
    pieces = []
    while at < len(content):
        name_and_end = next(((name, end) for name, _, end in decode_entries(content[at : at + _ENTRY_BYTES_MAX])), None)
        if name_and_end is None:
            gap_at = at if gap_at is None else gap_at
            at = content.find(_MAGIC, at + 1)
            while at >= 0 and at % _ALIGNMENT:
                at = content.find(_MAGIC, at + 1)
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
        name, end = name_and_end
        check.names.append(name)
        pieces.append(content[at : at + end])
        at += end
    if unreadable:
        check.damaged = True
        findings.add(
            Finding(Damage.UNREADABLE, part.file, part.base, f"{unreadable} pages of the registry cannot be read")
        )
    check.log = b"".join(pieces)
    return check
