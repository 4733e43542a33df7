# SPDX-License-Identifier: Apache-2.0
"""What is bounded: space, connections, memory."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from memkv_core import Client, auth, handshake, wire
from memkv_core.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cluster

MIB = 1024 * 1024
CAPACITY_BYTES = 512 * MIB
IDLE = 1000
BUSY = 32


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_ten_times_the_capacity_stays_within_it(node: Cluster) -> None:
    block = bytearray(os.urandom(MIB))
    batch = 32
    with node.client() as client:
        for start in range(0, 10 * CAPACITY_BYTES // MIB, batch):
            keys = [f"fill-{number}" for number in range(start, start + batch)]
            block[:8] = start.to_bytes(8, "little")
            assert client.put(keys, [block] * batch, timeout_ms=60_000) == [True] * batch  # no put is refused
            assert _folder_bytes(node.folder / "node-0" / "data") <= CAPACITY_BYTES
            assert client.exists(keys) == [True] * batch
    storage = node.status(0)["storage"]
    assert storage["used_bytes"] <= storage["capacity_bytes"] <= CAPACITY_BYTES
    assert storage["evicted_records"] > 0


def _idle_session(address: str, key: bytes) -> socket.socket:
    """A client that opens a session and then says nothing."""
    host, port = address.rsplit(":", 1)
    sock = socket.create_connection((host, int(port)), timeout=30)
    session = Session.client(key, namespace="idle")
    sock.sendall(session.send_hello())
    prefix = sock.recv(handshake.PREFIX_BYTES, socket.MSG_WAITALL)
    body = sock.recv(handshake.decode_prefix(prefix).body_bytes, socket.MSG_WAITALL)
    session.receive_message(prefix + body)
    sock.sendall(session.send_proof())
    head = sock.recv(wire.HEADER_BYTES, socket.MSG_WAITALL)
    header = wire.decode_header(head)
    rest = sock.recv(header.metadata_bytes + wire.TAG_BYTES, socket.MSG_WAITALL)
    session.open(header, head + rest[: -wire.TAG_BYTES], rest[-wire.TAG_BYTES :])
    return sock


def _busy(client: Client, name: str, failures: list[str]) -> None:
    keys = [f"{name}-{number}" for number in range(8)]
    values = [os.urandom(64 * 1024) for _ in keys]
    targets = [bytearray(64 * 1024) for _ in keys]
    for _ in range(20):
        stored = client.put(keys, values, timeout_ms=60_000)
        found = client.get(keys, targets, timeout_ms=60_000)
        if not all(stored) or None in found or [bytes(target) for target in targets] != values:
            failures.append(name)


def test_a_thousand_idle_and_32_busy_connections(
    node: Cluster, record_testsuite_property: Callable[[str, object], None]
) -> None:
    before = node.status(0)["memory"]["anonymous_bytes"]
    key = bytes.fromhex(node.env["MEMKV_AUTH_KEY"])
    address = node.nodes[0]["address"]
    idle = [_idle_session(address, key) for _ in range(IDLE)]
    try:
        failures: list[str] = []
        clients = [node.client(connections=1) for _ in range(BUSY)]
        threads = [
            threading.Thread(target=_busy, args=(client, f"busy-{number}", failures))
            for number, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status = node.status(0)
        for client in clients:
            client.close()
        assert failures == []
        assert status["sessions"] == IDLE + BUSY
        used = status["memory"]["anonymous_bytes"] - before
        record_testsuite_property("bytes per connection", used // (IDLE + BUSY))
        assert used < 256 * MIB, f"{used} bytes for {IDLE + BUSY} connections"
    finally:
        for sock in idle:
            sock.close()
    node.wait_until(lambda: node.status(0)["connections"] == 0)


def test_the_wrong_key_gets_nothing(node: Cluster) -> None:
    with node.client() as client:
        assert client.put(["secret"], [b"value"]) == [True]
    target = bytearray(5)
    with node.client(auth_key="ab" * 32, timeout_ms=2000) as stranger:
        assert stranger.exists(["secret", "other"]) == [False, False]
        assert stranger.get(["secret"], [target]) == [None]
        assert stranger.put(["secret"], [b"other"]) == [False]
        assert stranger.delete(["secret"]) == [False]
        assert set(stranger.stats().misses) == {"refused"}
    assert target == bytearray(5)
    with node.client() as client:
        assert client.get(["secret"], [target]) == [5]
    assert node.status(0)["lanes"][0]["errors"]["auth"] >= 1
    assert auth.key_id(bytes.fromhex("ab" * 32)).hex() not in node.log(0)


def test_what_is_no_memkv_client_is_turned_away(node: Cluster) -> None:
    host, port = node.nodes[0]["address"].rsplit(":", 1)
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(64), os.urandom(256)):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(said)
            try:
                assert sock.recv(1024) == b""  # closed without a word
            except ConnectionResetError:
                continue
    with node.client() as client:
        assert client.put(["k"], [b"v"]) == [True]


def test_another_identity_under_a_pinned_namespace_is_refused(node: Cluster) -> None:
    config = node.client(namespace="pinned").config
    with Client(config, identity={"dtype": "bfloat16"}) as first:
        assert first.put(["k"], [b"bf16"]) == [True]
    target = bytearray(4)
    with Client(config, identity={"dtype": "float16"}) as second:
        assert second.get(["k"], [target]) == [None]
        assert second.put(["k"], [b"fp16"]) == [False]
        assert set(second.stats().misses) == {"refused"}
    with Client(config, identity={"dtype": "bfloat16"}) as again:
        assert again.get(["k"], [target]) == [4]
        assert target == b"bf16"
    node.kill(0)
    node.up()  # the record is durable
    with Client(config, identity={"dtype": "float16"}) as second:
        assert second.get(["k"], [target]) == [None]
        assert set(second.stats().misses) == {"refused"}
