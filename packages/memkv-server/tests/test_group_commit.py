# SPDX-License-Identifier: Apache-2.0
"""Commits in groups, with a thread that really waits."""

from __future__ import annotations

import os
import select
import threading

import pytest

from memkv_core.errors import StorageError
from memkv_server.engine.durability import SETTLED, Ticket
from memkv_server.engine.group_commit import CommitThread, GroupCommit, Wake


def is_settled(ticket: Ticket) -> bool:
    return ticket.settled  # in a call, since mypy takes an attribute that was looked at for unchanging


class Medium:
    """A drive whose sync waits until it is told to go on."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.syncs = 0
        self.error: Exception | None = None

    def sync(self) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=30)
        self.syncs += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def medium() -> Medium:
    return Medium()


def test_the_lane_goes_on_while_the_thread_syncs(medium: Medium) -> None:
    failures: list[str] = []
    thread = CommitThread(medium.sync, medium.ended.release)
    commits = GroupCommit(thread, lambda: 42, failures.append)
    commits.settle()
    commits.begin()
    assert commits.join() is SETTLED
    commits.wrote()
    first = commits.join()
    first.request_count += 1
    commits.settle()
    commits.begin()
    assert medium.begun.acquire(timeout=30)
    later = []
    for _ in range(100):
        commits.wrote()
        later.append(commits.join())
        later[-1].request_count += 1
        commits.settle()
        commits.begin()
    assert not is_settled(first)
    medium.go.release()
    assert medium.ended.acquire(timeout=30)
    commits.settle()
    commits.begin()
    assert is_settled(first)
    assert not is_settled(later[0])
    assert commits.stamp == 43
    medium.go.release()
    commits.flush()
    assert all(ticket.settled for ticket in later)
    assert (medium.syncs, commits.usage()["syncs"], commits.usage()["sync_requests"]) == (2, 2, 101)
    assert failures == []
    commits.close("closed")
    commits.join_thread()


@pytest.mark.parametrize(
    "error",
    [StorageError("sda: Input/output error", remedy="check the drive"), OSError(5, "Input/output error")],
)
def test_a_failed_sync_is_told_once(medium: Medium, error: OSError) -> None:
    failures: list[str] = []
    commits = GroupCommit(CommitThread(medium.sync, lambda: None), lambda: 1, failures.append)
    medium.error = error
    medium.go.release()
    commits.wrote()
    ticket = commits.join()
    commits.flush()
    assert ticket.failure == str(error)
    assert failures == [ticket.failure]
    commits.wrote()
    assert commits.join().failure == ticket.failure
    commits.flush()
    assert medium.syncs == 1
    commits.close("closed")
    commits.close("closed")
    commits.join_thread()


def test_closing_lets_nobody_wait(medium: Medium) -> None:
    commits = GroupCommit(CommitThread(medium.sync, lambda: None), lambda: 1, lambda _: None)
    commits.wrote()
    ticket = commits.join()
    commits.settle()
    commits.begin()
    assert medium.begun.acquire(timeout=30)
    commits.close("the drive is taken out of service")
    assert ticket.failure == "the drive is taken out of service"
    commits.settle()
    commits.begin()
    commits.flush()
    medium.go.release()
    commits.join_thread()
    assert commits.stamp == 1, "what came too late counts for nothing"


def test_a_drive_that_syncs_by_itself_as_well_is_told_of_writes(medium: Medium) -> None:
    told: list[None] = []
    commits = GroupCommit(CommitThread(medium.sync, lambda: None), lambda: 1, lambda _: None, lambda: told.append(None))
    commits.wrote()
    commits.wrote()
    assert len(told) == 2
    commits.close("closed")
    commits.join_thread()


def test_a_wake_is_readable_once_it_was_rung_and_silent_after_its_end() -> None:
    wake = Wake()
    assert select.select([wake.fd], [], [], 0)[0] == []
    wake.ring()
    wake.ring()
    assert select.select([wake.fd], [], [], 30)[0] == [wake.fd]
    assert os.eventfd_read(wake.fd) == 2
    wake.close()
    wake.close()
    wake.ring()
