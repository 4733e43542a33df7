# SPDX-License-Identifier: Apache-2.0
"""Payloads of any shape in pieces of any size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memkv_server.intake import Intake


class Space:
    """A reservation that notes how many values it was told to be complete."""

    def __init__(self, extents: list[memoryview | None]) -> None:
        self.extents = extents
        self.counts: list[int] = []

    def landed(self, count: int) -> None:
        self.counts.append(count)


def receive(intake: Intake, data: bytes) -> None:
    """As ``recvmsg_into`` does."""
    at = 0
    for view in intake.window():
        size = min(len(view), len(data) - at)
        view[:size] = data[at : at + size]
        at += size
    intake.advance(len(data))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=12),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_bytes_go_where_they_belong_and_what_is_complete_is_said(
    values: list[tuple[int, bool]], steps: list[int]
) -> None:
    lengths = [length for length, _ in values]
    memory = [memoryview(bytearray(length)) if wanted else None for length, wanted in values]
    payload = bytes(number % 251 for number in range(sum(lengths)))
    space = Space(memory)
    intake = Intake(space, lengths, memoryview(bytearray(16)))
    taken = turns = 0
    while intake.left:
        size = min(steps[turns % len(steps)], intake.left)
        receive(intake, payload[taken : taken + size])
        taken, turns = taken + size, turns + 1
        intake.verify()
        complete = [place for place in range(len(lengths)) if sum(lengths[: place + 1]) <= taken]
        assert space.counts[-1] == len(complete)
    start = 0
    for length, extent in zip(lengths, memory, strict=True):
        if extent is not None:
            assert bytes(extent) == payload[start : start + length]
        start += length
    assert taken == start


def test_without_a_reservation_all_of_it_is_drained() -> None:
    drain = memoryview(bytearray(16))
    intake = Intake(None, [40, 0, 3], drain)
    assert [len(view) for view in intake.window()] == [16, 16, 8, 3]
    intake.advance(41)
    intake.verify()
    assert intake.left == 2
