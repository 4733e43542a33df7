# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_core.backing import Backing, NotSharedError, find_backing
from memkv_core.regions import address_of

PAGE = mmap.PAGESIZE


def backing_of(memory: mmap.mmap, start: int = 0, size: int | None = None) -> Backing:
    view = memoryview(memory)
    address = address_of(view)
    view.release()
    return find_backing(address + start, len(memory) - start if size is None else size)


def closed(backing: Backing) -> tuple[os.stat_result, int]:
    found = os.fstat(backing.descriptor)
    os.close(backing.descriptor)
    return found, backing.offset


@pytest.fixture
def memfd() -> Iterator[int]:
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, 8 * PAGE)
    yield descriptor
    os.close(descriptor)


def test_a_memfd(memfd: int) -> None:
    memory = mmap.mmap(memfd, 8 * PAGE)
    found, offset = closed(backing_of(memory, 100, PAGE))
    assert (found.st_ino, offset) == (os.fstat(memfd).st_ino, 100)
    memory.close()


def test_a_mapping_that_begins_within_its_file(memfd: int) -> None:
    memory = mmap.mmap(memfd, 4 * PAGE, offset=2 * PAGE)
    memory[10:13] = b"abc"
    backing = backing_of(memory, 10, 3)
    assert os.pread(backing.descriptor, 3, backing.offset) == b"abc"
    assert closed(backing)[1] == 2 * PAGE + 10
    memory.close()


def test_a_mapping_in_pieces_is_one(memfd: int) -> None:
    """A part of it with other rights or advice is a line of its own in the list of mappings."""
    memory = mmap.mmap(memfd, 8 * PAGE)
    memory.madvise(mmap.MADV_DONTFORK, 2 * PAGE, PAGE)
    assert closed(backing_of(memory))[1] == 0
    memory.close()


def test_a_file_in_memory_is_opened_by_its_name() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(2 * PAGE)
        memory = mmap.mmap(file.fileno(), 2 * PAGE)
        inode = os.fstat(file.fileno()).st_ino
        file.file.close()
        assert closed(backing_of(memory))[0].st_ino == inode
        memory.close()
        Path(file.name).touch()  # for the end of the block to remove


def test_private_memory() -> None:
    memory = mmap.mmap(-1, 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with pytest.raises(NotSharedError, match="private memory; share it"):
        backing_of(memory)
    data = bytearray(100)
    with pytest.raises(NotSharedError, match="private memory"):
        find_backing(address_of(memoryview(data)), 100)


def test_a_private_mapping_of_a_file(memfd: int) -> None:
    """What is written to it is not in the file."""
    memory = mmap.mmap(memfd, 2 * PAGE, flags=mmap.MAP_PRIVATE)
    with pytest.raises(NotSharedError, match="private memory"):
        backing_of(memory)


def test_memory_that_is_not_there() -> None:
    with pytest.raises(NotSharedError, match="not all of it is mapped"):
        find_backing(PAGE, 100)


def test_nothing_is_left_open(memfd: int) -> None:
    memory = mmap.mmap(memfd, 8 * PAGE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        closed(backing_of(memory))
        with pytest.raises(NotSharedError):
            find_backing(PAGE, 100)
    assert len(os.listdir("/proc/self/fd")) == before
    memory.close()
