# SPDX-License-Identifier: Apache-2.0
"""Who waits for which commit: the groups against a model of the medium."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memkv_server.engine.durability import SETTLED, Groups, Immediate, Ticket, Tickets


def is_settled(barrier: Ticket | Tickets) -> bool:
    return barrier.settled  # in a call, since mypy takes an attribute that was looked at for unchanging


def test_nobody_waits_for_what_is_on_the_medium() -> None:
    groups = Groups()
    assert groups.join() is SETTLED
    groups.wrote()
    ticket = groups.join()
    assert not is_settled(ticket)
    assert groups.wanted
    groups.begin(1)
    groups.end(None)
    assert is_settled(ticket)
    assert ticket.failure is None
    assert groups.join() is SETTLED
    assert groups.synced_sequence == 1


def test_one_sync_serves_all_that_was_written_before_it_began() -> None:
    groups = Groups()
    groups.wrote()
    first = [groups.join() for _ in range(5)]
    groups.begin(5)
    assert groups.join() is first[0]  # nothing new was written: the one that runs will do
    groups.wrote()
    second = [groups.join() for _ in range(3)]
    assert len({id(ticket) for ticket in first + second}) == 2
    groups.end(None)
    assert [ticket.settled for ticket in first + second] == [True] * 5 + [False] * 3
    groups.begin(8)
    groups.end(None)
    assert all(ticket.settled for ticket in second)
    assert not groups.wanted


def test_after_a_sync_that_failed_nothing_is_durable() -> None:
    groups = Groups()
    groups.wrote()
    first = groups.join()
    groups.begin(1)
    groups.wrote()
    second = groups.join()
    groups.end("sda: Input/output error")
    assert (first.settled, first.failure) == (True, "sda: Input/output error")
    assert (second.settled, second.failure) == (True, "sda: Input/output error")
    assert groups.join().failure == "sda: Input/output error"
    assert groups.synced_sequence == 0
    assert not groups.wanted


def test_a_drive_that_is_taken_away_while_it_syncs_settles_everything_as_failed() -> None:
    groups = Groups()
    groups.wrote()
    first = groups.join()
    groups.begin(1)
    groups.wrote()
    second = groups.join()
    groups.fail("gone")
    assert [ticket.failure for ticket in (first, second)] == ["gone", "gone"]
    groups.end(None)  # it answers after all: too late
    assert first.failure == "gone"
    assert groups.synced_sequence == 0


@given(st.lists(st.sampled_from(["write", "join", "begin", "end", "fail"]), max_size=60))
def test_a_settled_ticket_means_that_its_bytes_are_on_the_medium(steps: list[str]) -> None:
    groups = Groups()
    written = syncing = synced = 0
    tickets: list[tuple[Ticket, int]] = []
    for step in steps:
        if step == "write":
            written += 1
            groups.wrote()
        elif step == "join":
            tickets.append((groups.join(), written))
        elif step == "begin" and groups.wanted and not groups.running:
            syncing = written
            groups.begin(written)
        elif step in ("end", "fail") and groups.running:
            if step == "end" and groups.failure is None:
                synced = syncing
            groups.end(None if step == "end" else "broken")
        for ticket, covers in tickets:
            if ticket.settled and ticket.failure is None:
                assert covers <= synced
            elif not ticket.settled:
                assert covers > synced, "it waits for nothing"
    assert groups.synced_sequence <= synced
    # In the end everybody is served, and by two syncs at most: the one that runs and one for all the others.
    if groups.running:
        groups.end(None)
    if groups.wanted:
        groups.begin(written)
        groups.end(None)
    assert all(ticket.settled for ticket, _ in tickets)


def test_several_drives_settle_when_all_have() -> None:
    both = Tickets([first := Ticket(), second := Ticket()])
    first.settled = True
    assert not is_settled(both)
    second.settled, second.failure = True, "sdb: Input/output error"
    assert is_settled(both)
    assert both.failure == "sdb: Input/output error"


def test_nobody_waits_where_nothing_is_held_back() -> None:
    told: list[None] = []
    immediate = Immediate(lambda: told.append(None))
    immediate.wrote()
    assert immediate.join() is SETTLED
    immediate.settle()
    immediate.begin()
    immediate.flush()
    immediate.close("closed")
    immediate.join_thread()
    assert (immediate.stamp, len(told), immediate.usage()["syncs"]) == (0, 1, 0)
