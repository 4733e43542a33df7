# SPDX-License-Identifier: Apache-2.0
"""From a batch to calls on routes and back: placement, fan-out, retries within the deadline. No payload, no socket."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from memkv_core.arguments import cut
from memkv_core.calls import KeysCall
from memkv_core.errors import ConnectError, DisconnectedError, MemKVError, RefusedError, TransportTimeoutError
from memkv_core.estimates import Estimates
from memkv_core.fleet import Fleet
from memkv_core.guard import cause_of
from memkv_core.router import KeyHashes, Router, lanes_of
from memkv_core.transports.base import Route, Transport
from memkv_core.wire import ErrorCode, Opcode

C = TypeVar("C", bound=KeysCall)  # a KeysCall is a transports.base.Call
Make = Callable[[Sequence[int]], C]  # positions in the batch -> a call for them

_RETRIES: Final = 2
_BACKOFF_S: Final = (0.02, 0.1)
_WORTH_A_RETRY: Final = (ConnectError, DisconnectedError)
_SESSION_REFUSALS: Final = frozenset(
    {ErrorCode.AUTH_FAILED, ErrorCode.UNSUPPORTED_VERSION, ErrorCode.IDENTITY_MISMATCH, ErrorCode.DRAINING}
)


_TEACH: Final = frozenset({Opcode.GET, Opcode.EXISTS, Opcode.LOOKUP})  # how long a get takes


def _moved_bytes(call: KeysCall) -> int:
    """What a call moved; all that it might have, where time was up first: it takes that long at least."""
    return getattr(call, "received_bytes", 0) if call.done else call.expected_bytes


def _cause(error: MemKVError | None) -> str:
    return "unreachable" if error is None else cause_of(error)


class Dispatcher:
    """Runs batches for one client. Thread-safe; every method returns by ``deadline_s``."""

    def __init__(self, router: Router, fleet: Fleet, transport: Transport, estimates: Estimates | None = None) -> None:
        self._router = router
        self._fleet = fleet
        self._transport = transport
        self._estimates = estimates
        self._first_lanes = {server: Route(server, 0) for server in router.servers}

    def run(
        self,
        make: Make[C],
        positions: Sequence[int],
        hashes: KeyHashes | None,
        sizes: Sequence[int] | None,
        deadline_s: float,
        *,
        order: int = 0,
    ) -> tuple[list[C], dict[int, str], int]:
        """Runs ``positions`` of a batch on the ``order``-th server of each key.

        ``hashes`` and ``sizes`` are by position in the whole batch; hashes may be None with one server.
        Returns (the calls that were done, the failed positions with their cause, how many retries there were).
        """
        done: list[C] = []
        failed: dict[int, str] = {}
        if not positions:
            return done, failed, 0
        started_s = time.monotonic()
        for attempt in range(_RETRIES + 1):
            retry: list[int] = []
            work = self._work(make, positions, hashes, sizes, deadline_s, order, failed, retry)
            if work:
                self._run(work, deadline_s)
            self._settle(work, done, failed, retry, deadline_s - started_s)
            if not retry or attempt == _RETRIES:
                break
            pause_s = random.uniform(*_BACKOFF_S) * (attempt + 1)
            if time.monotonic() + pause_s >= deadline_s:
                break
            time.sleep(pause_s)
            positions = retry
        return done, failed, attempt

    def _run(self, work: Sequence[tuple[Route, Sequence[C]]], deadline_s: float) -> None:
        """Has the transport run the calls, and learns from how long they took."""
        estimates = self._estimates
        if estimates is None:
            self._transport.run(work, deadline_s)
            return
        if len(work) == 1 and len(work[0][1]) == 1 and not work[0][1][0].expected_bytes:
            self._run_small(work, deadline_s, estimates)
            return
        by_server: dict[str, list[C]] = {}
        for route, calls in work:
            by_server.setdefault(route.server, []).extend(calls)
        expected = {server: sum(call.expected_bytes for call in calls) for server, calls in by_server.items()}
        began_s = time.monotonic()
        ahead = estimates.begin(expected)
        try:
            self._transport.run(work, deadline_s)
        finally:
            estimates.end(expected)
        now_s = time.monotonic()
        for server, calls in by_server.items():
            if calls[0].opcode in _TEACH:
                moved = sum(_moved_bytes(call) for call in calls)
                ended_s = max(call.ended_s if call.done and call.ended_s else now_s for call in calls)
                if all(call.done or isinstance(call.error, TransportTimeoutError) for call in calls):
                    estimates.observe(server, moved, ahead[server], max(ended_s - began_s, 0.0), now_s)

    def _run_small(self, work: Sequence[tuple[Route, Sequence[C]]], deadline_s: float, estimates: Estimates) -> None:
        """A question for a few keys: microseconds count, so it is learned from in the cheapest way."""
        route, (call,) = work[0]
        began_s = time.monotonic()
        self._transport.run(work, deadline_s)
        if call.done and call.ended_s and call.opcode in _TEACH:
            estimates.observe_small(route.server, call.ended_s - began_s)

    def _work(
        self,
        make: Make[C],
        positions: Sequence[int],
        hashes: KeyHashes | None,
        sizes: Sequence[int] | None,
        deadline_s: float,
        order: int,
        failed: dict[int, str],
        retry: list[int],
    ) -> list[tuple[Route, list[C]]]:
        routed = self._route(positions, hashes, deadline_s, order, failed, retry)
        frame_bytes = self._transport.frame_bytes
        return [
            (route, [make(frame) for frame in cut(share, sizes, frame_bytes(route.server))])
            for route, share in routed.items()
        ]

    def _route(
        self,
        positions: Sequence[int],
        hashes: KeyHashes | None,
        deadline_s: float,
        order: int,
        failed: dict[int, str],
        retry: list[int],
    ) -> dict[Route, Sequence[int]]:
        shares = self._by_server(positions, hashes, order)
        for server in list(shares):
            if not self._fleet.allows(server):
                cause = _cause(self._fleet.cause(server))
                failed.update(dict.fromkeys(shares.pop(server), cause))
        timeout_s = deadline_s - time.monotonic()
        if len(shares) > 1:
            timeout_s /= 2  # a server that says nothing at the first contact leaves time to ask the others
        counts = self._transport.lane_counts(list(shares), time.monotonic() + timeout_s)
        routed: dict[Route, Sequence[int]] = {}
        for server, share in shares.items():
            count = counts[server]
            if isinstance(count, MemKVError):
                self._fleet.failure(server, count, timeout_s)
                failed.update(dict.fromkeys(share, cause_of(count)))
                if isinstance(count, _WORTH_A_RETRY):
                    retry.extend(share)
            elif count == 1:
                routed[self._first_lanes[server]] = share
            else:
                assert hashes is not None
                for position, lane in zip(share, lanes_of(hashes.at(share), count)):
                    routed.setdefault(Route(server, lane), []).append(position)  # type: ignore[attr-defined]
        return routed

    def _by_server(self, positions: Sequence[int], hashes: KeyHashes | None, order: int) -> dict[str, Sequence[int]]:
        servers = self._router.servers
        if len(servers) == 1:
            return {servers[0]: positions}
        assert hashes is not None
        shares: dict[str, list[int]] = {}
        for position, index in zip(positions, self._router.place(hashes.at(positions), order)):
            shares.setdefault(servers[index], []).append(position)
        return dict(shares)

    def _settle(
        self,
        work: Sequence[tuple[Route, Sequence[C]]],
        done: list[C],
        failed: dict[int, str],
        retry: list[int],
        timeout_s: float,
    ) -> None:
        """Sorts calls into done, failed and those worth another try; tells the breakers."""
        for route, calls in work:
            worst: MemKVError | None = None
            for call in calls:
                if call.done:
                    done.append(call)
                    if failed:  # by an earlier attempt
                        for position in call.positions:
                            failed.pop(position, None)
                    continue
                failed.update(dict.fromkeys(call.positions, _cause(call.error)))
                worst = call.error
                if isinstance(call.error, _WORTH_A_RETRY):
                    retry.extend(call.positions)
            if worst is None:
                self._fleet.success(route.server)
            elif not isinstance(worst, RefusedError) or worst.code in _SESSION_REFUSALS:
                self._fleet.failure(route.server, worst, timeout_s)
