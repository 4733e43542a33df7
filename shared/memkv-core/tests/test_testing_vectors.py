# SPDX-License-Identifier: Apache-2.0
"""The loader, and what it is for: no altered, repeated, swapped or cut golden frame is accepted, by either side."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.errors import RemoteProtocolError
from memkv_core.session import Role, State
from memkv_core.testing.loopback import open_frame
from memkv_core.testing.vectors import FILES, FOLDER_VARIABLE, find_vectors, golden_frames, golden_session, load_vectors

# What each side receives: the server the requests (0), the client the responses (1).
SIDES = [(Role.SERVER, 0), (Role.CLIENT, 1)]
FRAMES = {direction: [frame for _, frame in golden_frames(direction, __file__)] for _, direction in SIDES}


def test_corpus_is_present(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = find_vectors(__file__)
    assert {path.name for path in folder.glob("*.json")} == set(FILES)
    assert (len(FRAMES[0]), len(FRAMES[1])) == (11, 8)
    with pytest.raises(FileNotFoundError, match="no golden vectors"):
        find_vectors("/")
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    assert find_vectors("/") == folder
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"lacks digests\.json, frames\.json"):
        load_vectors("frames.json")


@pytest.mark.parametrize(("role", "direction"), SIDES)
def test_golden_frames_are_accepted_in_their_order(role: Role, direction: int) -> None:
    session = golden_session(role, __file__)
    for frame in FRAMES[direction]:
        open_frame(session, frame)
    assert session.state is State.OPEN


def refused(role: Role, frames: list[bytes], last: bytes) -> None:
    """``frames`` are taken; then ``last`` must not be."""
    session = golden_session(role, __file__)
    for frame in frames:
        open_frame(session, frame)
    with pytest.raises(RemoteProtocolError):
        open_frame(session, last)


@given(data=st.data(), side=st.sampled_from(SIDES))
def test_a_flipped_bit_is_refused(data: st.DataObject, side: tuple[Role, int]) -> None:
    role, direction = side
    at = data.draw(st.integers(0, len(FRAMES[direction]) - 1))
    frame = bytearray(FRAMES[direction][at])
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    refused(role, FRAMES[direction][:at], bytes(frame))


@given(data=st.data(), side=st.sampled_from(SIDES))
def test_a_frame_out_of_its_turn_is_refused(data: st.DataObject, side: tuple[Role, int]) -> None:
    """Replayed, skipped ahead of, or sent back to where it came from."""
    role, direction = side
    taken = data.draw(st.integers(0, len(FRAMES[direction]) - 1))
    every = [*FRAMES[0], *FRAMES[1]]
    other = data.draw(st.sampled_from([frame for frame in every if frame != FRAMES[direction][taken]]))
    refused(role, FRAMES[direction][:taken], other)


@given(data=st.data(), side=st.sampled_from(SIDES))
def test_a_cut_or_lengthened_frame_is_refused(data: st.DataObject, side: tuple[Role, int]) -> None:
    role, direction = side
    at = data.draw(st.integers(0, len(FRAMES[direction]) - 1))
    frame = FRAMES[direction][at]
    changed = data.draw(
        st.one_of(
            st.integers(0, len(frame) - 1).map(lambda size: frame[:size]),
            st.binary(min_size=1, max_size=70).map(lambda more: frame + more),
        )
    )
    refused(role, FRAMES[direction][:at], changed)
