# SPDX-License-Identifier: Apache-2.0
"""When a put may be acknowledged: at once, or when a commit that covers it has ended (group commit).

One commit serves everything that was written before it began. While it runs, on a thread of its own and with the GIL
free, the lane goes on; what is written meanwhile waits for the next one, all of it together::

    lane    put put ─┬─ put get put ──────┬─ put ─────────────────┬─
                     │ begin              │ settle both, begin    │ settle all three
    thread           └── fdatasync ───────┴── fdatasync ──────────┘

A *ticket* stands for one commit to come; ``join`` gives out the one that covers all that has been written so far.
What a commit is depends on the level and the drive: ``Drive.sync`` in durability "strict", ``Drive.write_back`` in
"relaxed" on a drive that buffers writes in this process, and nothing at all on one that does not. What else waits for
tickets, and why, is said in ``pool.py`` and docs/durability.md. Pure: the thread is in ``group_commit.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, Protocol


class Level(str, Enum):
    """What an acknowledged put or delete survives."""

    RELAXED = "relaxed"  # the death of the process
    STRICT = "strict"  # the loss of power


class Ticket:
    """One commit to come. Changed by the lane's thread only."""

    __slots__ = ("failure", "request_count", "sequence", "settled")

    def __init__(self, *, settled: bool = False, failure: str | None = None) -> None:
        self.settled = settled
        self.failure = failure  # once settled: why it is not known what reached the medium; None: all of it did
        self.sequence = 0  # of the newest record that the commit covers
        self.request_count = 0  # how many requests wait for it


SETTLED: Final = Ticket(settled=True)


class Tickets:
    """Several tickets as one, of the drives of a lane."""

    __slots__ = ("_tickets",)

    def __init__(self, tickets: Sequence[Ticket]) -> None:
        self._tickets = tickets

    @property
    def settled(self) -> bool:
        """Whether all of them are."""
        return all(ticket.settled for ticket in self._tickets)

    @property
    def failure(self) -> str | None:
        """Of the first that failed."""
        return next((ticket.failure for ticket in self._tickets if ticket.failure is not None), None)


class Durability(Protocol):
    """What the engine asks about one drive. The lane's thread calls it."""

    @property
    def stamp(self) -> int:
        """What a record written now says of those before it; see ``segment.py``."""

    @property
    def wrote(self) -> Callable[[], None]:
        """To be called when bytes of some window have changed."""

    def join(self) -> Ticket:
        """The ticket of the commit that covers everything written so far."""

    def settle(self) -> None:
        """Settles the tickets of a commit that has ended. Cheap."""

    def begin(self) -> None:
        """Begins the next commit where somebody waits for one and none runs. Cheap."""

    def flush(self) -> None:
        """Returns when every ticket given out is settled. Waits for the drive."""

    def close(self, failure: str) -> None:
        """Begins no more commits; tickets that are still open are settled with ``failure``. Idempotent."""

    def join_thread(self) -> None:
        """After ``close``: returns when nothing touches the drive any more. Waits for the drive; any thread."""

    def usage(self) -> dict[str, Any]:
        """Counters since the start: syncs, sync_requests (frames that waited for them), sync_seconds."""


class Immediate:
    """Nobody waits: what was written outlives the process already, and the drive syncs within SYNC_INTERVAL_S."""

    stamp = 0

    def __init__(self, written: Callable[[], None]) -> None:
        self.wrote = written

    def join(self) -> Ticket:
        """One that is settled."""
        return SETTLED

    def settle(self) -> None:
        """Nothing to settle."""

    def begin(self) -> None:
        """Nothing to begin."""

    def flush(self) -> None:
        """Nothing to wait for."""

    def close(self, failure: str) -> None:
        """Nothing to end."""

    def join_thread(self) -> None:
        """There is none."""

    def usage(self) -> dict[str, Any]:
        """Zeros: the drive's own syncs serve nobody who waits."""
        return {"syncs": 0, "sync_requests": 0, "sync_seconds": 0.0}


class Groups:
    """Who waits for which commit. Pure: the caller runs them, one at a time, and says when one begins and ends.

    After one that failed nothing is durable any more: the kernel reports a lost page once, and what it lost cannot be
    told. Every later ticket fails as well.
    """

    def __init__(self) -> None:
        self.synced_sequence = 0  # every record up to here is on the medium
        self.failure: str | None = None
        self._dirty = False  # something was written since the last commit began
        self._next: Ticket | None = None
        self._running: Ticket | None = None

    @property
    def running(self) -> bool:
        """Whether a commit has begun and not ended."""
        return self._running is not None

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a commit that has not begun."""
        return self._next is not None

    def wrote(self) -> None:
        """Something was written that no commit covers yet."""
        self._dirty = True

    def join(self) -> Ticket:
        """The ticket of the commit that covers everything written so far."""
        if self.failure is not None:
            return Ticket(settled=True, failure=self.failure)
        if self._dirty:
            if self._next is None:
                self._next = Ticket()
            return self._next
        return self._next or self._running or SETTLED

    def begin(self, sequence: int) -> None:
        """A commit begins now; ``sequence`` is the newest committed record's."""
        assert self._running is None
        self._running = self._next or Ticket()
        self._running.sequence = sequence
        self._next, self._dirty = None, False

    def end(self, failure: str | None) -> Ticket:
        """The commit that runs has ended. Its ticket, settled."""
        ticket, self._running = self._running, None
        assert ticket is not None
        if failure is None and self.failure is None:
            self.synced_sequence = ticket.sequence
            ticket.settled = True
        else:
            _fail(ticket, self.failure or failure or "")
            self.fail(failure or "")
        return ticket

    def fail(self, failure: str) -> None:
        """Nothing that was not committed by now will be."""
        self.failure = self.failure or failure
        for ticket in (self._running, self._next):
            if ticket is not None:
                _fail(ticket, self.failure)
        self._next = None


def _fail(ticket: Ticket, failure: str) -> None:
    ticket.failure = ticket.failure or failure
    ticket.settled = True
