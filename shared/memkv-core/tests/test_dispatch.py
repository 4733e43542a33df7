# SPDX-License-Identifier: Apache-2.0
"""The dispatcher over a transport that does what a test says; no socket, no server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest

from memkv_core import dispatch, limits, router
from memkv_core.buffers import Region
from memkv_core.calls import KeysCall
from memkv_core.dispatch import Dispatcher
from memkv_core.errors import (
    AuthError,
    ConnectError,
    DisconnectedError,
    MemKVError,
    RefusedError,
    RemoteProtocolError,
    TransportTimeoutError,
)
from memkv_core.fleet import Fleet
from memkv_core.router import KeyHashes, Router
from memkv_core.transports.base import Call, Route
from memkv_core.wire import ErrorCode, Opcode, Status

SERVERS = ["a:9900", "b:9900"]
KEYS = [b"key-%d" % number for number in range(40)]
HASHES = [router.key_hash(key, router.namespace_seed("n")) for key in KEYS]


@dataclass
class ScriptedTransport:
    """Fails calls to a server with the next error of its list; None, or nothing left, is success."""

    moves = None
    lanes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SERVERS, 1))
    first_contact: dict[str, list[MemKVError | None]] = field(default_factory=dict)
    errors: dict[str, list[MemKVError | None]] = field(default_factory=dict)
    asked: list[tuple[Route, int]] = field(default_factory=list)  # every call that was run, and its keys
    contact_deadlines_s: list[float] = field(default_factory=list)
    name: str = "scripted"

    def rail_of(self, server: str) -> str | None:
        return None

    def lane_counts(self, servers: Sequence[str], deadline_s: float) -> dict[str, int | MemKVError]:
        self.contact_deadlines_s.append(deadline_s)
        return {server: self._next(self.first_contact, server) or self.lanes[server] for server in servers}

    def frame_bytes(self, server: str) -> int:
        return limits.FRAME_PAYLOAD_BYTES_TARGET

    def run(self, work: Sequence[tuple[Route, Sequence[Call]]], deadline_s: float) -> None:
        for route, calls in work:
            error = self._next(self.errors, route.server)
            for call in calls:
                self.asked.append((route, call.key_count))
                call.error = error
                call.done = error is None
                assert isinstance(call, KeysCall)
                call.statuses = bytes([Status.HIT] * call.key_count)

    @staticmethod
    def _next(script: dict[str, list[MemKVError | None]], server: str) -> MemKVError | None:
        left = script.get(server)
        return left.pop(0) if left else None

    def ping(self, server: str, deadline_s: float) -> MemKVError | None:
        return ConnectError("down")

    def register(self, view: memoryview) -> Region:
        return Region(view)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_BACKOFF_S", (0.0, 0.001))


@pytest.fixture
def transport() -> ScriptedTransport:
    return ScriptedTransport()


@pytest.fixture
def fleet(transport: ScriptedTransport) -> Iterator[Fleet]:
    fleet = Fleet(SERVERS, transport.ping)
    yield fleet
    fleet.close()


Run = Callable[..., tuple[list[KeysCall], dict[int, str], int]]


@pytest.fixture
def run(transport: ScriptedTransport, fleet: Fleet) -> Run:
    def work(
        positions: Sequence[int] = range(len(KEYS)), *, servers: list[str] = SERVERS, order: int = 0, replicas: int = 1
    ) -> tuple[list[KeysCall], dict[int, str], int]:
        dispatcher = Dispatcher(routed(*servers, replicas=replicas), fleet, transport)
        return dispatcher.run(
            lambda share: KeysCall(Opcode.EXISTS, share, [KEYS[position] for position in share]),
            positions,
            KeyHashes(KEYS, router.namespace_seed("n")),
            None,
            time.monotonic() + 20,
            order=order,
        )

    return work


def done_positions(done: Sequence[KeysCall]) -> list[int]:
    return sorted(position for call in done for position in call.positions)


@cache
def routed(*servers: str, replicas: int = 1) -> Router:
    return Router(servers, replicas=replicas)


def home(order: int = 0) -> list[str]:
    return [SERVERS[index] for index in routed(*SERVERS, replicas=2).place(HASHES, order)]


def test_every_position_goes_to_its_server_once(run: Run, transport: ScriptedTransport) -> None:
    done, failed, retries = run()
    assert done_positions(done) == list(range(len(KEYS)))
    assert (failed, retries) == ({}, 0)
    for call, (route, _) in zip(done, transport.asked):
        assert {home()[position] for position in call.positions} == {route.server}
        assert call.keys == [KEYS[position] for position in call.positions]


def test_some_positions_and_another_replica(run: Run, transport: ScriptedTransport) -> None:
    done, _, _ = run([3, 5, 8], order=1, replicas=2)
    assert done_positions(done) == [3, 5, 8]
    for call, (route, _) in zip(done, transport.asked):
        assert {home(1)[position] for position in call.positions} == {route.server}


def test_lanes(run: Run, transport: ScriptedTransport) -> None:
    transport.lanes = {"a:9900": 3, "b:9900": 1}
    done, _, _ = run()
    assert done_positions(done) == list(range(len(KEYS)))
    lanes = router.lanes_of(HASHES, 3)
    for call, (route, _) in zip(done, transport.asked):
        expected = {lanes[position] for position in call.positions} if route.server == "a:9900" else {0}
        assert {route.lane} == expected
    assert {route for route, _ in transport.asked} == {
        Route("a:9900", 0),
        Route("a:9900", 1),
        Route("a:9900", 2),
        Route("b:9900", 0),
    }


def test_frames(fleet: Fleet, transport: ScriptedTransport) -> None:
    count = limits.FRAME_KEYS_MAX + 1
    done, failed, _ = Dispatcher(routed("a:9900"), fleet, transport).run(
        lambda share: KeysCall(Opcode.EXISTS, share, [b"k"] * len(share)),
        range(count),
        None,
        None,
        time.monotonic() + 20,
    )
    assert [call.key_count for call in done] == [limits.FRAME_KEYS_MAX, 1]
    assert (failed, done_positions(done)) == ({}, list(range(count)))


def test_nothing_to_do_asks_nobody(run: Run, transport: ScriptedTransport, fleet: Fleet) -> None:
    transport.first_contact = {"a:9900": [ConnectError("down")]}
    for servers in (["a:9900"], SERVERS):
        assert run([], servers=servers) == ([], {}, 0)
    assert (transport.asked, transport.contact_deadlines_s) == ([], [])


@pytest.mark.parametrize("error", [ConnectError("refused"), DisconnectedError("lost")], ids=str)
@pytest.mark.parametrize("where", ["errors", "first_contact"])
def test_what_may_pass_is_tried_again(run: Run, transport: ScriptedTransport, where: str, error: MemKVError) -> None:
    setattr(transport, where, {"a:9900": [error, error]})
    done, failed, retries = run()
    assert done_positions(done) == list(range(len(KEYS)))
    assert (failed, retries) == ({}, 2)
    of_b = [count for route, count in transport.asked if route.server == "b:9900"]
    assert of_b == [home().count("b:9900")], "what was done is not done again"


@pytest.mark.parametrize("where", ["errors", "first_contact"])
def test_a_refusing_server_is_left_alone_after_three_tries(
    run: Run, transport: ScriptedTransport, fleet: Fleet, where: str
) -> None:
    setattr(transport, where, {"a:9900": [ConnectError("refused") for _ in range(9)]})
    done, failed, retries = run()
    assert {home()[position] for position in failed} == {"a:9900"}
    assert set(failed.values()) == {"unreachable"}
    assert done_positions(done) == [at for at, server in enumerate(home()) if server == "b:9900"]
    assert retries == 2
    assert not fleet.allows("a:9900")
    transport.asked.clear()
    done, failed, retries = run()
    assert {route.server for route, _ in transport.asked} == {"b:9900"}
    assert (set(failed.values()), retries) == ({"unreachable"}, 0)


@pytest.mark.parametrize(
    ("error", "cause", "opens"),
    [
        (TransportTimeoutError("spent"), "timeout", True),
        (AuthError("proof"), "refused", True),
        (RemoteProtocolError("HTTP"), "unreachable", False),
        (RefusedError(ErrorCode.AUTH_FAILED, "unknown key"), "refused", True),
        (RefusedError(ErrorCode.IDENTITY_MISMATCH, "other identity"), "refused", True),
        (RefusedError(ErrorCode.DRAINING, "going down"), "refused", True),
        (RefusedError(ErrorCode.STORAGE, "the drive failed"), "refused", False),
        (RefusedError(ErrorCode.UNSUPPORTED_OPCODE, "0x15"), "refused", False),
        (RefusedError(ErrorCode.LIMIT_EXCEEDED, "too large"), "refused", False),
    ],
    ids=str,
)
def test_what_would_not_pass_is_not_tried_again(
    run: Run, transport: ScriptedTransport, fleet: Fleet, error: MemKVError, cause: str, opens: bool
) -> None:
    transport.errors = {"a:9900": [error]}
    _, failed, retries = run()
    assert {home()[position] for position in failed} == {"a:9900"}
    assert (set(failed.values()), retries) == ({cause}, 0)
    assert fleet.allows("a:9900") is not opens


def test_the_first_contact_leaves_time_for_the_others(run: Run, transport: ScriptedTransport) -> None:
    started_s = time.monotonic()
    run()
    run(servers=["a:9900"], positions=[0])
    both, alone = transport.contact_deadlines_s
    assert both - started_s < 15
    assert alone - started_s >= 20


def test_a_deadline_that_has_passed_ends_the_retries(transport: ScriptedTransport, fleet: Fleet) -> None:
    transport.errors = {"a:9900": [DisconnectedError("lost")]}
    started_s = time.monotonic()
    dispatcher = Dispatcher(routed("a:9900"), fleet, transport)
    done, failed, retries = dispatcher.run(
        lambda share: KeysCall(Opcode.EXISTS, share, [KEYS[0]]), [0], None, None, started_s
    )
    assert (done, failed, retries) == ([], {0: "unreachable"}, 0)
