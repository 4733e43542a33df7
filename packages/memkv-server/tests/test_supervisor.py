# SPDX-License-Identifier: Apache-2.0
"""A whole node: real processes on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from memkv_core import handshake, wire
from memkv_core.auth import admin_token
from memkv_core.session import Session
from memkv_server.engine.drive import SEGMENTS_FILE
from memkv_server.processes import start_ticks
from memkv_server.supervisor import lane_cpus

StartNode = Callable[..., Any]
BLOCK = bytes(range(256)) * 64


def put(client: Any, count: int, name: str = "key") -> list[str]:
    keys = [f"{name}-{number}" for number in range(count)]
    assert client.put(keys, [BLOCK] * count) == [True] * count
    return keys


def get(client: Any, keys: list[str]) -> int:
    """How many keys hit; those must have the right bytes."""
    targets = [bytearray(len(BLOCK)) for _ in keys]
    lengths = client.get(keys, targets)
    assert all(bytes(target) == BLOCK for length, target in zip(lengths, targets, strict=True) if length is not None)
    return sum(length is not None for length in lengths)


def lane_pids(node: Any) -> list[int]:
    return [lane["pid"] for lane in node.status()["lanes"]]


def test_a_node_serves_and_shows_itself(start_node: StartNode) -> None:
    node = start_node()
    client = node.client()
    try:
        assert get(client, put(client, 10)) == 10
        status = node.status()
        assert status["ready"] is True
        assert status["health"] == node.ask("/v1/health").body
        assert status["health"]["status"] == "healthy"
        assert status["storage"]["records"] == 10
        assert status["connections"] >= 1
        assert status["sessions"] >= 1
        assert [namespace["records"] for namespace in status["namespaces"]] == [10]
        assert {process["name"] for process in status["memory"]["processes"]} == {"supervisor", "lane 0"}
        assert status["memory"]["rss_bytes"] > 0
        assert status["license"]["licensee"] == "tests"
        assert status["lanes"][0]["ops"]["get"]["hits"] == 10
    finally:
        client.close()
    assert node.ask("/v1/ready").code == 200
    assert node.ask("/v1/status").code == 401
    assert node.ask("/v1/metrics", token=admin_token(b"x" * 32)).code == 401
    assert node.ask("/v1/metrics", token=admin_token(bytes.fromhex("a1" * 32))).code == 200
    assert node.ask("/nothing").code == 404


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_by_itself_in_time_with_clients_connected(start_node: StartNode, signum: signal.Signals) -> None:
    node = start_node()
    client = node.client()
    silent = socket.create_connection(tuple(node.address.split(":")))
    try:
        put(client, 3)
        pids = lane_pids(node)
        began = time.monotonic()
        assert node.stop(signum) == 0
        assert time.monotonic() - began < 10
        assert [start_ticks(pid) for pid in pids] == [None]
        assert node.log.read_text().rstrip().endswith("stopped")
        assert client.exists(["key-0"]) == [False]
    finally:
        silent.close()
        client.close()


def test_a_second_signal_does_not_wait(start_node: StartNode) -> None:
    node = start_node()
    pid = lane_pids(node)[0]
    os.kill(pid, signal.SIGSTOP)  # a lane that cannot drain
    began = time.monotonic()
    node.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert node.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 6
    assert start_ticks(pid) is None


def test_lanes_go_with_a_killed_supervisor(start_node: StartNode) -> None:
    node = start_node()
    pids = lane_pids(node)
    assert node.stop(signal.SIGKILL) == -signal.SIGKILL
    node.wait_for(lambda: all(start_ticks(pid) is None for pid in pids))


def test_a_dead_lane_is_started_again_and_the_others_serve_on(start_node: StartNode, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("a", "b")]
    node = start_node("--path", folders[0], "--path", folders[1])
    client = node.client()
    try:
        keys = put(client, 64)
        assert get(client, keys) == 64
        records = [lane["storage"]["records"] for lane in node.status()["lanes"]]
        assert sum(records) == 64
        assert min(records) > 0
        victim = lane_pids(node)[0]
        os.kill(victim, signal.SIGKILL)
        node.wait_for(lambda: bool(node.ask("/v1/health").body["status"] == "degraded"))
        assert node.ask("/v1/ready").code == 200
        assert get(client, keys) >= records[1]
        node.wait_for(lambda: bool(node.ask("/v1/health").body["status"] == "healthy"))
        node.wait_for(lambda: get(client, keys) == 64)  # every acknowledged block is back
        lanes = node.status()["lanes"]
        assert (lanes[0]["restarts"], lanes[1]["restarts"]) == (1, 0)
        assert lanes[0]["pid"] != victim
        assert "lane 0 is down (killed by SIGKILL)" in node.log.read_text()
    finally:
        client.close()


def test_a_node_whose_only_lane_is_down_is_unhealthy_and_not_ready(start_node: StartNode) -> None:
    node = start_node()
    os.kill(lane_pids(node)[0], signal.SIGKILL)
    node.wait_for(lambda: bool(node.ask("/v1/health").code == 503))
    assert "no lane" in str(node.ask("/v1/ready").error) or node.ask("/v1/ready").code == 200
    node.wait_for(lambda: bool(node.ask("/v1/health").code == 200))


def test_one_bad_drive_of_two_degrades_the_node(start_node: StartNode, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("dear")
    node = start_node("--path", str(tmp_path / "good"), "--path", str(tmp_path / "foreign"))
    assert node.ask("/v1/health").body["status"] == "degraded"
    assert "letter.txt" in str(node.status()["lanes"][1]["error"])
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["letter.txt"]


def test_a_drive_that_vanishes_under_the_node_and_is_put_back(start_node: StartNode, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    node = start_node("--path", str(folders[0]), "--path", str(folders[1]), "--lanes", "1")
    client = node.client()
    try:
        keys = put(client, 200)
        records = 200
        pid = lane_pids(node)[0]
        away = folders[1].rename(tmp_path / "away")
        os.truncate(away / SEGMENTS_FILE, 0)  # every page of it is a SIGBUS from now on

        def lost() -> bool:
            nonlocal records
            records = get(client, keys)
            return [drive["state"] for drive in node.status()["storage"]["drives"]] == ["online", "offline"]

        node.wait_for(lost)
        assert 50 < records < 150, "the other drive serves"
        health = node.ask("/v1/health").body
        assert (health["status"], health["drives_online"], health["drives_offline"]) == ("degraded", 1, 1)
        away.rename(folders[1])
        node.wait_for(lambda: bool(node.ask("/v1/health").body["status"] == "healthy"))
        assert get(client, keys) == records, "what it lost is lost"
        put(client, 200)
        assert get(client, keys) == 200
        assert lane_pids(node) == [pid], "and all that without a restart"
    finally:
        client.close()


def test_strangers_cost_nothing(start_node: StartNode) -> None:
    node = start_node()
    address = (node.address.split(":")[0], int(node.address.split(":")[1]))
    for said in (b"GET / HTTP/1.0\r\n\r\n", b"\0" * 100):
        with socket.create_connection(address) as stranger:
            stranger.sendall(said)
            stranger.settimeout(10)
            with contextlib.suppress(ConnectionResetError):  # closed with bytes of ours unread
                assert stranger.recv(1) == b""
    other = Session.client(b"\x01" * 32, namespace="n").send_hello()
    with socket.create_connection(address) as stranger:
        stranger.sendall(other)
        stranger.settimeout(10)
        assert handshake.decode_prefix(stranger.recv(16)).magic == handshake.REFUSAL
    status = node.status()
    assert status["handshakes"]["refused"]["not_memkv"] == 2
    assert status["health"]["status"] == "healthy"


def open_session(address: tuple[str, int], namespace: str = "idle") -> tuple[socket.socket, Session]:
    """A session opened by hand, which then says nothing."""
    sock = socket.create_connection(address)
    sock.settimeout(60)
    session = Session.client(bytes.fromhex("a1" * 32), namespace=namespace)
    sock.sendall(session.send_hello())
    prefix = receive(sock, handshake.PREFIX_BYTES)
    session.receive_message(prefix + receive(sock, handshake.decode_prefix(prefix).body_bytes))
    sock.sendall(session.send_proof())
    head = receive(sock, wire.HEADER_BYTES)
    header = wire.decode_header(head)
    session.open(header, head + receive(sock, header.metadata_bytes), receive(sock, wire.TAG_BYTES))
    return sock, session


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, "the node closed the connection"
        data += piece
    return data


@pytest.mark.slow
def test_hundreds_of_namespaces_do_not_silence_a_lane(start_node: StartNode) -> None:
    node = start_node()
    address = (node.address.split(":")[0], int(node.address.split(":")[1]))
    for number in range(800):
        open_session(address, namespace=f"{number:04d}" + "ä" * 125)[0].close()
    status = node.status()
    assert status["namespace_count"] == 800
    assert 0 < len(status["namespaces"]) <= 96
    assert status["health"]["status"] == "healthy"
    assert "too long" not in node.log.read_text().lower()


@pytest.mark.slow
def test_a_thousand_idle_connections_and_32_busy_ones(start_node: StartNode) -> None:
    node = start_node()
    address = (node.address.split(":")[0], int(node.address.split(":")[1]))
    before = node.status()["memory"]["anonymous_bytes"]
    idle = [open_session(address) for _ in range(1000)]
    busy = [node.client(namespace=f"busy-{number}", connections=1) for number in range(32)]
    try:
        with ThreadPoolExecutor(32) as threads:
            hits = list(threads.map(lambda client: sum(get(client, put(client, 8)) for _ in range(4)), busy))
        assert hits == [32] * 32
        status = node.status()
        assert status["sessions"] >= 1032
        assert status["memory"]["anonymous_bytes"] - before < 64 * 1024 * 1024  # about 64 KiB a connection at most
        for sock, session in idle[::100]:  # and those that were idle are served when they speak
            sock.sendall(session.seal(wire.Opcode.PING))
            assert wire.decode_header(receive(sock, wire.HEADER_BYTES)).opcode == wire.Opcode.PING
    finally:
        for sock, _session in idle:
            sock.close()
        for client in busy:
            client.close()
    node.wait_for(lambda: bool(node.status()["connections"] == 0))


def test_lanes_are_pinned_only_where_there_are_cores_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert lane_cpus(3) is None
    assert lane_cpus(2) == [frozenset({0, 1, 2, 3}), frozenset({4, 5, 6, 7})]
