# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from memkv_core import handshake
from memkv_core.log import RateLimitedLog
from memkv_core.session import Session
from memkv_server import acceptor
from memkv_server.acceptor import Acceptor

Adopted = list[tuple[socket.socket, bytes, int]]
Body = Callable[[Acceptor, tuple[str, int], Adopted], Awaitable[None]]


def run(body: Body, *, taken: bool = True) -> Acceptor:
    """Runs ``body`` beside an open acceptor; what it hands over is collected."""

    async def main() -> Acceptor:
        adopted: Adopted = []

        def adopt(sock: socket.socket, prefix: bytes, lane: int) -> bool:
            adopted.append((sock, prefix, lane))
            return taken

        listener = socket.create_server(("127.0.0.1", 0))
        opened = Acceptor(listener, adopt)
        opened.open()
        try:
            await body(opened, listener.getsockname(), adopted)
        finally:
            opened.close()
            for sock, _prefix, _lane in adopted:
                sock.close()
        return opened

    return asyncio.run(asyncio.wait_for(main(), 30))


def hello(lane: int = handshake.LANE_ANY) -> bytes:
    return Session.client(b"k" * 32, namespace="n", lane=lane).send_hello()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def closed_by_peer(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    except ConnectionResetError:
        return True  # closed with bytes of ours unread


def test_the_socket_is_handed_over_with_all_that_follows_the_prefix() -> None:
    async def body(_acceptor: Acceptor, address: tuple[str, int], adopted: Adopted) -> None:
        said = hello(lane=3)
        with socket.create_connection(address) as client:
            for at in range(handshake.PREFIX_BYTES):  # byte by byte
                client.sendall(said[at : at + 1])
                await asyncio.sleep(0)
            client.sendall(said[handshake.PREFIX_BYTES :])
            await until(lambda: bool(adopted))
            sock, prefix, lane = adopted[0]
            assert (prefix, lane) == (said[: handshake.PREFIX_BYTES], 3)
            rest = b""
            while len(rest) < len(said) - handshake.PREFIX_BYTES:
                rest += await asyncio.get_running_loop().sock_recv(sock, 65536)
            assert rest == said[handshake.PREFIX_BYTES :]

    assert run(body).waiting == 0


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 64, os.urandom(64), hello()[:4] + b"\xff" * 60]
)
def test_who_is_no_memkv_client_is_turned_away(said: bytes) -> None:
    async def body(_acceptor: Acceptor, address: tuple[str, int], adopted: Adopted) -> None:
        with socket.create_connection(address) as client:
            client.sendall(said)
            assert await closed_by_peer(client)
        assert not adopted

    assert run(body).refused["not_memkv"] == 1


def test_who_says_nothing_is_turned_away_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "HANDSHAKE_TIMEOUT_MS", 50)

    async def body(_acceptor: Acceptor, address: tuple[str, int], _adopted: Adopted) -> None:
        with socket.create_connection(address) as client:
            client.sendall(hello()[:15])
            assert await closed_by_peer(client)

    assert run(body).refused["timeout"] == 1


def test_silent_peers_cannot_keep_a_talking_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "WAITING_MAX", 4)

    async def body(opened: Acceptor, address: tuple[str, int], adopted: Adopted) -> None:
        silent = [socket.create_connection(address) for _ in range(6)]
        await until(lambda: opened.accepted == 6)
        assert opened.waiting == 4
        assert await closed_by_peer(silent[0])
        assert await closed_by_peer(silent[1])
        with socket.create_connection(address) as client:
            client.sendall(hello())
            await until(lambda: bool(adopted))
        for sock in silent:
            sock.close()
        await until(lambda: opened.waiting == 0)

    assert run(body).refused["crowded"] == 3


def test_a_socket_that_no_lane_takes_is_closed() -> None:
    async def body(_acceptor: Acceptor, address: tuple[str, int], _adopted: Adopted) -> None:
        with socket.create_connection(address) as client:
            client.sendall(hello())
            assert await closed_by_peer(client)

    assert run(body, taken=False).refused["lane_down"] == 1


def test_refusals_do_not_flood_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "limited", RateLimitedLog(logging.getLogger("test.accept")))

    async def body(opened: Acceptor, address: tuple[str, int], _adopted: Adopted) -> None:
        for _ in range(50):
            with socket.create_connection(address) as client:
                client.sendall(b"x" * 16)
                assert await closed_by_peer(client)
        assert opened.refused["not_memkv"] == 50

    with caplog.at_level(logging.WARNING):
        run(body)
    assert len(caplog.records) == 1
