# SPDX-License-Identifier: Apache-2.0
"""The lane's end of shared memory: real descriptors, good ones and those that a client should not have sent."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memkv_core.places import PART, Access, Places, RegionKind, RegionRequest
from memkv_core.regions import address_of
from memkv_core.shared_memory import SIZE_IS_FIXED
from memkv_server.movers import Pieces, PlaceError, Regions, pair
from memkv_server.shm import ShmMover

BOTH = Access.READ | Access.WRITE


SEALS = {"by system calls": 0, "mapped": SIZE_IS_FIXED}


@pytest.fixture
def mover() -> Iterator[ShmMover]:
    mover = ShmMover(turn_bytes=64 << 10, regions_max=4)
    yield mover
    mover.close(lambda: None)
    _HELD.clear()


@pytest.fixture(params=SEALS)
def seals(request: pytest.FixtureRequest) -> int:
    """Of memory that the lane maps, and of memory that it does not."""
    return SEALS[request.param]


def memory(content: bytes, *, seals: int = 0) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def request(size_bytes: int, access: int = BOTH, *, region: int = 1, address: int = 0) -> RegionRequest:
    return RegionRequest(region, access, RegionKind.SHM, size_bytes, address)


_HELD: list[bytearray] = []  # the lane's memory stays until its move has settled


def pieces_of(key: int, places: list[tuple[bytearray, int]]) -> Pieces:
    """(memory of the lane, offset in the client's file) each."""
    _HELD.extend(local for local, _ in places)
    return Pieces(
        np.array([address_of(memoryview(local)) for local, _ in places], np.uint64),
        np.array([offset for _, offset in places], np.uint64),
        np.full(len(places), key, np.uint32),
        np.array([len(local) for local, _ in places], np.int64),
    )


def finish(mover: ShmMover) -> int:
    """Turns until nothing is left; how many."""
    turns = 0
    while mover.turn():
        turns += 1
    return turns


def is_open(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(descriptor)
        return True
    return False


# -- moving -----------------------------------------------------------------------------------------------------------
def test_the_nonce_is_read_where_the_region_begins(mover: ShmMover) -> None:
    nonce = bytes(range(32))
    address, key, answer = mover.register(request(64, address=100), memory(bytes(100) + nonce + bytes(32)))
    assert (address, answer) == (100, nonce)
    assert is_open(key)


def test_pieces_of_any_size_and_order(mover: ShmMover, seals: int) -> None:
    rng = random.Random(7)
    content = rng.randbytes(3 << 20)
    descriptor = memory(content, seals=seals)
    _, key, _ = mover.register(request(len(content)), descriptor)
    assert (key in mover._mapped) == bool(seals)
    places: list[tuple[bytearray, int]] = []
    for _ in range(3000):  # more than one system call takes, neighbours among them
        at = places[-1][1] + len(places[-1][0]) if places and rng.random() < 0.6 else rng.randrange(len(content))
        size = min(rng.choice((1, 63, 4096, 5000, 70_000)), len(content) - at)
        if size:
            places.append((bytearray(size), at))
    said: list[int] = []

    def landed(count: int) -> None:
        assert count >= (said[-1] if said else 0)
        at = random.Random(count).randrange(count) if count else 0
        assert all(local == content[at : at + len(local)] for local, at in places[at:count]), "it is not there yet"
        said.append(count)

    move = mover.read(pieces_of(key, places), landed)
    assert not move.settled
    total = sum(len(local) for local, _ in places)
    assert finish(mover) >= total // (64 << 10) - 1, "each turn moves a bounded share"
    assert (move.settled, move.failure) == (True, None)
    assert said[-1] == len(places)
    assert all(local == content[at : at + len(local)] for local, at in places)


def test_written_pieces_land_where_they_are_wanted_and_nowhere_else(mover: ShmMover, seals: int) -> None:
    descriptor = memory(b"\x55" * 200_000, seals=seals)
    _, key, _ = mover.register(request(200_000), os.dup(descriptor))
    first, second = bytearray(b"a" * 70_000), bytearray(b"b" * 100)
    move = mover.write(pieces_of(key, [(first, 10), (second, 150_000)]), 1)
    finish(mover)
    assert move.failure is None
    wanted = bytearray(b"\x55" * 200_000)
    wanted[10:70_010], wanted[150_000:150_100] = first, second
    assert os.pread(descriptor, 300_000, 0) == wanted
    os.close(descriptor)


def test_several_moves_go_one_after_the_other(mover: ShmMover, seals: int) -> None:
    _, key, _ = mover.register(request(1 << 20), memory(b"x" * (1 << 20), seals=seals))
    targets = [bytearray(300_000) for _ in range(3)]
    moves = [mover.read(pieces_of(key, [(target, 0)])) for target in targets]
    assert not moves[2].settled
    finish(mover)
    assert [move.failure for move in moves] == [None] * 3
    assert all(target == b"x" * 300_000 for target in targets)


def test_pieces_in_several_regions_by_whatever_means(mover: ShmMover) -> None:
    """As of a put whose blocks are registered in part: an engine's memory, and the staging that is mapped."""
    rng = random.Random(3)
    contents = [rng.randbytes(500_000) for _ in range(3)]
    keys = [
        mover.register(request(500_000, region=at), memory(content, seals=SIZE_IS_FIXED * (at != 1)))[1]
        for at, content in enumerate(contents)
    ]
    assert [key in mover._mapped for key in keys] == [True, False, True]
    chosen = [rng.randrange(3) for _ in range(200)]
    places = [(bytearray(rng.choice((1, 5000, 70_000))), rng.randrange(400_000)) for _ in chosen]
    pieces = pieces_of(0, places)._replace(keys=np.array([keys[region] for region in chosen], np.uint32))
    said: list[int] = []
    move = mover.read(pieces, said.append)
    finish(mover)
    assert (move.failure, said[-1], said) == (None, 200, sorted(said))
    assert all(local == contents[region][at : at + len(local)] for region, (local, at) in zip(chosen, places))


# -- what a client should not do --------------------------------------------------------------------------------------
def test_a_file_that_shrinks_is_a_failure_and_no_signal(mover: ShmMover) -> None:
    """A mapping of it would end the process here (SIGBUS)."""
    descriptor = memory(b"x" * (1 << 20))
    _, key, _ = mover.register(request(1 << 20), os.dup(descriptor))
    move = mover.read(pieces_of(key, [(bytearray(500_000), 500_000)]))
    os.ftruncate(descriptor, 4096)
    finish(mover)
    assert move.failure == "the region is shorter than it was"
    later = mover.read(pieces_of(key, [(bytearray(100), 0), (bytearray(100), 8192)]))
    finish(mover)
    assert later.failure == "the region is shorter than it was"
    os.close(descriptor)


def test_memory_that_was_sealed_against_writing(mover: ShmMover) -> None:
    descriptor = memory(b"x" * 8192)
    _, key, _ = mover.register(request(8192), os.dup(descriptor))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    move = mover.write(pieces_of(key, [(bytearray(100), 0)]), 1)
    finish(mover)
    assert move.failure == "Operation not permitted"
    assert os.pread(descriptor, 8192, 0) == b"x" * 8192
    os.close(descriptor)


def test_a_page_of_the_lane_that_is_not_there_is_a_failure_and_no_signal(mover: ShmMover, seals: int) -> None:
    """What a drive that fails leaves in the mapping of its segments."""
    with tempfile.TemporaryFile() as file:
        file.truncate(8192)
        segment = mmap.mmap(file.fileno(), 8192)
        file.truncate(0)
        _, key, _ = mover.register(request(8192), memory(bytes(8192), seals=seals))
        view = memoryview(segment)
        pieces = Pieces(
            np.array([address_of(view)], np.uint64),
            np.zeros(1, np.uint64),
            np.array([key], np.uint32),
            np.array([4096]),
        )
        view.release()
        for move in (mover.write(pieces, 1), mover.read(pieces)):
            finish(mover)
            assert move.failure == "Bad address"
        segment.close()


def a_plain_file() -> int:
    with tempfile.TemporaryFile(dir=Path.cwd()) as file:
        file.truncate(8192)
        return os.dup(file.fileno())


def a_pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def reopened(flags: int) -> int:
    descriptor = memory(bytes(8192))
    again = os.open(f"/proc/self/fd/{descriptor}", flags)
    os.close(descriptor)
    return again


@pytest.mark.parametrize(
    ("make", "asked", "why"),
    [
        (a_plain_file, request(4096), "no shared memory"),
        (a_pipe, request(4096), "no shared memory"),
        (lambda: os.open("/dev/zero", os.O_RDWR), request(4096), "no shared memory"),
        (lambda: memory(bytes(4095)), request(4096), "the region ends at 4096, its memory at 4095"),
        (lambda: memory(bytes(4096)), request(4096, address=1), "the region ends at 4097"),
        (lambda: memory(bytes(4096)), request(16), "no room for its nonce"),
        (lambda: reopened(os.O_RDONLY), request(4096), "not opened for this access"),
        (lambda: reopened(os.O_WRONLY), request(4096, Access.READ), "not opened for this access"),
        (lambda: reopened(os.O_RDWR | os.O_APPEND), request(4096), "not opened for this access"),
        (lambda: memory(bytes(4096)), request(4096)._replace(kind=RegionKind.RDMA), "by descriptor"),
    ],
)
def test_descriptors_that_are_refused(mover: ShmMover, tmp_path: Path, make, asked, why, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    descriptor = make()
    with pytest.raises(PlaceError, match=why):
        mover.register(asked, descriptor)
    assert not is_open(descriptor)


def test_a_region_comes_with_a_descriptor(mover: ShmMover) -> None:
    with pytest.raises(PlaceError, match="comes with a descriptor"):
        mover.register(request(4096), None)


def test_regions_are_bounded(mover: ShmMover) -> None:
    for region in range(4):
        mover.register(request(4096, region=region), memory(bytes(4096)))
    descriptor = memory(bytes(4096))
    with pytest.raises(PlaceError, match="more than 4 regions"):
        mover.register(request(4096, region=9), descriptor)
    assert not is_open(descriptor)
    mover.deregister(0)
    mover.register(request(4096, region=9), memory(bytes(4096)))


def test_reading_needs_no_right_to_write(mover: ShmMover) -> None:
    _, key, answer = mover.register(request(4096, Access.READ), reopened(os.O_RDONLY))
    target = bytearray(b"y" * 100)
    assert mover.read(pieces_of(key, [(target, 0)])).failure is None
    assert (bytes(target), answer) == (bytes(100), bytes(32))


# -- its end ----------------------------------------------------------------------------------------------------------
def test_a_descriptor_is_kept_as_long_as_a_move_needs_it(mover: ShmMover, seals: int) -> None:
    content = random.Random(1).randbytes(1 << 20)
    _, key, _ = mover.register(request(len(content)), memory(content, seals=seals))
    target = bytearray(len(content))
    move = mover.read(pieces_of(key, [(target, 0)]))
    mover.deregister(1)
    assert is_open(key)
    finish(mover)
    assert (move.failure, bytes(target)) == (None, content)
    assert not is_open(key)


def test_close_ends_everything_at_once(seals: int) -> None:
    mover = ShmMover(turn_bytes=4096, regions_max=4)
    _, key, _ = mover.register(request(1 << 20), memory(bytes(1 << 20), seals=seals))
    move = mover.read(pieces_of(key, [(bytearray(1 << 20), 0)]))
    done: list[bool] = []
    mover.close(lambda: done.append(move.settled))
    assert done == [True]
    assert move.failure == "the connection ended"
    assert not is_open(key)
    assert not mover.turn()


def test_places_outside_of_the_region_never_reach_the_mover() -> None:
    regions = Regions()
    regions.add(request(4096), 0, 3)
    for offset, size in ((4096, 1), (4000, 97), (2**64 - 1, 2), (0, 4097)):
        with pytest.raises(PlaceError):
            regions.resolve(np.array([(1, offset, size)], PART), Access.WRITE)
    with pytest.raises(PlaceError):
        regions.resolve(np.array([(2, 0, 1)], PART), Access.WRITE)
    parts = np.array([(1, 4000, 96)], PART)
    remote, keys = regions.resolve(parts, Access.WRITE)
    pieces = pair(Places(np.array([1], np.uint16), parts), remote, keys, [memoryview(bytearray(10))])
    assert (pieces.remote.tolist(), pieces.sizes.tolist()) == ([4000], [10])
