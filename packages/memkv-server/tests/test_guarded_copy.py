# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes
import errno
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memkv_server import guarded_copy
from memkv_server.guarded_copy import copy_from_file, copy_to_file

PAGE = mmap.PAGESIZE
COUNT = 1500  # more pieces than one call takes


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with (tmp_path / "store").open("w+b") as file:
        file.truncate(COUNT * PAGE)
        mapping = mmap.mmap(file.fileno(), COUNT * PAGE)
        yield file, np.frombuffer(mapping, np.uint8)


def pieces(store: Any, memory: Any) -> tuple[Any, Any, Any]:
    """Every other hundred bytes of each page, in another order on the other side."""
    places = np.arange(COUNT, dtype=np.uint64)
    mapped = np.uint64(store.ctypes.data) + places * np.uint64(PAGE) + np.uint64(50)
    mine = np.uint64(memory.ctypes.data) + places[::-1] * np.uint64(100)
    return mapped, mine, np.full(COUNT, 100, np.int64)


@pytest.mark.parametrize("forbidden", [False, True])
def test_both_ways(store: Any, monkeypatch: pytest.MonkeyPatch, forbidden: bool) -> None:
    if forbidden:

        def refused(*_: Any) -> bool:
            ctypes.set_errno(errno.EPERM)
            return False

        monkeypatch.setattr(guarded_copy, "_by_kernel", refused)
    _, mapped_bytes = store
    memory = np.random.default_rng(1).integers(0, 256, COUNT * 100, np.uint8)
    mapped, mine, sizes = pieces(mapped_bytes, memory)
    assert copy_to_file(mine, mapped, sizes)
    seen = mapped_bytes.reshape(COUNT, PAGE)[:, 50:150]
    assert (seen == memory.reshape(COUNT, 100)[::-1]).all()
    back = np.zeros_like(memory)
    assert copy_from_file(mapped, np.uint64(back.ctypes.data) + np.arange(COUNT, dtype=np.uint64)[::-1] * 100, sizes)
    assert (back == memory).all()


def test_a_page_that_is_gone_is_an_answer(store: Any) -> None:
    """The file is cut short beneath its mapping: a touch would be a SIGBUS."""
    file, mapped_bytes = store
    memory = np.ones(COUNT * 100, np.uint8)
    mapped, mine, sizes = pieces(mapped_bytes, memory)
    file.truncate(10 * PAGE)
    assert not copy_from_file(mapped, mine, sizes)
    assert not copy_to_file(mine, mapped, sizes)
    assert copy_from_file(mapped[:10], mine[:10], sizes[:10])
