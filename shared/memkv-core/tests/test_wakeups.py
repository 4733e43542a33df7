# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from memkv_core.limits import WAKE_BYTES, WAKE_BYTES_MIN
from memkv_core.wakeups import Wakeups


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: (the end that receives, the other)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    with sender, receiver:
        receiver.setblocking(False)
        yield receiver, sender


def readable(sock: socket.socket, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(1000 * timeout_s))


def test_a_receiver_is_woken_by_a_good_part_and_by_all_that_is_left(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    receiver, sender = pair
    wakeups = Wakeups(receiver)
    wakeups.expect(10 * WAKE_BYTES)
    sender.sendall(bytes(1000))
    assert not readable(receiver, 0.1)
    sender.sendall(bytes(WAKE_BYTES - 1000))
    assert readable(receiver, 10)
    assert sum(map(len, iter(lambda: _take(receiver), b""))) == WAKE_BYTES
    wakeups.expect(WAKE_BYTES_MIN)
    sender.sendall(bytes(WAKE_BYTES_MIN - 1))
    assert not readable(receiver, 0.1)
    sender.sendall(b"x")
    assert readable(receiver, 10)


def test_after_a_payload_any_byte_wakes_it_again(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    wakeups = Wakeups(receiver)
    wakeups.expect(WAKE_BYTES)
    wakeups.expect(0)
    sender.sendall(b"x")
    assert readable(receiver, 10)


def test_the_end_of_a_connection_wakes_it_whatever_was_expected(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    Wakeups(receiver).expect(WAKE_BYTES)
    sender.sendall(b"x")
    sender.shutdown(socket.SHUT_WR)
    assert readable(receiver, 10)


def test_a_small_payload_costs_no_call() -> None:
    class Untouched:
        def setsockopt(self, *_: object) -> None:
            raise AssertionError("a system call")

    wakeups = Wakeups(Untouched())  # type: ignore[arg-type]
    for size in (0, 1, WAKE_BYTES_MIN - 1, 0):
        wakeups.expect(size)


def _take(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""
