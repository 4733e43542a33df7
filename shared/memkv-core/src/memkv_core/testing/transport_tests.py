# SPDX-License-Identifier: Apache-2.0
"""What every transport must do; subclass ``TransportTests`` and fill in its hooks.

The hooks ``peek`` and ``plant`` look into the server past the transport under test (``RawClient`` does for a server
with a socket). Times here bound how long a test may hang; none decides whether it passes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core import wire
from memkv_core.calls import GetCall, KeysCall, LookupCall, PutCall
from memkv_core.errors import (
    AuthError,
    ClientClosedError,
    ConnectError,
    MemKVError,
    RefusedError,
    TransportTimeoutError,
)
from memkv_core.handshake import LANE_ANY
from memkv_core.session import Session
from memkv_core.transports.base import Route, Transport
from memkv_core.wire import ErrorCode, Opcode, Status

KEY = bytes(range(32))
NAMESPACE = "conformance"
LONG_S = 30.0

SessionFactory = Callable[[int], Session]


def new_session(lane: int) -> Session:
    """A session that the server accepts."""
    return Session.client(KEY, namespace=NAMESPACE, lane=lane, agent="conformance")


def in_time(seconds: float = LONG_S) -> float:
    """A deadline: by default one that only a hang reaches."""
    return time.monotonic() + seconds


def put_call(values: dict[bytes, Any]) -> PutCall:
    """``values`` maps keys to a buffer, or to a list of buffers for a block in parts."""
    parts = [
        [memoryview(part) for part in (value if isinstance(value, list) else [value]) if len(part)]
        for value in values.values()
    ]
    return PutCall(range(len(values)), list(values), parts, None, 0)


def get_call(targets: dict[bytes, Any]) -> GetCall:
    """``targets`` maps keys to a writable buffer, or to a list of them."""
    parts = [
        [memoryview(part) for part in (target if isinstance(target, list) else [target]) if len(part)]
        for target in targets.values()
    ]
    capacities = [sum(map(len, views)) for views in parts]
    return GetCall(range(len(targets)), list(targets), parts, capacities, with_meta=False, kind_min=0)


class TransportTests:
    """Hooks first; then what is inherited. The server accepts ``KEY`` and has one lane (or more, see ``lanes``)."""

    lanes = 1

    def start(self, path: Path) -> Any:
        """A running server, its files under ``path``."""
        raise AssertionError("TransportTests.start is a hook: fill it in")

    def stop(self, server: Any) -> None:
        """Ends the server and frees what it held; called once, also after ``kill``."""
        raise AssertionError("TransportTests.stop is a hook: fill it in")

    def address(self, server: Any) -> str:
        """What the transport knows the server by."""
        raise AssertionError("TransportTests.address is a hook: fill it in")

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        """The transport under test."""
        raise AssertionError("TransportTests.make_transport is a hook: fill it in")

    def peek(self, server: Any, lane: int, key: bytes) -> bytes | None:
        """The value stored on a lane under NAMESPACE and ``key``, not by way of the transport."""
        raise AssertionError("TransportTests.peek is a hook: fill it in")

    def plant(self, server: Any, lane: int, key: bytes, value: bytes) -> None:
        """Stores a value there, not by way of the transport."""
        raise AssertionError("TransportTests.plant is a hook: fill it in")

    def freeze(self, server: Any) -> None:
        """The server holds its connections and answers nothing, like a stopped process."""
        pytest.skip("this server cannot be frozen")

    def thaw(self, server: Any) -> None:
        """Ends ``freeze``."""

    def kill(self, server: Any) -> None:
        """The server and its connections are gone."""
        pytest.skip("this server cannot be killed")

    def revive(self, server: Any) -> None:
        """The server is back at its address with what it had stored."""
        pytest.skip("this server cannot be started again")

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[Any]:
        server = self.start(tmp_path)
        yield server
        self.stop(server)

    @pytest.fixture
    def transport(self, server: Any) -> Iterator[Transport]:
        transport = self.make_transport(server, new_session)
        yield transport
        transport.close()
        transport.close()  # idempotent

    @pytest.fixture
    def route(self, server: Any) -> Route:
        return Route(self.address(server), 0)

    # -- moving blocks --------------------------------------------------------------------------------------------
    def test_a_put_arrives_whole(self, server: Any, transport: Transport, route: Route) -> None:
        values = {b"a": b"x" * 100, b"b": b"", b"c": random.Random(1).randbytes(1 << 20), b"k" * 512: b"long key"}
        call = put_call(values)
        transport.run([(route, [call])], in_time())
        assert (call.done, call.error) == (True, None)
        assert call.statuses == bytes([Status.HIT] * 4)
        for key, value in values.items():
            assert self.peek(server, 0, key) == value

    def test_a_get_lands_in_its_targets(self, server: Any, transport: Transport, route: Route) -> None:
        value = random.Random(2).randbytes(100_000)
        self.plant(server, 0, b"a", value)
        self.plant(server, 0, b"short", b"abc")
        self.plant(server, 0, b"none", b"")
        whole, roomy = bytearray(100_000), bytearray(b"." * 10)
        parts = [bytearray(1), bytearray(70_000), bytearray(29_999)]
        targets = {b"a": whole, b"missing": bytearray(5), b"short": roomy, b"none": bytearray(4)}
        calls = [get_call(targets), get_call({b"a": parts}), get_call({b"a": bytearray(99_999)})]
        transport.run([(route, calls)], in_time())
        assert [call.error for call in calls] == [None] * 3
        assert calls[0].lengths == [100_000, None, 3, 0]
        assert (bytes(whole), bytes(roomy)) == (value, b"abc.......")
        assert (calls[1].lengths, b"".join(parts)) == ([100_000], value)
        assert (calls[2].lengths, calls[2].too_long_count) == ([None], 1)

    def test_more_parts_than_one_system_call_takes(self, server: Any, transport: Transport, route: Route) -> None:
        value = random.Random(3).randbytes(3000 * 7)
        sources = [value[at : at + 7] for at in range(0, len(value), 7)]
        call = put_call({b"parts": sources})
        transport.run([(route, [call])], in_time())
        assert self.peek(server, 0, b"parts") == value
        targets = [bytearray(5) for _ in range(len(value) // 5)]
        got = get_call({b"parts": targets})
        transport.run([(route, [got])], in_time())
        assert (got.lengths, b"".join(targets)) == ([len(value)], value)

    def test_large_frames_both_ways_at_once(self, transport: Transport, route: Route) -> None:
        """More in each direction than any socket buffer holds: a transport that only sends, then only reads, hangs."""
        values = {b"big%d" % number: random.Random(number).randbytes(8 << 20) for number in range(3)}
        targets = {key: bytearray(8 << 20) for key in values}
        puts = [put_call({key: value}) for key, value in values.items()]
        transport.run([(route, puts)], in_time())
        gets = [get_call({key: target}) for key, target in targets.items()]
        again = [put_call({key: value}) for key, value in values.items()]
        mixed = [call for pair in zip(gets, again, strict=True) for call in pair]
        transport.run([(route, mixed)], in_time())
        assert [call.error for call in mixed] == [None] * 6
        assert all(call.statuses == bytes([Status.PRESENT]) for call in again)
        assert targets == values

    def test_many_calls_are_answered_each_to_its_own(self, transport: Transport, route: Route) -> None:
        puts = [put_call({b"k%d" % number: b"v%d" % number}) for number in range(200)]
        transport.run([(route, puts)], in_time())
        targets = [bytearray(4) for _ in range(200)]
        gets = [get_call({b"k%d" % number: targets[number]}) for number in range(200)]
        exists = KeysCall(Opcode.EXISTS, range(3), [b"k0", b"none", b"k199"])
        lookup = LookupCall(range(3), [b"k0", b"k1", b"none"])
        delete = KeysCall(Opcode.DELETE, range(2), [b"k5", b"none"])
        transport.run([(route, [*gets, exists, lookup, delete])], in_time())
        assert [bytes(target).rstrip(b"\0") for target in targets] == [b"v%d" % number for number in range(200)]
        assert exists.statuses == bytes([Status.HIT, Status.MISS, Status.HIT])
        assert lookup.run == 2
        assert delete.statuses == bytes([Status.HIT, Status.MISS])

    def test_every_lane_is_its_own(self, server: Any, transport: Transport) -> None:
        address = self.address(server)
        calls = [put_call({b"k": b"lane %d" % lane}) for lane in range(self.lanes)]
        work = [(Route(address, lane), [call]) for lane, call in enumerate(calls)]
        transport.run(work, in_time())
        assert [call.error for call in calls] == [None] * self.lanes
        assert [self.peek(server, lane, b"k") for lane in range(self.lanes)] == [
            b"lane %d" % lane for lane in range(self.lanes)
        ]

    def test_threads_do_not_disturb_each_other(self, transport: Transport, route: Route) -> None:
        wrong: list[str] = []

        def work(thread: int) -> None:
            for turn in range(20):
                value = random.Random(100 * thread + turn).randbytes(5000 + thread)
                key, target = b"t%d" % thread, bytearray(6000)
                put, got = put_call({key: value}), get_call({key: target})
                transport.run([(route, [put, got])], in_time())
                if got.lengths != [len(value)] or bytes(target[: len(value)]) != value:
                    wrong.append(f"thread {thread}, turn {turn}: {put.error} {got.error}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_lanes_ping_and_regions(self, server: Any, transport: Transport) -> None:
        address = self.address(server)
        assert transport.lane_counts([address], in_time()) == {address: self.lanes}
        assert transport.lane_counts([], in_time()) == {}
        assert transport.ping(address, in_time()) is None
        region = transport.register(memoryview(bytearray(4096)))
        assert region.size_bytes == 4096
        region.close()

    # -- what goes wrong ------------------------------------------------------------------------------------------
    def test_a_refused_request_leaves_the_others_alone(self, transport: Transport, route: Route) -> None:
        odd = KeysCall(Opcode.EXISTS, range(1), [b"k"])
        odd.opcode = 0x7F
        calls = [put_call({b"a": b"1"}), odd, put_call({b"b": b"2"})]
        transport.run([(route, calls)], in_time())
        assert [call.done for call in calls] == [True, False, True]
        assert isinstance(odd.error, RefusedError)
        assert odd.error.code == ErrorCode.UNSUPPORTED_OPCODE

    def test_another_key_gets_nothing(self, server: Any) -> None:
        self.plant(server, 0, b"a", b"secret")
        stranger = self.make_transport(
            server, lambda lane: Session.client(bytes(32), namespace=NAMESPACE, lane=lane, agent="stranger")
        )
        address, target = self.address(server), bytearray(10)
        calls = [get_call({b"a": target}), KeysCall(Opcode.EXISTS, range(1), [b"a"]), put_call({b"a": b"worse"})]
        try:
            assert isinstance(stranger.lane_counts([address], in_time())[address], RefusedError | AuthError)
            stranger.run([(Route(address, 0), calls)], in_time())
        finally:
            stranger.close()
        assert [call.done for call in calls] == [False] * 3
        assert all(isinstance(call.error, RefusedError | AuthError) for call in calls)
        assert bytes(target) == bytes(10)
        assert self.peek(server, 0, b"a") == b"secret"

    def test_another_identity_is_refused(self, server: Any, transport: Transport, route: Route) -> None:
        transport.run([(route, [put_call({b"a": b"1"})])], in_time())
        other = self.make_transport(
            server, lambda lane: Session.client(KEY, namespace=NAMESPACE, identity=b'{"dtype":"x"}', lane=lane)
        )
        call = get_call({b"a": bytearray(10)})
        try:
            other.run([(route, [call])], in_time())
        finally:
            other.close()
        assert isinstance(call.error, RefusedError)
        assert call.error.code == ErrorCode.IDENTITY_MISMATCH

    def test_nobody_there(self, server: Any, transport: Transport, route: Route) -> None:
        self.kill(server)
        call = put_call({b"a": b"1"})
        transport.run([(route, [call])], in_time())
        assert isinstance(call.error, MemKVError)
        assert isinstance(transport.ping(route.server, in_time()), ConnectError)
        assert isinstance(
            self.make_transport(server, new_session).lane_counts([route.server], in_time())[route.server], ConnectError
        )

    def test_a_server_that_comes_back(self, server: Any, transport: Transport, route: Route) -> None:
        transport.run([(route, [put_call({b"a": b"kept"})])], in_time())
        self.kill(server)
        transport.run([(route, [put_call({b"b": b"lost"})])], in_time())
        self.revive(server)
        assert transport.ping(route.server, in_time()) is None
        target = bytearray(10)
        call = get_call({b"a": target})
        transport.run([(route, [call])], in_time())
        assert (call.error, call.lengths) == (None, [4])

    def test_an_idle_connection_that_was_cut_costs_nothing(
        self, server: Any, transport: Transport, route: Route
    ) -> None:
        transport.run([(route, [put_call({b"a": b"kept"})])], in_time())
        self.kill(server)
        self.revive(server)
        call = get_call({b"a": bytearray(10)})
        transport.run([(route, [call])], in_time())
        assert (call.error, call.lengths) == (None, [4])

    def test_the_deadline_and_the_fence(self, server: Any, transport: Transport, route: Route) -> None:
        value = random.Random(4).randbytes(4 << 20)
        self.plant(server, 0, b"a", value)
        transport.run([(route, [get_call({b"a": bytearray(len(value))})])], in_time())  # connected, warm
        self.freeze(server)
        target = bytearray(len(value))
        calls = [get_call({b"a": target}), put_call({b"late": b"1"})]
        transport.run([(route, calls)], in_time(0.3))
        assert [call.done for call in calls] == [False, False]
        assert all(isinstance(call.error, TransportTimeoutError) for call in calls)
        target[:] = b"\x55" * len(target)  # the caller's again
        self.thaw(server)
        again = bytearray(len(value))
        call = get_call({b"a": again})
        transport.run([(route, [call])], in_time())
        assert call.lengths == [len(value)]
        assert bytes(again) == value
        assert target.count(b"\x55") == len(target), "a late byte landed"

    def test_a_frozen_server_at_the_first_call(self, server: Any) -> None:
        self.freeze(server)
        transport = self.make_transport(server, new_session)
        address = self.address(server)
        try:
            assert isinstance(transport.lane_counts([address], in_time(0.3))[address], TransportTimeoutError)
            call = put_call({b"a": b"1"})
            transport.run([(Route(address, 0), [call])], in_time(0.3))
            assert isinstance(call.error, TransportTimeoutError)
        finally:
            self.thaw(server)
            transport.close()

    def test_an_error_while_a_response_is_taken(self, server: Any, transport: Transport, route: Route) -> None:
        """A call that rejects its response (it does not fit the request) fails alone; the next one works."""
        self.plant(server, 0, b"a", b"1234")

        class Picky(GetCall):
            def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
                raise ConnectError("picky")

        call = Picky(range(1), [b"a"], [[memoryview(bytearray(4))]], [4], with_meta=False, kind_min=0)
        transport.run([(route, [call])], in_time())
        assert str(call.error) == "picky"
        following = get_call({b"a": bytearray(4)})
        transport.run([(route, [following])], in_time())
        assert following.lengths == [4]

    def test_after_close_calls_fail_at_once(self, transport: Transport, route: Route) -> None:
        transport.run([(route, [put_call({b"a": b"1"})])], in_time())
        transport.close()
        call = put_call({b"a": b"1"})
        transport.run([(route, [call])], in_time())
        assert isinstance(call.error, ClientClosedError)

    def test_any_lane_is_for_counting_only(self, server: Any, transport: Transport) -> None:
        """A session that named no lane lands on one of them, and says which."""
        address = self.address(server)
        call = KeysCall(Opcode.EXISTS, range(1), [b"none"])
        transport.run([(Route(address, LANE_ANY), [call])], in_time())
        assert (call.error, call.statuses) == (None, bytes([Status.MISS]))
