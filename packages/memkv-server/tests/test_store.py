# SPDX-License-Identifier: Apache-2.0
"""Whole devices: which are taken and which are refused. Loop devices, where this machine lets one be made."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.errors import StorageError
from memkv_server.capacity import Share
from memkv_server.engine import store as store_module
from memkv_server.engine.store import (
    DIRECT_ALIGNMENT,
    Store,
    is_device,
    open_device,
    open_folder,
    share_bytes,
)
from memkv_server.engine.superblock import SUPERBLOCK_BYTES

MIB = 1 << 20
SIZE = 16 * MIB
SEGMENT = 256 << 10
MakeDevice = Callable[[int], str]


def attach(image: Path) -> str:
    command = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no loop device can be made here: {error}")
    return done.stdout.strip()


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[MakeDevice]:
    devices: list[str] = []

    def make(size: int) -> str:
        image = tmp_path / f"image{len(devices)}"
        with image.open("wb") as file:
            file.truncate(size)
        devices.append(attach(image))
        return devices[-1]

    yield make
    for device in devices:
        subprocess.run(["losetup", "--detach", device], check=False, timeout=30)


def whole(device: str) -> bytes:
    with open(device, "rb") as file:
        return file.read()


@contextlib.contextmanager
def closing(store: Store) -> Iterator[Store]:
    yield store
    store.close()


def test_a_blank_device_becomes_a_store_over_all_of_it(make_device: MakeDevice) -> None:
    device = make_device(SIZE)
    assert is_device(device)
    with closing(open_device(device, SIZE, SEGMENT)) as store:
        geometry = store.geometry
        assert SIZE - SEGMENT < geometry.store_bytes <= SIZE
        assert geometry.alignment == DIRECT_ALIGNMENT
        assert store.base == SUPERBLOCK_BYTES + geometry.registry_bytes
        store.registry_append(100, b"entry")
        assert store.registry_load()[98:108] == b"\0\0entry\0\0\0"
        assert store.probe()
    with closing(open_device(device, SIZE, None, geometry.uuid)) as again:
        assert again.geometry == geometry
        assert again.registry_load()[100:105] == b"entry"


def test_a_capacity_is_a_bound_within_the_device_and_may_change(make_device: MakeDevice) -> None:
    device = make_device(SIZE)
    with closing(open_device(device, SIZE // 2, SEGMENT)) as store:
        assert store.geometry.store_bytes <= SIZE // 2
        uuid = store.geometry.uuid
    with open(device, "r+b") as file:  # what an earlier owner left behind the store
        file.seek(SIZE // 2)
        file.write(os.urandom(SIZE // 4))
    with closing(open_device(device, SIZE, None)) as store:
        assert (store.geometry.uuid, store.geometry.store_bytes > SIZE - SEGMENT) == (uuid, True)
        for slot in range(store.geometry.segment_count):
            state = os.pread(store.registry_fd, 64, store.base + slot * SEGMENT)
            assert state == bytes(64), "no segment begins with what an earlier owner left"
    with pytest.raises(StorageError, match=f"has {SIZE} bytes, and {2 * SIZE} are asked for"):
        open_device(device, 2 * SIZE, None)


@pytest.mark.parametrize("offset", [0, 510, 1024, 65_536, MIB - 1, SIZE - 512, SIZE - 100_000])
def test_a_device_that_holds_anything_is_refused_and_left_alone(make_device: MakeDevice, offset: int) -> None:
    device = make_device(SIZE)
    with open(device, "r+b") as file:
        file.seek(offset)
        file.write(b"\x55")
    before = whole(device)
    with pytest.raises(StorageError, match=f"{device} holds something that is no MemKV store; .* nothing on it"):
        open_device(device, SIZE, SEGMENT)
    assert whole(device) == before


def test_a_filesystem_is_refused(make_device: MakeDevice) -> None:
    device = make_device(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True, timeout=60)
    with pytest.raises(StorageError, match="holds something"):
        open_device(device, SIZE, SEGMENT)


def test_a_device_in_use_is_refused(make_device: MakeDevice) -> None:
    device = make_device(SIZE)
    refused = pytest.raises(StorageError, match=f"{device} is in use: .* another node or to the system; name another")
    with closing(open_device(device, SIZE, SEGMENT)), refused:
        open_device(device, SIZE, SEGMENT)
    open_device(device, SIZE, SEGMENT).close()


def test_a_mounted_device_is_refused_before_anything_else(make_device: MakeDevice, tmp_path: Path) -> None:
    device = make_device(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True, timeout=60)
    place = tmp_path / "mount"
    place.mkdir()
    try:
        subprocess.run(["mount", device, str(place)], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    try:
        with pytest.raises(StorageError, match=f"{device} is in use: it, or a part of it, is mounted"):
            open_device(device, SIZE, SEGMENT)
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def test_a_share_of_a_device_and_of_a_filesystem(make_device: MakeDevice, tmp_path: Path) -> None:
    device = make_device(SIZE)
    assert share_bytes(device, Share(100.0)) == SIZE
    assert share_bytes(device, Share(25.0)) == SIZE // 4
    filesystem = os.statvfs(tmp_path)
    free = filesystem.f_bavail * filesystem.f_frsize
    assert 0.008 * free < share_bytes(tmp_path / "not" / "yet", Share(1.0)) < 0.0102 * free
    with closing(open_folder(tmp_path / "store", SIZE, SEGMENT, 64)) as store:
        assert share_bytes(tmp_path / "store", Share(100.0)) == store.geometry.store_bytes, "a store keeps its size"


def test_all_of_a_filesystem_and_not_a_byte_more(make_device: MakeDevice, tmp_path: Path) -> None:
    device = make_device(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", device], check=True, timeout=60)
    place = tmp_path / "mount"
    place.mkdir()
    try:
        subprocess.run(["mount", device, str(place)], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    try:
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        size = share_bytes(place, Share(100.0))
        with closing(open_folder(place, size, SEGMENT, DIRECT_ALIGNMENT, direct=True)) as store:
            assert free - 2 * MIB < store.geometry.store_bytes <= size < free
            assert share_bytes(place, Share(100.0)) == store.geometry.store_bytes
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def test_a_folder_in_memory_is_refused(tmp_path: Path) -> None:
    place = Path("/dev/shm") / f"memkv-test-{os.getpid()}"
    if not Path("/dev/shm").is_mount():
        pytest.skip("/dev/shm is no tmpfs here")
    with pytest.raises(StorageError, match="is on a tmpfs, which is memory and has no O_DIRECT; use mode memory"):
        open_folder(place, SIZE, SEGMENT, DIRECT_ALIGNMENT, direct=True)
    assert not place.exists()


def test_a_filesystem_without_o_direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def without(path: str | Path, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", without)
    with pytest.raises(StorageError, match="cannot be read with O_DIRECT in blocks of 4096 bytes; use mode file, or a"):
        open_folder(tmp_path, SIZE, SEGMENT, DIRECT_ALIGNMENT, direct=True)


def test_other_segments_and_another_store_are_refused(make_device: MakeDevice) -> None:
    device = make_device(SIZE)
    open_device(device, SIZE, SEGMENT).close()
    with pytest.raises(StorageError, match=f"with segments of {SEGMENT} bytes, not {2 * SEGMENT}"):
        open_device(device, SIZE, 2 * SEGMENT)
    with pytest.raises(StorageError, match="does not hold the store"):
        open_device(device, SIZE, None, bytes(16))


def test_a_start_that_was_interrupted_before_the_superblock_begins_anew(
    make_device: MakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device(SIZE)

    def torn(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store_module, "encode_superblock", torn)
    with pytest.raises(StorageError, match="Input/output error"):
        open_device(device, SIZE, SEGMENT)
    monkeypatch.undo()
    open_device(device, SIZE, SEGMENT).close()


def test_no_device_and_no_permission(tmp_path: Path) -> None:
    assert not is_device(tmp_path)
    assert not is_device(tmp_path / "none")
    with pytest.raises(StorageError, match="No such file"):
        open_device(tmp_path / "none", SIZE, None)


def test_a_device_is_no_folder(make_device: MakeDevice) -> None:
    device = make_device(SIZE)
    with pytest.raises(StorageError, match=f"{device} is a block device; use mode direct"):
        open_folder(device, SIZE, None, 64)


def test_a_folder_of_mode_file_is_not_taken_for_mode_direct(tmp_path: Path) -> None:
    open_folder(tmp_path, SIZE, SEGMENT, 64).close()
    with pytest.raises(StorageError, match="aligned to 64 bytes, and this mode needs 4096; use mode file"):
        open_folder(tmp_path, SIZE, SEGMENT, DIRECT_ALIGNMENT)
    open_folder(tmp_path, SIZE, SEGMENT, 64).close()
