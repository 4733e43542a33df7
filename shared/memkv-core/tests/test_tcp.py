# SPDX-License-Identifier: Apache-2.0
"""What the TCP transport does with connections; ``test_conformance`` has what every transport must do."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from memkv_core.buffers import Region
from memkv_core.calls import GetCall, KeysCall, PutCall
from memkv_core.errors import (
    ConnectError,
    InvalidArgumentError,
    PoolTimeoutError,
    TransportTimeoutError,
)
from memkv_core.handshake import LANE_ANY
from memkv_core.session import Session
from memkv_core.testing.socket_server import SocketServer
from memkv_core.transports.base import Route
from memkv_core.transports.flow import Flow
from memkv_core.transports.tcp import TCPTransport
from memkv_core.wire import Opcode, Status

KEY = bytes(range(32))
LATEST_S = 5.0


def new_session(lane: int) -> Session:
    return Session.client(KEY, namespace="default", lane=lane, agent="tests")


def in_time(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def ask() -> KeysCall:
    return KeysCall(Opcode.EXISTS, range(1), [b"k"])


@pytest.fixture
def server() -> Iterator[SocketServer]:
    with SocketServer([KEY], lanes=2) as server:
        yield server


@pytest.fixture
def other() -> Iterator[SocketServer]:
    with SocketServer([KEY]) as server:
        yield server


@pytest.fixture
def transport() -> Iterator[TCPTransport]:
    transport = TCPTransport(new_session, connections=1)
    yield transport
    transport.close()


# -- the deadline -----------------------------------------------------------------------------------------------------
class EndlessFlow:
    """A connection that always has something to read, and is never done."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.open = True
        self.sock, self._peer = socket.socketpair()
        self._peer.send(b"x")

    def fileno(self) -> int:
        return self.sock.fileno()

    def exchange(self, calls: object) -> Iterator[int]:
        while True:
            yield select.POLLIN

    def close(self) -> None:
        self.open = False
        self.sock.close()
        self._peer.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_peer_that_never_stops_does_not_outlast_the_deadline(transport: TCPTransport, count: int) -> None:
    routes = [Route(f"endless-{number}:9900", 0) for number in range(count)]
    flows = [EndlessFlow(route) for route in routes]
    for flow in flows:
        transport._pool._idle[flow.route].append(cast("Flow", flow))
    calls = [ask() for _ in routes]
    started_s = time.monotonic()
    transport.run([(route, [call]) for route, call in zip(routes, calls)], in_time(0.2))
    assert time.monotonic() - started_s < LATEST_S
    assert all(type(call.error) is TransportTimeoutError for call in calls)
    assert not any(flow.open for flow in flows)


def test_a_deadline_that_has_passed(transport: TCPTransport, server: SocketServer, other: SocketServer) -> None:
    routes = [Route(server.address, 0), Route(other.address, 0)]
    for work in ([routes[0]], routes):
        calls = [ask() for _ in work]
        transport.run([(route, [call]) for route, call in zip(work, calls)], time.monotonic() - 1)
        assert all(isinstance(call.error, TransportTimeoutError) for call in calls)
        transport.run([(route, [call]) for route, call in zip(work, calls)], in_time())
        assert all(call.done for call in calls)


# -- the pool ---------------------------------------------------------------------------------------------------------
def test_a_busy_route_does_not_hold_up_another(
    transport: TCPTransport, server: SocketServer, other: SocketServer
) -> None:
    """Whichever comes first; and the wait says that it is this client's connections that were busy."""
    busy, free = Route(server.address, 0), Route(other.address, 0)
    assert transport._pool.acquire(busy) == (True, None)
    for order in ([busy, free], [free, busy]):
        calls = {route: ask() for route in order}
        transport.run([(route, [calls[route]]) for route in order], in_time(0.2))
        assert type(calls[busy].error) is PoolTimeoutError
        assert calls[free].done
    alone = ask()
    transport.run([(busy, [alone])], in_time(0.05))
    assert type(alone.error) is PoolTimeoutError
    transport._pool.release(busy, None)
    transport.run([(busy, [alone])], in_time())
    assert alone.done


