# SPDX-License-Identifier: Apache-2.0
"""A store that an older release wrote opens, and becomes one of this release; that is then refused by the older one.

``data/store-v1.tar.xz`` was written by the code of format version 1: six segments of 64 KiB, 62 values of two
namespaces, two of them deleted again, and a stop.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import get, put
from memkv_server.drives.check import StoreCheck, check_store
from memkv_server.drives.image import open_image
from memkv_server.engine import SegmentEngine, open_engine, superblock
from memkv_server.engine.folder import load_superblock

CAPACITY_BYTES = 6 * 65_536 + 65_536 + 4096
SMALL = {b"key-%d" % number: bytes([number]) * (100 * number) for number in range(40)}
LARGE = {b"fill-%d" % number: bytes([number]) * 9000 for number in range(12)}
OTHERS = {b"key-%d" % number: bytes([number + 100]) * 300 for number in range(10)}
DELETED = {b"key-3", b"key-4"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "data" / "store-v1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "store"


def opened(store: Path) -> SegmentEngine:
    return open_engine("file", store, CAPACITY_BYTES)


def checked(store: Path) -> StoreCheck:
    with open_image(store) as image:
        return check_store(image)


def version_of(store: Path) -> int:
    geometry = load_superblock(store)
    assert geometry is not None
    return geometry.format_version


def test_what_version_1_held_is_there(store: Path) -> None:
    assert version_of(store) == 1
    engine = opened(store)
    assert engine.usage()["drives"][0]["format_version"] == superblock.FORMAT_VERSION
    assert engine.open_namespace("tenant-a", b"another") is None
    one, two = engine.open_namespace("tenant-a", b'{"model":"m"}'), engine.open_namespace("tenant-b", b"")
    assert one is not None
    assert two is not None
    values = SMALL | LARGE
    expected = [None if key in DELETED else value for key, value in values.items()]
    assert get(engine, one, list(values)) == expected
    assert sum(value is not None for value in expected) == 50
    assert get(engine, two, list(OTHERS)) == list(OTHERS.values())
    engine.close()


def test_it_goes_on_as_a_store_of_this_version(store: Path) -> None:
    engine = opened(store)
    two = engine.open_namespace("tenant-b", b"")
    assert two is not None
    put(engine, two, {b"new": b"n" * 500})
    assert engine.drop_namespace("tenant-a") is not None
    engine.close()
    assert version_of(store) == superblock.FORMAT_VERSION
    engine = opened(store)
    one, two = engine.open_namespace("tenant-a", b'{"model":"m"}'), engine.open_namespace("tenant-b", b"")
    assert one is not None
    assert two is not None
    assert get(engine, one, list(SMALL)) == [None] * len(SMALL)
    assert get(engine, two, [*OTHERS, b"new"]) == [*OTHERS.values(), b"n" * 500]
    engine.close()
    assert checked(store).is_clean


def test_the_older_release_refuses_it_from_then_on(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(store).close()
    monkeypatch.setattr(superblock, "FORMAT_VERSION", 1)
    with pytest.raises(StorageError, match="has format version 2, and this release knows versions up to 1"):
        opened(store)


def test_a_check_leaves_it_as_it_is(store: Path) -> None:
    found = checked(store)
    assert found.is_clean
    assert found.as_json()["format_version"] == 1
    assert version_of(store) == 1
