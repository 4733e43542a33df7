# SPDX-License-Identifier: Apache-2.0
"""A mapping of a file that loses its end: what can no longer be read or written is said, and nobody dies of it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_server.engine.mapping import Mapping

SIZE = 4 << 20
HALF = SIZE // 2


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(range(256)) * (SIZE // 256))
    yield fd
    os.close(fd)


@pytest.fixture
def mapping(fd: int) -> Iterator[Mapping]:
    mapping = Mapping(mmap.mmap(fd, SIZE))
    yield mapping
    mapping.close()


def test_what_is_in_memory_is_not_missing(mapping: Mapping, fd: int) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, SIZE, os.POSIX_FADV_DONTNEED)
    extents = [(0, 10), (5000, 70_000), (HALF - 1, 2), (SIZE - 64, 64)]
    assert mapping.fetch(extents) == []
    assert mapping.missing(extents) == []
    assert mapping.view[5000] == 5000 % 256


def test_what_the_file_no_longer_has_is_missing_and_cannot_be_fetched(mapping: Mapping, fd: int) -> None:
    os.ftruncate(fd, HALF)
    extents = [(0, 4096), (HALF - 4096, 4096), (HALF - 1, 2), (HALF, 1), (HALF + 100_000, 1_000_000)]
    assert mapping.missing(extents) == [2, 3, 4]
    assert mapping.fetch(extents) == [2, 3, 4]
    assert mapping.view[HALF - 1] == 255


def test_neither_can_it_be_written(mapping: Mapping, fd: int) -> None:
    os.ftruncate(fd, HALF)
    assert mapping.prepare(0, HALF)
    assert not mapping.prepare(HALF - 10, HALF + 10)
    assert not mapping.prepare(SIZE - 64, SIZE)


def test_a_view_in_use_keeps_the_memory(mapping: Mapping) -> None:
    view = mapping.view[:10]
    mapping.close()
    assert bytes(view) == bytes(range(10))


def test_asks_for_huge_pages(mapping: Mapping) -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no huge pages")
    first = f"{mapping._base:x}-"
    lines = iter(Path("/proc/self/smaps").read_text(encoding="ascii").splitlines())
    next(line for line in lines if line.startswith(first))
    flags = next(line for line in lines if line.startswith("VmFlags:"))
    assert "hg" in flags.split()
