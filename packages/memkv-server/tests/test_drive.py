# SPDX-License-Identifier: Apache-2.0
"""Folders: which are taken, which are refused, with what words, and that nothing in a refused one is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memkv_core.errors import StorageError
from memkv_server.engine import drive as drive_module
from memkv_server.engine import store, superblock
from memkv_server.engine.drive import (
    FORMAT_FILE,
    LOCK_FILE,
    REGISTRY_FILE,
    SEGMENTS_FILE,
    FileDrive,
    MemoryDrive,
)

CAPACITY = 1 << 20
SEGMENT = 64 << 10


def open_drive(path: Path, capacity: int = CAPACITY, segment: int | None = SEGMENT) -> FileDrive:
    return FileDrive.open(path, capacity, segment)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def test_a_new_folder_is_preallocated_within_the_capacity(tmp_path: Path) -> None:
    drive = open_drive(tmp_path / "a" / "b")
    sizes = {file.name: file.stat() for file in (tmp_path / "a" / "b").iterdir()}
    assert set(sizes) == {FORMAT_FILE, REGISTRY_FILE, SEGMENTS_FILE, LOCK_FILE}
    assert sizes[SEGMENTS_FILE].st_size == 14 * SEGMENT
    assert sizes[SEGMENTS_FILE].st_blocks * 512 >= 14 * SEGMENT
    assert sum(sizes[name].st_size for name in (FORMAT_FILE, REGISTRY_FILE, SEGMENTS_FILE)) <= CAPACITY
    assert sizes[LOCK_FILE].st_size < 20
    drive.close()
    drive.close()


def test_a_window_is_the_segments_own_space(tmp_path: Path) -> None:
    drive = open_drive(tmp_path)
    for slot in (0, 13):
        memory, view, origin = drive.window(slot)
        memory[origin : origin + 4] = b"%04d" % slot
        assert view[origin : origin + 4] == b"%04d" % slot
    drive.prepare(3, 100, 200_000)
    extents = [(64, 128), (100_000, 500_000), (13 * SEGMENT, SEGMENT)]
    assert drive.fetch(extents) == drive.missing(extents) == []
    drive.sync()
    drive.close()
    stored = (tmp_path / SEGMENTS_FILE).read_bytes()
    assert (stored[:4], stored[13 * SEGMENT : 13 * SEGMENT + 4]) == (b"0000", b"0013")


def test_a_foreign_folder_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "sub").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match=r"holds 'sub', and no MemKV store; name an empty folder"):
        open_drive(tmp_path)
    assert snapshot(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["sub", "thesis.tex"]


@pytest.mark.parametrize("content", [b"", b"someone else's format", os.urandom(4096)])
def test_a_folder_with_a_strange_superblock_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FORMAT_FILE).write_bytes(content)
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match=f"{FORMAT_FILE} is not the superblock"):
        open_drive(tmp_path)
    assert snapshot(tmp_path) == before


def test_what_mkfs_and_an_interrupted_start_leave_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / LOCK_FILE).write_text("1\n")
    (tmp_path / (FORMAT_FILE + ".new")).write_bytes(b"half")
    drive = open_drive(tmp_path)
    assert (tmp_path / SEGMENTS_FILE).stat().st_size == drive.geometry.data_bytes
    drive.close()
    assert (tmp_path / "lost+found").is_dir()


def test_a_start_that_was_interrupted_after_the_superblock_goes_on(tmp_path: Path) -> None:
    open_drive(tmp_path).close()
    (tmp_path / SEGMENTS_FILE).unlink()
    (tmp_path / REGISTRY_FILE).unlink()
    drive = open_drive(tmp_path)
    assert (tmp_path / SEGMENTS_FILE).stat().st_size == drive.geometry.data_bytes
    drive.close()


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superblock, "FORMAT_VERSION", 9)
    open_drive(tmp_path).close()
    monkeypatch.undo()
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match=r"memkv.format has format version 9, and this release knows .* up to 2"):
        open_drive(tmp_path)
    assert snapshot(tmp_path) == before


def test_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file is not a folder"):
        open_drive(tmp_path / "file")
    with pytest.raises(StorageError, match="Not a directory"):
        open_drive(tmp_path / "file" / "below")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    # /proc refuses root as well, whom permissions do not stop.
    with pytest.raises(StorageError, match=r"^/proc/memkv-store: .*; check the owner, the permissions and the mount"):
        open_drive_ignoring_space("/proc/memkv-store")
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(StorageError, match="Permission denied"):
            open_drive(tmp_path / "store")


def open_drive_ignoring_space(path: str) -> FileDrive:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "refuse_full", lambda *_: None)
        return FileDrive.open(path, CAPACITY, SEGMENT)


def test_a_full_filesystem_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"store: \d+ bytes are needed and \d+ are free; free some space there"):
        open_drive(tmp_path / "store", 1 << 45, None)
    assert not (tmp_path / "store").exists()


def test_a_filesystem_that_turns_out_full_leaves_no_half_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.posix_fallocate

    def full(fd: int, offset: int, size: int) -> None:
        if size > SEGMENT:
            raise OSError(28, "No space left on device")
        real(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"memkv.segments: No space left on device; free some space"):
        open_drive(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / FORMAT_FILE).exists()
    (tmp_path / REGISTRY_FILE).unlink(missing_ok=True)
    open_drive(tmp_path).close()


def test_a_second_node_is_told_of_the_first(tmp_path: Path) -> None:
    drive = open_drive(tmp_path)
    with pytest.raises(StorageError, match=f"in use by another node .process {os.getpid()}.; stop that node"):
        open_drive(tmp_path)
    drive.close()
    open_drive(tmp_path).close()


def test_a_node_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from memkv_server.engine.drive import FileDrive;"
        f"d = FileDrive.open(sys.argv[1], {CAPACITY}, {SEGMENT}); print('open', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(StorageError, match=f"process {child.pid}"):
            open_drive(tmp_path)
        child.kill()
    open_drive(tmp_path).close()


def test_another_segment_size_is_refused_and_the_stored_one_taken(tmp_path: Path) -> None:
    open_drive(tmp_path).close()
    with pytest.raises(StorageError, match=f"was made with segments of {SEGMENT} bytes, not {2 * SEGMENT}"):
        open_drive(tmp_path, segment=2 * SEGMENT)
    drive = open_drive(tmp_path, segment=None)
    assert drive.geometry.segment_bytes == SEGMENT
    drive.close()


def test_a_store_grows_and_shrinks_with_its_capacity(tmp_path: Path) -> None:
    open_drive(tmp_path).close()
    uuid = open_drive_uuid(tmp_path, CAPACITY)
    for capacity in (4 * CAPACITY, CAPACITY, CAPACITY // 2):
        assert open_drive_uuid(tmp_path, capacity) == uuid
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= capacity + 20


def open_drive_uuid(path: Path, capacity: int) -> bytes:
    drive = open_drive(path, capacity)
    uuid = drive.geometry.uuid
    drive.close()
    return uuid


def test_a_capacity_too_small(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"store: 100000 bytes are too few"):
        open_drive(tmp_path / "store", 100_000)
    assert not (tmp_path / "store").exists()


def test_what_was_written_is_synced_within_its_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = open_drive(tmp_path)
    calls: list[float] = []
    real = os.fdatasync

    def counting(fd: int) -> None:
        calls.append(time.monotonic())
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counting)
    time.sleep(0.05)
    assert calls == [], "an idle drive is left in peace"
    for _ in range(50):
        drive.written()
    deadline = time.monotonic() + 30
    while not calls:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for _ in range(50):
        drive.written()
    drive.close()
    assert 2 <= len(calls) <= 4, "many writes, few syncs, and the last one before the end"


def test_memory_beyond_what_there_is() -> None:
    with pytest.raises(StorageError, match=r"^memory: \d+ bytes are needed and \d+ are available; lower the capacity"):
        MemoryDrive.open(1 << 45)


def test_memory_that_cannot_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive_module, "_available_memory_bytes", lambda: None)
    with pytest.raises(StorageError, match="cannot be mapped"):
        MemoryDrive.open(1 << 46)


def test_memory_is_given_back_and_a_view_in_use_keeps_it() -> None:
    drive = MemoryDrive.open(CAPACITY, SEGMENT)
    view = drive.window(0).view[:100]
    drive.close()
    drive.close()
    assert bytes(view) == bytes(100)
