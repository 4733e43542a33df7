# SPDX-License-Identifier: Apache-2.0
"""A real node over real drives that fail with the kernel's own errors, and come back: loop devices, cut short."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.testing.engine_tests import block

MIB = 1 << 20
SIZE = 100_000
COUNT = 2400
StartNode = Callable[..., Any]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(200 * MIB)
    return image


@pytest.fixture
def device(image: Path) -> Iterator[Path]:
    command = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no loop device can be made here: {error}")
    yield Path(done.stdout.strip())
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=False, timeout=30)


def states(node: Any) -> list[str]:
    return [drive["state"] for drive in node.status()["storage"]["drives"]]


def hits(client: Any, keys: list[str]) -> set[str]:
    """The keys that hit; those must have the right bytes."""
    found = set()
    for start in range(0, len(keys), 50):
        part = keys[start : start + 50]
        targets = [bytearray(SIZE) for _ in part]
        for key, target, length in zip(part, targets, client.get(part, targets), strict=True):
            if length is not None:
                assert bytes(target) == block(int(key), SIZE)
                found.add(key)
    return found


def test_a_device_that_gives_io_errors_and_is_put_back(
    start_node: StartNode, device: Path, image: Path, tmp_path: Path
) -> None:
    """EIO on read is a miss, then the drive is offline and the node degraded; the other drive serves; it comes back."""
    node = start_node(
        "--mode", "direct", "--path", str(device), "--path", str(tmp_path / "b"), "--lanes", "1",
        "--memory-max-size", "128MiB", "--segment-size", "4MiB", "--capacity", "384MiB",
    )  # fmt: skip
    client = node.client()
    try:
        keys = [str(number) for number in range(COUNT)]
        for start in range(0, COUNT, 50):
            part = keys[start : start + 50]
            assert client.put(part, [block(int(key), SIZE) for key in part]) == [True] * 50
        stored = hits(client, keys)
        (pid,) = [lane["pid"] for lane in node.status()["lanes"]]
        shutil.copyfile(image, tmp_path / "saved")
        os.truncate(image, 0)  # beyond the end of its file a loop device answers EIO

        def offline() -> bool:
            hits(client, keys)
            return states(node) == ["offline", "online"]

        node.wait_for(offline)
        served = hits(client, keys)
        assert 0.2 * len(stored) < len(served) < 0.8 * len(stored), "the other drive serves"
        health = node.ask("/v1/health").body
        assert (health["status"], health["drives_online"], health["drives_offline"]) == ("degraded", 1, 1)
        assert f"{device}: the drive is taken out of service: {device}: offset " in node.log.read_text()
        fresh = [f"{number}" for number in range(COUNT, COUNT + 50)]
        taken = client.put(fresh, [block(int(key), SIZE) for key in fresh])
        assert 0 < taken.count(True) < 50

        with (tmp_path / "saved").open("rb") as source, image.open("r+b") as target:  # the same file: the loop has it
            shutil.copyfileobj(source, target)
        node.wait_for(lambda: states(node) == ["online", "online"])
        assert node.ask("/v1/health").body["status"] == "healthy"
        assert len(hits(client, [key for key in keys if key not in served])) > 0.2 * len(stored), "it is served again"
        assert [lane["pid"] for lane in node.status()["lanes"]] == [pid], "and all that without a restart"
        assert node.status()["lanes"][0]["restarts"] == 0
    finally:
        client.close()


def test_a_filesystem_with_io_errors_beneath_mapped_segments(
    start_node: StartNode, device: Path, image: Path, tmp_path: Path
) -> None:
    """Mode file on an ext4 whose device fails: what the page cache has not is a miss, and no SIGBUS ends the lane."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    subprocess.run(["mkfs.ext4", "-q", str(device)], check=True, timeout=60, capture_output=True)
    mount = tmp_path / "mnt"
    mount.mkdir()
    mounted = subprocess.run(["mount", str(device), str(mount)], check=False, timeout=60, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode()}")
    storage = ("--path", str(mount / "d"), "--path", str(tmp_path / "b"), "--lanes", "1")
    flags = (*storage, "--capacity", "256MiB", "--segment-size", "4MiB")
    keys = [str(number) for number in range(COUNT // 2)]
    try:
        node = start_node(*flags)
        client = node.client()
        for start in range(0, len(keys), 50):
            part = keys[start : start + 50]
            assert client.put(part, [block(int(key), SIZE) for key in part]) == [True] * 50
        client.close()
        node.stop()
        # So that nothing of it is in memory.
        subprocess.run(["umount", str(mount)], check=True, timeout=60)
        subprocess.run(["mount", str(device), str(mount)], check=True, timeout=60)
        node = start_node(*flags)
        client = node.client()
        (pid,) = [lane["pid"] for lane in node.status()["lanes"]]
        assert client.exists(keys) == [True] * len(keys)
        os.truncate(image, 0)
        served = hits(client, keys)
        assert 0.2 * len(keys) < len(served) < 0.9 * len(keys), "the other drive serves"
        assert f"{mount}/d/memkv.segments: offset " in node.log.read_text()
        node.wait_for(lambda: states(node)[0] == "offline")
        assert states(node) == ["offline", "online"]
        assert node.ask("/v1/health").body["status"] == "degraded"
        # Until it went offline, what the page cache had of it was served as well.
        again = hits(client, keys)
        assert again <= served
        assert len(again) > 0.2 * len(keys), "the other drive serves"
        assert [lane["pid"] for lane in node.status()["lanes"]] == [pid], "no SIGBUS"
        client.close()
        node.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=False, timeout=60, capture_output=True)
