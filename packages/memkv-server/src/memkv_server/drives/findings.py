# SPDX-License-Identifier: Apache-2.0
"""What a check says: each damage with its file, its offset there, and what to do. Plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Final

REPAIR: Final = "run `memkv drive check --repair` on it"
FINDINGS_KEPT: Final = 1000  # of one store, in full; the rest is only counted


class Damage(str, Enum):
    """What is damaged."""

    SUPERBLOCK = "superblock"
    REGISTRY = "registry"
    SIZE = "size"
    SEGMENT_HEADER = "segment header"
    FOOTER = "footer"
    GAP = "gap"  # committed records stand behind bytes that are none
    RECORD = "record"  # its header
    PAYLOAD = "payload"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One damage. ``offset`` counts bytes from the beginning of ``file``, which may be a device."""

    damage: Damage
    file: str
    offset: int
    cause: str
    remedy: str = REPAIR
    segment: int | None = None

    def __str__(self) -> str:
        segment = f"segment {self.segment}: " if self.segment is not None else ""
        return f"{self.file}: offset {self.offset}: {segment}{self.cause}; {self.remedy}"

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "damage": self.damage.value}


@dataclass(slots=True)
class Findings:
    """The damages of one store: the first ones in full, all of them counted."""

    kept: list[Finding] = field(default_factory=list)
    counts: dict[Damage, int] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Takes one more."""
        self.counts[finding.damage] = self.counts.get(finding.damage, 0) + 1
        if len(self.kept) < FINDINGS_KEPT:
            self.kept.append(finding)

    @property
    def count(self) -> int:
        """Of all."""
        return sum(self.counts.values())

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "count": self.count,
            "by_damage": {damage.value: count for damage, count in self.counts.items()},
            "findings": [finding.as_json() for finding in self.kept],
        }
