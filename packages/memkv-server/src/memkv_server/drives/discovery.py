# SPDX-License-Identifier: Apache-2.0
"""The block devices of a machine, and what each is used for, from sysfs and procfs. Looks only.

Everything is read beneath one root, so that a test can give it a tree of its own; what a device holds is asked of a
function, since that takes a read of the device. NVMe comes first, then other solid-state drives, then disks that turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

SECTOR_BYTES: Final = 512  # in which sysfs counts, whatever the device's own sectors are
_NO_DRIVES: Final = ("ram", "zram", "loop", "sr", "fd", "nbd")  # never somebody's drive for blocks


class Kind(str, Enum):
    """What a device is, the fastest first."""

    NVME = "nvme"
    SSD = "ssd"
    DISK = "disk"


class Use(str, Enum):
    """Whether a device can be taken."""

    FREE = "free"
    OURS = "ours"  # it holds a MemKV store
    FOREIGN = "foreign"  # it holds something else
    IN_USE = "in use"  # mounted, swap, or part of something
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """One whole device. ``reason`` says in words what ``use`` rests on."""

    path: Path
    kind: Kind
    size_bytes: int
    model: str
    use: Use
    reason: str = ""
    partitions: tuple[str, ...] = field(default=())

    @property
    def is_for_auto(self) -> bool:
        """Whether ``--drives auto`` takes it: free or ours, and solid-state."""
        return self.use in (Use.FREE, Use.OURS) and self.kind is not Kind.DISK


Content = Callable[[Path], "tuple[Use, str]"]
"""What a device that nobody uses holds: FREE, OURS, FOREIGN or UNREADABLE, and that in words."""


def discover(root: Path, content: Content) -> list[BlockDevice]:
    """Every whole device that could be a drive, in the order in which they are to be preferred."""
    mounts, swaps = _mounts(root), _swaps(root)
    folders = sorted(_listed(root / "sys/block"), key=lambda folder: _natural(folder.name))
    devices = [_describe(root, folder, mounts, swaps, content) for folder in folders if _may_be_a_drive(folder)]
    order = list(Kind)
    return sorted(devices, key=lambda device: order.index(device.kind))


def device_use(root: Path, name: str) -> str | None:
    """What the kernel uses this device or partition (``nvme0n1``, ``sda1``) for, in words; None: nothing."""
    folder = root / "sys/class/block" / name
    if not folder.is_dir():
        folder = root / "sys/block" / name
    return _use_of(folder, _mounts(root), _swaps(root))


def _may_be_a_drive(folder: Path) -> bool:
    if re.fullmatch(rf"({'|'.join(_NO_DRIVES)})\d+", folder.name) or _text(folder / "hidden") == "1":
        return False
    # A device of the mapper is a drive of its own only while nothing lies on it; its makers decide that, not we.
    return not folder.name.startswith("dm-") and _number(folder / "size") > 0 and _text(folder / "removable") != "1"


def _describe(root: Path, folder: Path, mounts: dict[str, str], swaps: set[str], content: Content) -> BlockDevice:
    path = root / "dev" / folder.name
    partitions = tuple(part.name for part in _partitions(folder))
    used = _use_of(folder, mounts, swaps)
    if used is not None:
        use, reason = Use.IN_USE, used
    elif _text(folder / "ro") == "1":
        use, reason = Use.UNREADABLE, "it is read-only"
    else:
        use, reason = content(path)
        if use is not Use.OURS and partitions:
            use, reason = Use.FOREIGN, f"it has partitions ({', '.join(partitions)})"
    model = " ".join((_text(folder / "device/model") or _text(folder / "device/name")).split())
    return BlockDevice(path, _kind(folder), _number(folder / "size") * SECTOR_BYTES, model, use, reason, partitions)


def _kind(folder: Path) -> Kind:
    if folder.name.startswith("nvme"):
        return Kind.NVME
    return Kind.DISK if _text(folder / "queue/rotational") == "1" else Kind.SSD


def _use_of(folder: Path, mounts: dict[str, str], swaps: set[str]) -> str | None:
    """The first use of the device or of one of its partitions."""
    for part in (folder, *_partitions(folder)):
        what = "" if part == folder else f"{part.name}: "
        if (target := mounts.get(_text(part / "dev"))) is not None:
            return f"{what}mounted at {target}"
        if part.name in swaps:
            return f"{what}swap"
        holders = sorted(holder.name for holder in _listed(part / "holders"))
        if holders:
            return f"{what}part of {', '.join(holders)}"
    return None


def _partitions(folder: Path) -> Iterator[Path]:
    return iter(sorted((part for part in _listed(folder) if (part / "partition").exists()), key=lambda part: part.name))


def _mounts(root: Path) -> dict[str, str]:
    """``major:minor`` to where it is mounted first."""
    found: dict[str, str] = {}
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4:
            found.setdefault(fields[2], _unescaped(fields[4]))
            # btrfs and others show a device number of their own; what they are mounted from is named behind the dash.
            source = fields[fields.index("-") + 2] if "-" in fields else ""
            if source.startswith("/dev/"):
                number = _text(root / "sys/class/block" / Path(source).name / "dev")
                found.setdefault(number, _unescaped(fields[4]))
    found.pop("", None)
    return found


def _swaps(root: Path) -> set[str]:
    lines = _text(root / "proc/swaps").splitlines()[1:]
    return {Path(line.split()[0]).name for line in lines if line.startswith("/dev/")}


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _natural(name: str) -> list[tuple[int, str]]:
    """So that nvme2n1 comes before nvme10n1."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []  # it has just gone


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""  # not every device says everything of itself


def _number(file: Path) -> int:
    text = _text(file)
    return int(text) if text.isdecimal() else 0
