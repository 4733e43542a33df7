# SPDX-License-Identifier: Apache-2.0
"""Address space costs memory only where it was touched, and gives it back."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from memkv_core.errors import StorageError
from memkv_server.engine.space import FRAME_BYTES, AddressSpace


def resident_bytes() -> int:
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def page_table_bytes() -> int:
    found = re.search(r"^VmPTE:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def test_a_terabyte_costs_what_is_touched_and_frames_are_given_back_with_their_tables() -> None:
    space = AddressSpace(1 << 40)
    before, tables = resident_bytes(), page_table_bytes()
    for frame in range(0, 200_000, 1000):
        at = space.origin + frame * FRAME_BYTES
        space.memory[at : at + FRAME_BYTES // 8] = b"\x01" * (FRAME_BYTES // 8)
    touched = resident_bytes() - before
    assert 40 << 20 < touched < 60 << 20, "no huge pages"
    for frame in range(0, 200_000, 1000):
        space.drop_frame(frame)
        assert space.memory[space.origin + frame * FRAME_BYTES] == 0
    assert resident_bytes() - before < 5 << 20
    assert page_table_bytes() - tables < 2 << 20, "what is left is the zero page that the line above read"
    space.close()


def test_a_frame_is_dropped_alone() -> None:
    space = AddressSpace(8 * FRAME_BYTES)
    at = space.origin
    space.memory[at : at + 4 * FRAME_BYTES] = b"\x07" * (4 * FRAME_BYTES)
    space.drop_frame(1)
    assert space.memory[at + FRAME_BYTES - 1] == space.memory[at + 2 * FRAME_BYTES] == 7
    assert space.view[at + FRAME_BYTES] == space.view[at + 2 * FRAME_BYTES - 1] == 0
    space.memory[at + FRAME_BYTES] = 9
    assert space.view[at + FRAME_BYTES] == 9
    space.close()


def test_pages_are_dropped_alone() -> None:
    space = AddressSpace(FRAME_BYTES)
    at = space.origin
    space.populate(0, 16_384)
    space.memory[at : at + 16_384] = b"\x07" * 16_384
    space.drop(4096, 8192)
    assert bytes(space.view[at : at + 16_384]) == b"\x07" * 4096 + bytes(8192) + b"\x07" * 4096
    space.close()


def test_dropped_frames_leave_no_mappings_behind() -> None:
    def mappings() -> int:
        return len(Path("/proc/self/maps").read_text(encoding="ascii").splitlines())

    space = AddressSpace(1 << 30)
    before = mappings()
    frames = list(range(512))
    random.Random(1).shuffle(frames)
    for frame in frames:
        space.memory[space.origin + frame * FRAME_BYTES] = 1
    most = before
    for count, frame in enumerate(frames):
        space.drop_frame(frame)
        if count % 3 == 0:
            space.memory[space.origin + frame * FRAME_BYTES] = 1
        most = max(most, mappings())
    assert most < before + 50
    space.close()


def test_more_than_there_are_addresses() -> None:
    with pytest.raises(StorageError, match="address space cannot be reserved"):
        AddressSpace(1 << 60)


def test_a_view_in_use_keeps_it() -> None:
    space = AddressSpace(FRAME_BYTES)
    view = space.view[:10]
    space.close()
    assert bytes(view) == bytes(10)
