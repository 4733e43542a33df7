# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memkv_core.staging import Staging, anonymous_memory

SLOT = 4096


class Slots(RuleBasedStateMachine):
    """No slot is handed out twice, none that is in quarantine, none that is not open or not known; none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.staging = Staging(12 * SLOT, SLOT)
        self.taken: list[list[int]] = []
        self.quarantined: list[list[int]] = []

    @rule(count=st.integers(0, 14))
    def open(self, count: int) -> None:
        before = self.staging.opened
        self.staging.open(count)
        assert self.staging.opened == max(before, min(count, 12))

    @rule(size=st.integers(0, 6 * SLOT), known=st.integers(0, 12))
    def take(self, size: int, known: int) -> None:
        slots = self.staging.take(size, known)
        if slots is None:
            return
        assert len(slots) == -(-size // SLOT)
        assert slots == sorted(slots)
        assert all(slot < min(known, self.staging.opened) for slot in slots)
        self.taken.append(slots)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.staging.give_back(self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))))

    @precondition(lambda self: self.taken)
    @rule()
    def quarantine(self) -> None:
        self.quarantined.append(self.taken.pop())
        self.staging.quarantine(self.quarantined[-1])

    @precondition(lambda self: self.quarantined)
    @rule()
    def pardon(self) -> None:
        slots = self.quarantined.pop()
        self.staging.pardon(slots)
        self.staging.pardon(slots)  # idempotent

    @invariant()
    def all_are_accounted_for(self) -> None:
        held = [slot for slots in self.taken + self.quarantined for slot in slots]
        assert len(held) == len(set(held))
        assert len(held) + self.staging.free_count == self.staging.opened
        assert self.staging.quarantined_count == sum(map(len, self.quarantined))


TestSlots = Slots.TestCase


@given(st.permutations(range(6)), st.integers(0, 3 * SLOT), st.integers(0, 3 * SLOT))
def test_bytes_are_counted_through_the_slots(slots: list[int], start: int, size: int) -> None:
    staging = Staging(6 * SLOT, SLOT)
    staging.open(6)
    memory = memoryview(staging.memory)
    for at, slot in enumerate(slots):
        memory[slot * SLOT : (slot + 1) * SLOT] = bytes([at]) * SLOT
    seen = b"".join(map(bytes, staging.views(slots, start, size)))
    assert seen == b"".join(bytes([at]) * SLOT for at in range(6))[start : start + size]


def test_memory_is_taken_when_it_is_first_used() -> None:
    made: list[int] = []

    def memory(size_bytes: int) -> object:
        made.append(size_bytes)
        return anonymous_memory(size_bytes)

    staging = Staging.of_mb(64, 16, memory=memory)  # type: ignore[arg-type]
    assert (made, staging.slot_count, staging.size_bytes) == ([], 4, 64 << 20)
    assert staging.take(1, 4) is None
    staging.open(1)
    assert made == [64 << 20]
    assert staging.take(1, 4) == [0]
    assert (staging.renewed().opened, made) == (0, [64 << 20])
    assert len(staging.area(1, 2)) == 32 << 20


def test_none_of_it_is_there_before_it_is_touched() -> None:
    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    staging = Staging.of_mb(512, 16)
    staging.open(32)
    assert resident() - before < 64 << 20
