# SPDX-License-Identifier: Apache-2.0
"""Plans for drives and their execution: real folders, real loop devices with real filesystems on them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.errors import ConfigError, StorageError
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.capacity import Share
from memkv_server.drives.check import check_store
from memkv_server.drives.image import open_image
from memkv_server.engine import open_engine
from memkv_server.provision import Action, Step, carry_out, plan

MIB = 1 << 20
ALL = Share(100.0)


def steps(
    path: Path, *, mode: str = "direct", capacity: Any = 64 * MIB, segment: int | None = None, **how: bool
) -> list[Step]:
    return plan(
        [(path, capacity)], mode=mode, segment_bytes=segment,
        idempotent=how.get("idempotent", False), force=how.get("force", False),
    )  # fmt: skip


def prepare(path: Path, *, mode: str = "direct", **how: Any) -> Action:
    (step,) = steps(path, mode=mode, **how)
    carry_out([step], mode, None)
    return step.action


# -- folders ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["file", "direct"])
def test_a_folder_from_nothing_to_a_store(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "new"
    assert prepare(path, mode=mode) is Action.MAKE
    engine = open_engine(mode, path, 64 * MIB)
    engine.close()
    with pytest.raises(ConfigError, match="holds a MemKV store already; use --idempotent to keep it, or --force"):
        steps(path, mode=mode)
    assert prepare(path, mode=mode, idempotent=True) is Action.KEEP
    assert prepare(path, mode=mode, force=True) is Action.REMAKE


def test_a_store_that_is_kept_must_fit_the_settings(tmp_path: Path) -> None:
    prepare(tmp_path / "s", mode="file")
    with pytest.raises(ConfigError, match="was made with segments of 4194304 bytes, not 1048576; leave --segment-size"):
        steps(tmp_path / "s", mode="file", segment=MIB, idempotent=True)
    with pytest.raises(ConfigError, match="was made for mode file, and this is mode direct; use --mode file"):
        steps(tmp_path / "s", mode="direct", idempotent=True)


def test_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(StorageError, match=r"holds 'letter', and no MemKV store; name an empty folder .* beside it"):
        steps(tmp_path)
    assert prepare(tmp_path, force=True) is Action.BESIDE
    assert (tmp_path / "letter").read_text() == "dear"
    assert prepare(tmp_path, idempotent=True) is Action.KEEP
    engine = open_engine("direct", tmp_path, 64 * MIB)
    engine.close()


# -- devices ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(80 * MIB)
    command = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no loop device can be made here: {error}")
    yield Path(done.stdout.strip())
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=False, timeout=30)


def run(*command: object) -> None:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)


def test_a_device_from_blank_to_a_store(device: Path) -> None:
    (step,) = steps(device, capacity=ALL)
    assert (step.action, step.capacity_bytes, step.found) == (Action.MAKE, 80 * MIB, "blank")
    assert prepare(device, capacity=ALL) is Action.MAKE
    engine = open_engine("direct", device, ALL)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    put(engine, namespace, {b"k": block(1, 5000)})
    # While a node has it: kept without being opened, and not to be had by force.
    assert prepare(device, capacity=ALL, idempotent=True) is Action.KEEP
    with pytest.raises(StorageError, match=f"{device}"):
        prepare(device, capacity=ALL, force=True)
    assert get(engine, namespace, [b"k"]) == [block(1, 5000)]
    engine.close()
    assert prepare(device, capacity=ALL, force=True) is Action.REMAKE
    with open_image(device) as image:
        result = check_store(image)
    assert (result.is_clean, result.live_records) == (True, 0)


def test_a_device_with_a_filesystem(device: Path, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", device)
    with pytest.raises(StorageError, match=r"holds an ext filesystem, and no MemKV store; .* --force overwrites it"):
        steps(device)
    (tmp_path / "mnt").mkdir()
    run("mount", device, tmp_path / "mnt")
    try:
        for force in (False, True):
            with pytest.raises(
                StorageError, match=rf"{device} is in use \(mounted at {tmp_path}/mnt\); unmount or free it; --force"
            ):
                steps(device, force=force)
    finally:
        run("umount", tmp_path / "mnt")
    assert prepare(device, capacity=ALL, force=True) is Action.OVERWRITE
    engine = open_engine("direct", device, ALL)
    engine.close()


def test_a_device_that_is_too_small(device: Path) -> None:
    with pytest.raises(StorageError, match=rf"{device} has {80 * MIB} bytes, and {100 * MIB} are asked for"):
        prepare(device, capacity=100 * MIB)


def test_all_drives_or_none(device: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(StorageError, match=r"a\.jpg"):
        plan(
            [(device, ALL), (tmp_path / "photos", 64 * MIB)],
            mode="direct", segment_bytes=None, idempotent=False, force=False,
        )  # fmt: skip
    with open(device, "rb") as file:
        assert file.read(MIB).count(0) == MIB
    assert os.listdir(tmp_path / "photos") == ["a.jpg"]
