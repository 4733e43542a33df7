# SPDX-License-Identifier: Apache-2.0
"""Which file is behind a piece of this process's memory, so that it can be shared by descriptor (transport shm).

Shared mappings only: of a memfd, of a file in /dev/shm, or shared and anonymous. Private memory is nobody else's to
read. Found by /proc/self/maps; the descriptor is one that this process has open already, or is opened by path.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final, NamedTuple

from memkv_core.errors import MemKVError

_LINE: Final = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$", re.MULTILINE
)
_DELETED: Final = " (deleted)"


class NotSharedError(MemKVError):
    """Memory that has no descriptor to share it by."""


class Backing(NamedTuple):
    """A descriptor of this caller's own, and where in its file the memory begins."""

    descriptor: int
    offset: int


class _Mapping(NamedTuple):
    start: int
    end: int
    offset: int
    device: int
    inode: int
    path: str


def find_backing(address: int, size_bytes: int) -> Backing:
    """The file behind this memory, opened for reading at least; the caller closes the descriptor.

    Raises NotSharedError where it is private, or in more than one file.
    """
    mapping = _mapping_of(address, size_bytes)
    offset = mapping.offset + address - mapping.start
    descriptor = _open_already(mapping)
    if descriptor is None:
        descriptor = _open_anew(mapping)
    if descriptor is None:
        raise NotSharedError("no descriptor of its memory is open", remedy="keep the file open that it is mapped from")
    return Backing(descriptor, offset)


def _mapping_of(address: int, size_bytes: int) -> _Mapping:
    """The mapping that holds all of this memory; neighbours that continue each other in one file are one."""
    found: _Mapping | None = None
    end = address + size_bytes
    for match in _LINE.finditer(Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")):
        first, last = int(match[1], 16), int(match[2], 16)
        if last <= address or first >= end:
            continue
        if not match[3].startswith("r") or not match[3].endswith("s") or match[7] == "0":
            raise NotSharedError("it is private memory", remedy='share it: a memfd, /dev/shm, or "allocator": "shm"')
        device = os.makedev(int(match[5], 16), int(match[6], 16))
        part = _Mapping(first, last, int(match[4], 16), device, int(match[7]), match[8])
        if found is None:
            found = part
        elif (part.start, part.device, part.inode) != (found.end, found.device, found.inode) or (
            part.offset != found.offset + found.end - found.start
        ):
            raise NotSharedError("it is mapped from more than one file")
        else:
            found = found._replace(end=part.end)
    if found is None or found.start > address or found.end < end:
        raise NotSharedError("not all of it is mapped")
    return found


def _open_already(mapping: _Mapping) -> int | None:
    """A copy of a descriptor of the file that this process has open."""
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptor = os.dup(int(name))
        except OSError:
            continue  # the one that lists the folder
        if _is_of(descriptor, mapping):
            return descriptor
        os.close(descriptor)
    return None


def _open_anew(mapping: _Mapping) -> int | None:
    """By its path, or where this process may, by the mapping itself (a shared anonymous one has no other name)."""
    paths = [f"/proc/self/map_files/{mapping.start:x}-{mapping.end:x}"]
    if not mapping.path.endswith(_DELETED):
        paths.insert(0, mapping.path)
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        if _is_of(descriptor, mapping):
            return descriptor
        os.close(descriptor)
    return None


def _is_of(descriptor: int, mapping: _Mapping) -> bool:
    """Whether it is the file of the mapping, and can be read."""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) != (mapping.device, mapping.inode):
            return False
        os.pread(descriptor, 1, 0)
    except OSError:
        return False
    return True
