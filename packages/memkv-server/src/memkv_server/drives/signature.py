# SPDX-License-Identifier: Apache-2.0
"""What a block device holds, by the first and last bytes of it: ours, somebody's, or nothing. Pure but for the read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from memkv_server.drives.discovery import Use
from memkv_server.engine.limits import DEVICE_HEAD_BYTES, DEVICE_TAIL_BYTES
from memkv_server.engine.superblock import SUPERBLOCK_MAGIC

# What is said of a device, where, and the bytes that stand there. The first that fits; see libblkid for more.
_SIGNATURES: Final = (
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an xfs filesystem", 0, b"XFSB"),
    ("an LVM volume", 536, b"LVM2 001"),
    ("a partition table (GPT)", 512, b"EFI PART"),
    ("a RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    ("an ext filesystem", 1080, b"\x53\xef"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a btrfs filesystem", 65600, b"_BHRfS_M"),
    ("an f2fs filesystem", 1024, b"\x10\x20\xf5\xf2"),
    ("an NTFS filesystem", 3, b"NTFS    "),
    ("a partition table (MBR)", 510, b"\x55\xaa"),
)


def describe(head: bytes, tail: bytes) -> tuple[Use, str]:
    """Ours, foreign or free, and that in words."""
    if head.startswith(SUPERBLOCK_MAGIC):
        return Use.OURS, "a MemKV store"
    for words, at, magic in _SIGNATURES:
        if head[at : at + len(magic)] == magic:
            return Use.FOREIGN, words
    if head.count(0) != len(head) or tail.count(0) != len(tail):
        return Use.FOREIGN, "something that is not known"
    return Use.FREE, "blank"


def content_of(path: Path) -> tuple[Use, str]:
    """The same for a device that is there; UNREADABLE with the reason where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            head = os.pread(fd, min(DEVICE_HEAD_BYTES, size), 0)
            return describe(head, os.pread(fd, min(DEVICE_TAIL_BYTES, size), max(0, size - DEVICE_TAIL_BYTES)))
        finally:
            os.close(fd)
    except OSError as error:
        return Use.UNREADABLE, str(error.strerror)
