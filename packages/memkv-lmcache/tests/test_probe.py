# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lmcache_fakes import until

from memkv_core import Client, ClientConfig
from memkv_core.testing.socket_server import SocketServer
from memkv_lmcache.probe import report_strangers, stranger, unreachable_servers

Serve = Callable[[socket.socket], None]


@pytest.fixture
def listen() -> Iterator[Callable[[Serve], str]]:
    """Serves each connection by a function; gives the address."""
    listeners: list[socket.socket] = []

    def start(serve: Serve) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(2)
                    try:
                        serve(connection)
                    except OSError:
                        continue

        threading.Thread(target=accept, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def zmq(connection: socket.socket) -> None:
    connection.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f\3")
    connection.recv(64)


def lm(connection: socket.socket) -> None:
    """LMCache's v1/server: reads 186 bytes, answers HEALTH with 36."""
    asked = connection.recv(186, socket.MSG_WAITALL)
    if len(asked) == 186 and struct.unpack_from("i", asked) == (5,):
        connection.sendall(struct.pack("iiiiiiiii", 200, 0, 1, 2, 0, 0, 0, 0, 0))


def http(connection: socket.socket) -> None:
    if connection.recv(64).startswith(b"GET "):
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")


def redis(connection: socket.socket) -> None:
    connection.sendall(b"+PONG\r\n" if connection.recv(64) == b"PING\r\n" else b"-ERR unknown command\r\n")


@pytest.mark.parametrize(
    ("serve", "words"), [(zmq, "lmcache server"), (lm, "lm://"), (http, "admin port"), (redis, "Redis")]
)
def test_the_usual_others_are_named(listen: Any, serve: Serve, words: str) -> None:
    assert words in (stranger(listen(serve)) or "")


def test_silence_and_nobody_are_no_strangers(listen: Any) -> None:
    assert stranger(listen(lambda connection: None)) is None
    assert stranger("127.0.0.1:9") is None


def test_a_wrong_server_is_named_at_the_start(server: SocketServer, listen: Any, caplog: Any) -> None:
    wrong = listen(zmq)
    with Client(ClientConfig.load(servers=[server.address, wrong], timeout_ms=1000)) as client:
        report_strangers(client, logging.getLogger("memkv_lmcache"))
        until(lambda: "cannot be used" in caplog.text)
    assert f"MemKV server {wrong} cannot be used: an `lmcache server`" in caplog.text
    assert server.address not in caplog.text.split("cannot be used")[0]


def test_servers_that_answer_are_not_listed(server: SocketServer) -> None:
    with Client(ClientConfig.load()) as client:
        assert unreachable_servers(client) == {}
        server.stop()
        assert list(unreachable_servers(client)) == [server.address]