@pytest.mark.parametrize("others", [0, 1])
def test_a_place_that_becomes_free_is_taken(
    transport: TCPTransport, server: SocketServer, other: SocketServer, others: int
) -> None:
    busy = Route(server.address, 0)
    assert transport._pool.acquire(busy) == (True, None)
    calls = [ask() for _ in range(1 + others)]
    work = [(route, [call]) for route, call in zip([busy, Route(other.address, 0)], calls)]
    thread = threading.Thread(target=transport.run, args=(work, in_time()))
    thread.start()
    while not transport._pool._waiting:
        time.sleep(0.001)
    transport._pool.release(busy, None)
    thread.join()
    assert all(call.done for call in calls)


def test_two_that_want_the_same_in_opposite_order(
    transport: TCPTransport, server: SocketServer, other: SocketServer
) -> None:
    routes = [Route(server.address, 0), Route(other.address, 0)]
    failed: list[object] = []

    def work(order: list[Route]) -> None:
        for _ in range(50):
            calls = [ask() for _ in order]
            transport.run([(route, [call]) for route, call in zip(order, calls)], in_time())
            failed.extend(call.error for call in calls if not call.done)

    threads = [threading.Thread(target=work, args=(order,)) for order in (routes, routes[::-1], routes, routes[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(server._open) == len(other._open) == 1


def test_a_task_with_nothing_left_to_do_holds_no_place(
    transport: TCPTransport, server: SocketServer, other: SocketServer, eventually: Callable[..., None]
) -> None:
    """It had to wait for a place, and then found that another thread had asked; its fellow task waits on."""
    answered, busy = Route(server.address, LANE_ANY), Route(other.address, LANE_ANY)

    class KnownAtTheSecondLook(dict[str, int]):
        looks = 0

        def get(self, key: str, default: Any = None) -> Any:
            self.looks += 1
            return super().get(key, default) if self.looks > 2 else None

    transport._lane_counts = KnownAtTheSecondLook({server.address: 2})
    assert transport._pool.acquire(busy) == (True, None)
    counts: list[Any] = []
    thread = threading.Thread(
        target=lambda: counts.append(transport.lane_counts([server.address, other.address], in_time()))
    )
    thread.start()
    eventually(lambda: transport._pool._waiting and not transport._pool._taken[answered])
    transport._pool.release(busy, None)
    thread.join()
    assert counts == [{server.address: 2, other.address: 1}]


@pytest.mark.parametrize("connections", [1, 3])
def test_threads_that_meet_a_server_at_once_keep_the_bound(server: SocketServer, connections: int) -> None:
    transport = TCPTransport(new_session, connections=connections)
    ready = threading.Barrier(12)
    counts: list[object] = []

    def work() -> None:
        ready.wait()
        counts.append(transport.lane_counts([server.address], in_time())[server.address])
        call = ask()
        transport.run([(Route(server.address, 0), [call])], in_time())
        assert call.done

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [2] * 12
    idle = sum(map(len, transport._pool._idle.values()))
    assert 1 <= idle <= 2 * connections
    transport.close()


# -- exceptions in the middle -----------------------------------------------------------------------------------------
class Broken(GetCall):
    """A call that raises something that is no error of a connection while its payload lands."""

    def __init__(self, error: BaseException) -> None:
        self.target = bytearray(10)
        super().__init__(range(1), [b"k"], [[memoryview(self.target)]], [10], with_meta=False, kind_min=0)
        self._error = error

    def landed(self, received_bytes: int) -> None:
        raise self._error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug"), InvalidArgumentError("wrong")], ids=repr)
def test_a_connection_that_was_left_half_way_is_not_used_again(
    transport: TCPTransport, server: SocketServer, other: SocketServer, error: BaseException
) -> None:
    route = Route(server.address, 0)
    put = PutCall(range(1), [b"k"], [[memoryview(b"0123456789")]], None, 0)
    transport.run([(route, [put])], in_time())
    assert put.done
    for work in ([route], [route, Route(other.address, 0)]):
        # A second call's answer is under way when the first one fails.
        calls = [Broken(error), ask()]
        with contextlib.suppress(type(error)):
            transport.run([(work[0], calls), *((route, [ask()]) for route in work[1:])], in_time())
        assert not any(call.done for call in calls)
        assert transport._pool._taken[route] == 0
        assert not transport._pool._in_use
        assert not transport._pool._idle[route]
        call = ask()
        transport.run([(route, [call])], in_time())
        assert (call.done, call.statuses) == (True, bytes([Status.HIT]))


# -- connecting -------------------------------------------------------------------------------------------------------
def test_nobody_listens(transport: TCPTransport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        error = transport.lane_counts([address], in_time())[address]
        assert isinstance(error, ConnectError)
        assert "Connection refused" in str(error)
        assert "memkv admin status" in str(error)


def test_no_way_there(transport: TCPTransport) -> None:
    """Some addresses are refused by the system itself, at once."""
    error = transport.lane_counts(["255.255.255.255:9900"], in_time(2))["255.255.255.255:9900"]
    assert isinstance(error, ConnectError | TransportTimeoutError)
    assert "255.255.255.255:9900" in str(error)


def test_no_more_sockets(transport: TCPTransport, server: SocketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any) -> None:
        raise OSError(24, os.strerror(24))

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        call = ask()
        transport.run([(Route(server.address, 0), [call])], in_time())
    assert isinstance(call.error, ConnectError)
    assert "Too many open files" in str(call.error)
    transport.run([(Route(server.address, 0), [call])], in_time())
    assert call.done


def test_a_ping_is_a_new_session(transport: TCPTransport, server: SocketServer) -> None:
    transport.lane_counts([server.address], in_time())
    before = set(server._open)
    assert transport.ping(server.address, in_time()) is None
    assert server._open - before, "an old connection proves nothing"
    server.freeze()
    assert isinstance(transport.ping(server.address, in_time(0.2)), TransportTimeoutError)
    server.thaw()
    server.stop()
    assert isinstance(transport.ping(server.address, in_time()), ConnectError)


def test_lanes_that_changed(transport: TCPTransport, server: SocketServer) -> None:
    """A server that has no such lane gives another; the transport tells, and has learned the new count."""
    route = Route(server.address, 7)
    call = ask()
    transport.run([(route, [call])], in_time())
    assert isinstance(call.error, ConnectError)
    assert "other lanes" in str(call.error)
    assert transport._lane_counts[server.address] == 2


def test_ipv6(transport: TCPTransport) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")
    with listener:
        address = f"[::1]:{listener.getsockname()[1]}"

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        error = transport.lane_counts([address], in_time())[address]
        thread.join()
        assert isinstance(error, ConnectError)
        assert "during the handshake" in str(error)


# -- the end ----------------------------------------------------------------------------------------------------------
def test_close_wakes_those_who_wait(transport: TCPTransport, server: SocketServer) -> None:
    busy = Route(server.address, 0)
    assert transport._pool.acquire(busy) == (True, None)
    call = ask()
    thread = threading.Thread(target=transport.run, args=([(busy, [call])], in_time(600)))
    thread.start()
    while not transport._pool._waiting:
        time.sleep(0.001)
    transport.close()
    thread.join(30)
    assert not thread.is_alive()
    assert call.error is not None


def test_close_interrupts_those_who_are_served(transport: TCPTransport, server: SocketServer) -> None:
    route = Route(server.address, 0)
    transport.run([(route, [ask()])], in_time())
    server.freeze()
    call = ask()
    thread = threading.Thread(target=transport.run, args=([(route, [call])], in_time(600)))
    thread.start()
    while not transport._pool._in_use:
        time.sleep(0.001)
    transport.close()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(call.error, Exception)
    assert not isinstance(call.error, TransportTimeoutError)
    server.thaw()


def test_register(transport: TCPTransport) -> None:
    memory = bytearray(10)
    region = transport.register(memoryview(memory))
    assert isinstance(region, Region)
    assert region.view.obj is memory
