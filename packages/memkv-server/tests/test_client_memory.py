# SPDX-License-Identifier: Apache-2.0
"""What a client can do to memory that a lane has mapped: nothing that takes a page of it away."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_core.places import Access, RegionKind, RegionRequest
from memkv_core.regions import address_of
from memkv_core.shared_memory import SEAL_FUTURE_WRITE, SIZE_IS_FIXED, SharedMemory
from memkv_server import client_memory
from memkv_server.client_memory import ClientMemory, populate
from memkv_server.movers import PlaceError
from memkv_server.shm import ShmMover

SIZE = 4 << 20
PAGE = mmap.PAGESIZE
PUNCH = 0x3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
MADV_REMOVE = 9
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    shared = SharedMemory(SIZE)
    yield shared
    os.close(shared.take_descriptor())


def punch(descriptor: int, at: int = 0, size: int = SIZE) -> int:
    """0, or why no hole was made."""
    return ctypes.get_errno() if _libc.fallocate(descriptor, PUNCH, at, size) else 0


def test_what_was_mapped_can_lose_no_page(shared: SharedMemory) -> None:
    shared.memory[:4] = b"here"
    memory = ClientMemory.of(shared.descriptor, SIZE)
    assert memory is not None
    assert ctypes.string_at(memory.address, 4) == b"here"
    assert punch(shared.descriptor) == errno.EPERM
    with pytest.raises(OSError, match="Operation not permitted"):
        shared.memory.madvise(MADV_REMOVE)
    with pytest.raises(OSError, match="Operation not permitted"):
        os.ftruncate(shared.descriptor, 0)
    with pytest.raises(OSError, match="Operation not permitted"):
        os.pwrite(shared.descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(shared.descriptor, SIZE)
    assert os.fstat(shared.descriptor).st_blocks * 512 >= SIZE
    ctypes.memset(memory.address, 0x66, SIZE)  # the mappings that there are stay as they are
    shared.memory[:1] = b"m"
    assert (ctypes.string_at(memory.address, 2), shared.memory[:2]) == (b"mf", b"mf")
    memory.close()
    memory.close()


def test_a_client_that_tries_everything_under_the_mapping_of_another_process(shared: SharedMemory) -> None:
    """For real: one process copies from and to its mapping while the other does its worst."""
    code = f"""
import ctypes, sys
from memkv_server.client_memory import ClientMemory
memory = ClientMemory.of({shared.descriptor}, {SIZE})
print(memory is not None, flush=True)
side = ctypes.create_string_buffer({SIZE})
while True:
    ctypes.memmove(memory.address, side, {SIZE})
    ctypes.memmove(side, memory.address, {SIZE})
"""
    lane = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[shared.descriptor])
    assert lane.stdout is not None
    with lane.stdout:
        assert lane.stdout.readline() == b"True\n"
        begun_s = time.monotonic()
        tries = 0
        while time.monotonic() - begun_s < 0.5:
            at = tries * PAGE % SIZE
            assert punch(shared.descriptor, at, PAGE) == errno.EPERM
            with pytest.raises(OSError, match="not permitted"):
                os.ftruncate(shared.descriptor, at)
            with pytest.raises(OSError, match="not permitted"):
                shared.memory.madvise(MADV_REMOVE)
            tries += 1
        assert tries > 10
        assert lane.poll() is None, "it lives"
        lane.kill()
        assert lane.wait() == -signal.SIGKILL


def unsealed(seals: int, *, filled: bool = True) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    if filled:
        os.pwrite(descriptor, b"\x11" * SIZE, 0)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@pytest.mark.parametrize(
    ("seals", "filled"),
    [
        (0, True),
        (fcntl.F_SEAL_SHRINK, True),
        (fcntl.F_SEAL_GROW, True),
        (SIZE_IS_FIXED | fcntl.F_SEAL_SEAL, True),
        (SIZE_IS_FIXED | fcntl.F_SEAL_WRITE, True),
        (SIZE_IS_FIXED, False),
    ],
    ids=["none", "shrink", "grow", "no more seals", "no writes", "holes"],
)
def test_what_could_lose_a_page_is_not_mapped(seals: int, filled: bool) -> None:
    descriptor = unsealed(seals, filled=filled)
    before = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    assert ClientMemory.of(descriptor, SIZE) is None
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == before, "and stays as it was"
    os.close(descriptor)


def test_only_all_of_a_file_is_mapped_and_no_more_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = unsealed(SIZE_IS_FIXED)
    assert ClientMemory.of(descriptor, SIZE - PAGE) is None
    assert ClientMemory.of(descriptor, 0) is None
    monkeypatch.setattr(client_memory, "SHM_MAPPED_BYTES_MAX", SIZE - 1)
    assert ClientMemory.of(descriptor, SIZE) is None
    os.close(descriptor)


def test_a_file_that_cannot_be_sealed() -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(SIZE))
        file.flush()
        assert ClientMemory.of(file.fileno(), SIZE) is None


def test_a_hole_between_the_two_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = unsealed(SIZE_IS_FIXED)
    seal = client_memory._seal

    def late(sealed: int) -> bool:
        assert punch(sealed, PAGE, PAGE) == 0
        return seal(sealed)

    monkeypatch.setattr(client_memory, "_seal", late)
    mover = ShmMover(turn_bytes=1 << 20, regions_max=4)
    request = RegionRequest(1, Access.READ | Access.WRITE, RegionKind.SHM, SIZE)
    with pytest.raises(PlaceError, match="pages of it were taken away"):
        mover.register(request, descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_older_kernel_that_knows_no_such_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = unsealed(SIZE_IS_FIXED)
    monkeypatch.setattr(client_memory, "SEAL_FUTURE_WRITE", 1 << 30)
    assert ClientMemory.of(descriptor, SIZE) is None
    os.close(descriptor)


def test_a_region_that_is_only_read_from_is_neither_mapped_nor_sealed() -> None:
    """It may be an engine's own."""
    descriptor = unsealed(SIZE_IS_FIXED)
    mover = ShmMover(turn_bytes=1 << 20, regions_max=4)
    mover.register(RegionRequest(1, Access.READ, RegionKind.SHM, SIZE), os.dup(descriptor))
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == SIZE_IS_FIXED
    assert punch(descriptor) == 0
    mover.close(lambda: None)
    os.close(descriptor)


def test_pages_that_a_drive_does_not_give_back(tmp_path: Path) -> None:
    with (tmp_path / "segments").open("w+b") as file:
        file.truncate(2 * PAGE)
        segment = mmap.mmap(file.fileno(), 2 * PAGE)
        view = memoryview(segment)
        address = address_of(view)
        view.release()
        assert populate(address + 100, PAGE, writable=True)
        assert populate(address, 2 * PAGE, writable=False)
        file.truncate(PAGE)
        assert populate(address, PAGE, writable=False)
        assert not populate(address + 100, PAGE, writable=False)
        assert not populate(address + PAGE, 1, writable=True)
        segment.close()


def test_what_the_lane_seals_is_what_the_client_left_open() -> None:
    shared = SharedMemory(SIZE)
    memory = ClientMemory.of(shared.descriptor, SIZE)
    assert memory is not None
    seals = fcntl.fcntl(shared.descriptor, fcntl.F_GET_SEALS)
    assert seals == SIZE_IS_FIXED | SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
    memory.close()
    os.close(shared.take_descriptor())
