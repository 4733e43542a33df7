# SPDX-License-Identifier: Apache-2.0
"""The seam between the client and a network: what a transport implements, and all that it may know of a call.

A transport moves frames and payloads. It neither reads a payload nor knows what an operation means: a ``Call`` says
what to send, where the response's payload goes, and what to do as it lands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from memkv_core import wire
from memkv_core.buffers import Region
from memkv_core.errors import MemKVError


class Route(NamedTuple):
    """Where a call goes: a server ("host:port") and one of its lanes."""

    server: str
    lane: int


class Call(Protocol):
    """One request frame and its response. Used by one thread at a time.

    A transport may start a call over on a new connection as long as ``started`` is False: nothing of the response has
    been seen. After ``run`` either ``done`` is True or ``error`` says why not.
    """

    opcode: int
    flags: int
    kind: int
    key_count: int
    sources: list[memoryview]  # the request's payload, gathered; not altered by the transport
    blocks: Sequence[list[memoryview]] | None  # the memory of each key that its value comes from (PUT) or goes to (GET)
    payload_bytes: int
    response_metadata_bytes: int  # of a plain success: a hint that saves a system call; nothing depends on it
    descriptor: int | None  # goes along with the request, over a Unix socket
    started: bool
    done: bool
    error: MemKVError | None

    @property
    def metadata(self) -> bytes:
        """The request's metadata; asked for once, when the request is about to be sent."""

    def metadata_while(self, read: Callable[[int, int], None]) -> bytes:
        """As ``metadata``, of a request with values: ``read(first, end)`` is called for the blocks from one place to
        another once each, in order, right after their bytes were read here: they are in the cache."""

    def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
        """Takes a verified response and returns where its payload goes, exactly ``header.payload_bytes`` in all.

        Raises RemoteProtocolError for a response that does not fit the request.
        """

    def landed(self, received_bytes: int) -> None:
        """The first ``received_bytes`` of the payload are in place. Called as it grows, lastly with all of it."""


# Why a call's payload goes by TCP: there is no path to its server for now; what the server moved did not come about;
# the server takes no such frame; no staging slots are free; the blocks are in too many parts.
FALLBACK_CAUSES: Final = ("no path", "move failed", "refused", "staging", "parts")


@dataclass
class MoveCounts:
    """What a transport whose servers move the payload counted since it started.

    ``fallbacks`` is by cause: calls whose payload went by TCP after all.
    """

    registered_bytes: int = 0  # moved from or to registered memory: no copy was made here
    staged_bytes: int = 0  # went through the staging: one copy
    calls: int = 0  # with a payload
    fallbacks: Counter[str] = field(default_factory=Counter)


class Transport(Protocol):
    """Carries calls to servers. Thread-safe: several threads may ``run`` at once."""

    name: str

    @property
    def moves(self) -> MoveCounts | None:
        """What it counted of payload that servers move; None: its servers do not."""

    def rail_of(self, server: str) -> str | None:
        """The local device that a server is reached over; None where the host's routing decides."""

    def lane_counts(self, servers: Sequence[str], deadline_s: float) -> dict[str, int | MemKVError]:
        """The number of lanes of each server, learned from its WELCOME and cached, or why no session can be had."""

    def frame_bytes(self, server: str) -> int:
        """About how many bytes of values a call to this server should have at most, for its parts to overlap."""

    def run(self, work: Sequence[tuple[Route, Sequence[Call]]], deadline_s: float) -> None:
        """Runs all calls, those of different routes at the same time, until each is done, failed, or time is up.

        Returns by ``deadline_s`` (``time.monotonic``) and raises nothing for what a network or a server does: the
        failure stands in ``call.error``. **When it returns no byte can land in a target any more** (the fence).
        """

    def ping(self, server: str, deadline_s: float) -> MemKVError | None:
        """One round trip on a fresh session; None when it was answered."""

    def register(self, view: memoryview) -> Region:
        """Registers long-lived memory where the transport gains by it."""

    def close(self) -> None:
        """Ends every connection; calls that run in other threads fail soon. Idempotent."""
