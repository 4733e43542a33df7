# SPDX-License-Identifier: Apache-2.0
"""The clock of a drive never goes back, whatever the system's does; a record never counts as younger than it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memkv_server.engine.age import AgeClock, Mark, thinned
from memkv_server.engine.limits import MARK_ACCURACY, MARK_COUNT_MAX

START = 1_800_000_000


class System:
    """The system's clocks, and the drive's registry."""

    def __init__(self) -> None:
        self.wall_s = float(START)
        self.monotonic_s = 0.0
        self.marks: list[Mark] = []

    def clock(self, ttl_s: int | None) -> AgeClock:
        return AgeClock(self.marks, ttl_s, lambda: self.wall_s, lambda: self.monotonic_s)

    def pass_(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def mark(self, clock: AgeClock, sequence: int) -> bool:
        mark = clock.next_mark(sequence)
        if mark is not None:
            self.marks.append(mark)
            clock.marked(mark)
        return mark is not None


steps = st.one_of(
    st.tuples(st.just("pass"), st.floats(0, 2000)),
    st.tuples(st.just("set"), st.floats(-1e8, 1e6)),
    st.tuples(st.just("restart"), st.floats(0, 100)),
    st.tuples(st.just("write"), st.just(0.0)),
)


@given(st.lists(steps, max_size=60), st.sampled_from([1, 60, 3600, 10**7]))
def test_it_never_goes_back_and_no_record_is_younger_than_it_is(history: list[tuple[str, float]], ttl_s: int) -> None:
    system = System()
    clock = system.clock(ttl_s)
    latest, sequence = 0, 0
    written: dict[int, int] = {}
    for what, amount in history:
        if what == "pass":
            before = clock.now()
            system.pass_(amount)
            assert clock.now() >= before + int(amount) - 1, "it goes on, set back or not"
        elif what == "set":
            system.wall_s = max(0.0, system.wall_s + amount)
        elif what == "restart":
            system.monotonic_s += 5.0
            clock = system.clock(ttl_s)
        else:
            sequence += 1
            written[sequence] = clock.now()
        assert clock.now() >= latest
        latest = clock.now()
        system.mark(clock, sequence)  # as in each tick
        latest = max(latest, clock.now())
    found = system.clock(ttl_s).written_at(np.array(list(written), dtype=np.uint64))
    for counted, actual in zip(found.tolist(), written.values(), strict=True):
        assert counted <= actual


def test_where_the_clock_is_ahead_of_its_last_mark_a_restart_does_not_take_it_back() -> None:
    system = System()
    clock = system.clock(3200)
    for _ in range(40):
        system.mark(clock, 0)
        system.pass_(99)
    shown = clock.now()
    system.wall_s -= 5000
    clock = system.clock(3200)
    assert shown <= clock.now() <= shown + 100


def test_marks_come_closer_at_first_and_then_at_a_share_of_the_ttl() -> None:
    system = System()
    clock = system.clock(3200)
    for second in range(1000):
        system.mark(clock, second)
        system.pass_(1)
    spans = [later.seconds - earlier.seconds for earlier, later in zip(system.marks, system.marks[1:], strict=False)]
    assert spans[:6] == [1, 2, 4, 8, 16, 32]
    assert set(spans[7:]) == {100}
    written = clock.written_at(np.arange(1, 1000, dtype=np.uint64)) - START
    assert (written <= np.arange(1, 1000)).all()
    assert (np.arange(1, 1000) - written <= 101).all()


def test_restarts_in_a_row_do_not_run_ahead() -> None:
    system = System()
    for _ in range(500):
        clock = system.clock(86_400)
        system.mark(clock, 0)
        system.pass_(0.5)
    assert clock.now() - system.wall_s <= 500 * 0.5 + 2


def test_without_a_ttl_there_are_few_marks_and_none_where_nothing_was_written() -> None:
    system = System()
    clock = system.clock(None)
    assert not system.mark(clock, 7)
    for hour in range(24):
        system.pass_(3600)
        assert system.mark(clock, 7 if hour < 5 else 8) == (hour in (0, 5))
    assert [mark.until for mark in system.marks] == [mark.seconds for mark in system.marks]


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 50)), max_size=3000).filter(bool))
def test_thinned_marks_still_tell_ages_well_enough(spans: list[tuple[int, int]]) -> None:
    marks, seconds, sequence = [], 1000, 0
    for span, records in spans:
        seconds, sequence = seconds + span, sequence + records
        marks.append(Mark(seconds, sequence, seconds))
    kept = thinned(marks)
    assert len(kept) <= MARK_COUNT_MAX
    assert kept[-1] == marks[-1]
    assert set(kept) <= set(marks)
    sequences = np.arange(1, sequence + 1, dtype=np.uint64)
    exact, told = AgeClock(marks).written_at(sequences), AgeClock(kept).written_at(sequences)
    assert (told <= exact).all()
    if len(kept) < MARK_COUNT_MAX:
        assert kept[0] == marks[0]
        known = exact > 0
        ages = seconds - exact[known]
        assert (exact[known] - told[known] <= 5000 + ages * 2 / MARK_ACCURACY).all()
