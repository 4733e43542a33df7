# SPDX-License-Identifier: Apache-2.0
"""How a drive is doing: online, then read-only, then offline. Counts in, a state out; no device in sight.

::

    ONLINE ──a write failed, or READ_ERRORS_READ_ONLY reads──► READ_ONLY ──READ_ERRORS_OFFLINE reads──► OFFLINE

Nothing leads back from here: a drive that is put back is opened anew, and with it begins a new health.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from memkv_server.engine.limits import READ_ERRORS_OFFLINE, READ_ERRORS_READ_ONLY


class DriveState(str, Enum):
    """What a drive is good for."""

    ONLINE = "online"
    READ_ONLY = "read-only"
    OFFLINE = "offline"


_RANK: Final = {state: rank for rank, state in enumerate(DriveState)}


class DriveHealth:
    """The state of one drive. ``state`` and ``failure`` may be read by any thread; each change is one assignment."""

    __slots__ = ("failure", "read_errors", "state", "write_errors")

    def __init__(self) -> None:
        self.state = DriveState.ONLINE
        self.failure: str | None = None  # why it is not online, for the operator
        self.read_errors = 0
        self.write_errors = 0

    def read_failed(self, reason: str) -> None:
        """A value could not be read."""
        self.read_errors += 1
        if self.read_errors >= READ_ERRORS_OFFLINE:
            self._fall(DriveState.OFFLINE, reason)
        elif self.read_errors >= READ_ERRORS_READ_ONLY:
            self._fall(DriveState.READ_ONLY, reason)

    def write_failed(self, reason: str) -> None:
        """Bytes did not reach the medium: what it still holds can be read, and nothing more is written to it."""
        self.write_errors += 1
        self._fall(DriveState.READ_ONLY, reason)

    def _fall(self, state: DriveState, reason: str) -> None:
        if _RANK[state] > _RANK[self.state]:
            self.failure = reason
            self.state = state
