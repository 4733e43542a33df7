# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from memkv_server import control
from memkv_server.control import ControlChannel

Body = Callable[[ControlChannel, socket.socket, list[dict[str, Any]]], Awaitable[None]]


def run(body: Body) -> int:
    """Runs ``body`` with a channel and the lane's end of it; returns how often the channel said that it ended."""

    async def main() -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        said: list[dict[str, Any]] = []
        ends: list[None] = []
        with theirs:
            channel = ControlChannel(ours, said.append, lambda: ends.append(None))
            await body(channel, theirs, said)
            channel.close()
            channel.close()
        return len(ends)

    return asyncio.run(asyncio.wait_for(main(), 30))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_messages_travel_both_ways_whole() -> None:
    async def body(channel: ControlChannel, theirs: socket.socket, said: list[dict[str, Any]]) -> None:
        assert channel.send({"op": "status"})
        assert channel.send({"op": "drain"})
        assert json.loads(theirs.recv(65536)) == {"op": "status"}
        assert json.loads(theirs.recv(65536)) == {"op": "drain"}
        theirs.send(b'{"op": "ready"}')
        theirs.send(b"no json")
        theirs.send(b'{"op": "status", "connections": 7}')
        await until(lambda: len(said) == 2)
        assert said == [{"op": "ready"}, {"op": "status", "connections": 7}]

    assert run(body) == 0


def test_a_socket_is_handed_over_and_closed_here() -> None:
    async def body(channel: ControlChannel, theirs: socket.socket, _said: list[dict[str, Any]]) -> None:
        client, passed = socket.socketpair()
        with client:
            assert channel.send({"op": "adopt", "prefix": "00"}, passed)
            assert passed.fileno() == -1
            packet, fds, _flags, _address = socket.recv_fds(theirs, 65536, 1)
            assert json.loads(packet)["op"] == "adopt"
            with socket.socket(fileno=fds[0]) as received:
                client.sendall(b"x")
                assert received.recv(1) == b"x"

    run(body)


def test_a_lane_that_does_not_read_is_queued_for_and_then_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(control, "QUEUE_MAX", 3)

    async def body(channel: ControlChannel, theirs: socket.socket, _said: list[dict[str, Any]]) -> None:
        taken = 0
        while channel.send({"op": "adopt", "prefix": "00" * 20_000, "number": taken}):
            taken += 1
        numbers: list[int] = []
        theirs.setblocking(False)
        while len(numbers) < taken:
            await asyncio.sleep(0.001)
            try:
                numbers.append(json.loads(theirs.recv(1 << 20))["number"])
            except BlockingIOError:
                continue
        assert numbers == list(range(taken))
        assert channel.send({"op": "drain"})

    run(body)


def test_the_end_of_the_lane_is_said_once_and_queued_sockets_are_closed(monkeypatch: Any) -> None:
    async def body(channel: ControlChannel, theirs: socket.socket, _said: list[dict[str, Any]]) -> None:
        while channel.send({"op": "x", "fill": "0" * 100_000}) and len(channel._waiting) < 2:
            pass
        ours, passed = socket.socketpair()
        with ours:
            channel.send({"op": "adopt"}, passed)
            theirs.close()
            await until(lambda: not channel.send({"op": "status"}))
            assert ours.recv(1) == b""  # nobody holds the other end any more

    before = len(os.listdir("/proc/self/fd"))
    assert run(body) == 1
    assert len(os.listdir("/proc/self/fd")) <= before
