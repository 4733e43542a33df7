# SPDX-License-Identifier: Apache-2.0
"""Shared memory between clients and real nodes: what it moves, what it refuses, what becomes of it when a side goes."""

from __future__ import annotations

import itertools
import json
import logging
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core import handshake, wire
from memkv_core.places import Access, RegionKind, RegionRequest, encode_region
from memkv_core.session import Session
from memkv_core.transports.shm import ShmTransport
from memkv_core.wire import ErrorCode, Flag, Opcode

StartNode = Callable[..., Any]
KEY = bytes.fromhex("a1" * 32)
MIB = 1 << 20


@pytest.fixture
def node(start_node: StartNode) -> Any:
    return start_node("--segment-size", "16MiB", "--capacity", "128MiB")


@pytest.fixture
def client(node: Any) -> Iterator[Any]:
    client = node.client(transport="shm")
    yield client
    client.close()


def blocks(count: int, size: int = MIB, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(size) for _ in range(count)]


def keys_of(values: list[bytes], name: str = "k") -> list[str]:
    return [f"{name}{number}" for number in range(len(values))]


def shared(size: int) -> tuple[int, mmap.mmap]:
    descriptor = os.memfd_create("engine")
    os.ftruncate(descriptor, size)
    return descriptor, mmap.mmap(descriptor, size)


def lane_pid(node: Any) -> int:
    return int(node.status()["lanes"][0]["pid"])


def open_files(pid: int) -> list[str]:
    """Memory that a process has open and that was shared with it."""
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(entry)
        except OSError:
            continue
        if name.startswith("/memfd:"):
            names.append(name)
    return names


# -- moving -----------------------------------------------------------------------------------------------------------
def test_every_block_goes_through_shared_memory(client: Any) -> None:
    values = [*blocks(24), b"", b"x", *blocks(3, 70_001, seed=2), *blocks(1, 6 * MIB, seed=3)]
    keys = keys_of(values)
    assert client.put(keys, values) == [True] * len(values)
    targets = [bytearray(len(value) + 3) for value in values]
    assert client.get(keys, targets) == [len(value) for value in values]
    assert all(target[: len(value)] == value for target, value in zip(targets, values, strict=True))
    assert all(target[len(value) :] == bytes(3) for target, value in zip(targets, values, strict=True))
    stats = client.stats()
    assert stats.moved_staged_bytes == 2 * sum(map(len, values))
    assert (stats.moved_registered_bytes, stats.moved_fallbacks) == (0, {})


def test_a_block_in_parts(client: Any) -> None:
    value = blocks(1)[0]
    cuts = [0, 1, 70_000, 70_001, 500_000, MIB]
    parts = [value[first:last] for first, last in itertools.pairwise(cuts)]
    assert client.put(["k"], [parts]) == [True]
    targets = [bytearray(700_000), bytearray(MIB - 700_000)]
    assert client.get(["k"], [targets]) == [MIB]
    assert b"".join(targets) == value


def test_a_block_larger_than_the_memory_of_a_connection_goes_over_the_socket(node: Any) -> None:
    with node.client(transport="shm", staging_slot_mb=1) as client:
        values = [*blocks(2, 3 * MIB), *blocks(2, 2 * MIB, seed=2)]
        assert client.put(keys_of(values), values) == [True] * 4
        targets = [bytearray(3 * MIB) for _ in values]
        assert client.get(keys_of(values), targets) == [len(value) for value in values]
        assert all(target[: len(value)] == value for target, value in zip(targets, values, strict=True))
        stats = client.stats()
        assert stats.moved_fallbacks == {"staging": 8}, "calls: each takes one block"
        assert client.put(["fits"], [values[2][:900_000]]) == [True]
        assert client.stats().moved_staged_bytes == 900_000


@pytest.mark.parametrize(
    ("count", "size", "staged"), [(1, 16, 0), (8, 65_536, 0), (128, 32_768, 0), (9, 65_536, 9 * 65_536), (1, MIB, MIB)]
)
def test_a_little_goes_through_the_socket_itself(client: Any, count: int, size: int, staged: int) -> None:
    values = blocks(count, size)
    keys = keys_of(values, f"{count}-{size}-")
    assert client.put(keys, values) == [True] * count
    targets = [bytearray(size) for _ in values]
    assert client.get(keys, targets) == [size] * count
    assert targets == values
    stats = client.stats()
    assert (stats.moved_staged_bytes, stats.moved_fallbacks) == (2 * staged, {})


def test_registered_memory_that_has_a_descriptor_is_read_where_it_is(client: Any) -> None:
    descriptor, memory = shared(16 * MIB)
    values = blocks(8)
    view = memoryview(memory)
    for at, value in enumerate(values):
        view[at * MIB + 4096 : (at + 1) * MIB + 4096] = value
    region = client.register(view[4096:])  # not where its file begins
    sources = [view[at * MIB + 4096 : (at + 1) * MIB + 4096] for at in range(8)]
    assert client.put(keys_of(values), sources) == [True] * 8
    assert client.stats().moved_registered_bytes == 8 * MIB
    assert client.stats().moved_staged_bytes == 0
    targets = [bytearray(MIB) for _ in values]
    assert client.get(keys_of(values), targets) == [MIB] * 8
    assert targets == values
    region.close()
    assert client.put(keys_of(values, "again"), sources) == [True] * 8
    assert client.stats().moved_registered_bytes == 8 * MIB, "no longer registered: staged"
    assert client.stats().moved_fallbacks == {}
    os.close(descriptor)


def test_private_memory_that_is_registered_goes_by_staging(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "memkv_core.transport")
    memory = bytearray(2 * MIB)
    region = client.register(memory)
    assert client.put(["k"], [memory]) == [True]
    assert client.stats().moved_staged_bytes == 2 * MIB
    assert "it is private memory" in caplog.text
    region.close()


def test_registered_memory_whose_file_shrank_falls_back(client: Any) -> None:
    descriptor, memory = shared(4 * MIB)
    region = client.register(memory)
    os.ftruncate(descriptor, MIB)
    view = memoryview(memory)
    assert client.put(["short", "there"], [view[:1000], view[1000:2000]]) == [True, True]
    stats = client.stats()
    assert stats.hits["put"] == 2
    region.close()
    os.close(descriptor)


def test_threads(client: Any) -> None:
    wrong: list[str] = []

    def work(number: int) -> None:
        values = blocks(6, 300_000 + number, seed=number)
        keys = keys_of(values, f"t{number}-")
        targets = [bytearray(len(value)) for value in values]
        for _ in range(5):
            if client.put(keys, values) != [True] * 6 or client.get(keys, targets) != [len(v) for v in values]:
                wrong.append(f"{number}: {client.stats().misses}")
            elif targets != values:
                wrong.append(f"{number}: other bytes")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert client.stats().moved_fallbacks == {}


# -- the fence --------------------------------------------------------------------------------------------------------
def test_what_a_stopped_server_moves_when_it_wakes_reaches_nobody(node: Any, client: Any) -> None:
    values = blocks(16, seed=4)
    keys = keys_of(values)
    assert client.put(keys, values) == [True] * 16
    targets = [bytearray(MIB) for _ in values]
    assert client.get(keys, targets) == [MIB] * 16  # connected, warm
    pid = lane_pid(node)
    descriptor, memory = shared(4 * MIB)
    engine = memoryview(memory)
    engine[:] = b"\x11" * len(engine)
    region = client.register(engine)
    assert client.put(["registered"], [engine[:MIB]]) == [True]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert client.get(keys, targets, timeout_ms=300) == [None] * 16
        late = node.client(transport="shm", timeout_ms=300)  # its own breaker: the first one's is open
        late.register(engine)
        late.put(["late"], [engine])
        late.close()
    finally:
        for target in targets:
            target[:] = b"\x55" * MIB  # the engine's again
        engine[:] = b"\x77" * len(engine)
        os.kill(pid, signal.SIGCONT)
    node.wait_for(lambda: node.status()["lanes"][0]["state"] == "serving" and not client.servers_down())
    again = [bytearray(MIB) for _ in values]
    node.wait_for(lambda: client.get(keys, again) == [MIB] * 16)
    assert again == values
    assert all(target.count(b"\x55") == MIB for target in targets), "a late byte landed"
    assert bytes(engine) == b"\x77" * len(engine)
    target = bytearray(4 * MIB)
    if client.get(["late"], [target]) == [4 * MIB]:
        assert bytes(target) == b"\x11" * (4 * MIB), "what is stored is what was put, or nothing"
    region.close()
    os.close(descriptor)


def test_a_killed_lane_costs_misses_and_comes_back(node: Any, client: Any) -> None:
    values = blocks(4)
    client.put(keys_of(values), values)
    os.kill(lane_pid(node), signal.SIGKILL)
    client.get(keys_of(values), [bytearray(MIB) for _ in values])  # hits or misses: it never raises
    node.wait_for(lambda: client.put(keys_of(values), values) == [True] * 4)
    targets = [bytearray(MIB) for _ in values]
    assert client.get(keys_of(values), targets) == [MIB] * 4
    assert targets == values


def test_what_a_killed_client_shared_is_given_back(node: Any) -> None:
    settings = {**node.credentials.client_settings(node.address), "transport": "shm"}
    code = f"""
import os, signal, threading
from memkv_core import Client, ClientConfig
client = Client(ClientConfig.load(**{settings!r}))
blocks = [os.urandom(1 << 20) for _ in range(16)]
keys = [f"c{{i}}" for i in range(16)]
targets = [bytearray(1 << 20) for _ in keys]
client.put(keys, blocks)
def work():
    while True:
        client.get(keys, targets)
        client.put(keys, blocks)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""
    pid = lane_pid(node)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        assert open_files(pid)
        time.sleep(0.2)
        process.kill()
        process.wait()
    node.wait_for(lambda: node.status()["connections"] == 0)
    assert open_files(pid) == []
    with node.client(transport="shm") as client:  # every segment can be written again, so nothing is pinned
        for turn in range(8):
            values = blocks(12, seed=turn)
            assert client.put(keys_of(values, f"{turn}-"), values) == [True] * 12


def test_closing_a_client_gives_back_what_it_shared(node: Any) -> None:
    pid = lane_pid(node)
    for _ in range(3):
        client = node.client(transport="shm")
        assert client.put(["k"], [b"x" * MIB]) == [True]
        assert len(open_files(pid)) == 1
        client.close()
        node.wait_for(lambda: not open_files(pid))


def test_a_fork_leaves_both_with_connections_of_their_own(client: Any) -> None:
    values = blocks(4)
    client.put(keys_of(values), values)
    child = os.fork()
    if not child:
        status = 1
        try:
            targets = [bytearray(MIB) for _ in values]
            if client.get(keys_of(values), targets) == [MIB] * 4 and targets == values:
                status = 0 if client.put(["child"], [b"y" * MIB]) == [True] else 2
        finally:
            os._exit(status)
    targets = [bytearray(MIB) for _ in values]
    for _ in range(10):
        assert client.get(keys_of(values), targets) == [MIB] * 4
        assert targets == values
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    target = bytearray(MIB)
    assert client.get(["child"], [target]) == [MIB]
    assert bytes(target) == b"y" * MIB


# -- which way --------------------------------------------------------------------------------------------------------
def test_a_node_without_a_socket_is_refused_or_reached_over_tcp(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "memkv_core.transport")
    node = start_node("--socket", "none")
    with node.client(transport="shm") as client:
        assert client.put(["k"], [b"x" * 1000]) == [False]
        assert client.stats().misses == {"unreachable": 1}
        assert "cannot share memory with this client: it shares no memory" in caplog.text
        assert "set MEMKV_TRANSPORT to auto" in caplog.text
    with node.client(transport="auto") as client:
        assert client.put(["k"], [b"x" * 1000]) == [True]
        assert client.stats().moved_fallbacks == {}
        assert "is reached over tcp: it shares no memory" in caplog.text


def test_auto_takes_shared_memory_and_goes_over_tcp_while_the_socket_cannot_be_used(
    start_node: StartNode, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "memkv_core.transport")
    folder = Path(os.environ.get("TMPDIR", "/tmp"), f"memkv-{os.getpid()}-{random.getrandbits(32):x}")
    path = folder / "n.sock"
    node = start_node("--socket", str(path))
    try:
        path.rename(folder / "elsewhere")
        with node.client(transport="auto") as client:
            value = blocks(1)[0]
            assert client.put(["k"], [value]) == [True]
            stats = client.stats()
            assert (stats.moved_staged_bytes, stats.moved_fallbacks) == (0, {"no path": 1})
            assert f"its socket {path} cannot be used: No such file or directory" in caplog.text
            (folder / "elsewhere").rename(path)
            target = bytearray(MIB)
            node.wait_for(lambda: client.get(["k"], [target]) == [MIB] and client.stats().moved_staged_bytes > 0)
            assert bytes(target) == value
            assert "is reached through its socket" in caplog.text
    finally:
        node.stop()
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


def test_another_node_at_the_same_path_is_not_taken_for_it(start_node: StartNode, tmp_path: Path) -> None:
    """Two nodes of a cluster, in containers perhaps, whose sockets bear the same name."""
    folder = Path("/tmp", f"memkv-{os.getpid()}-{random.getrandbits(32):x}")
    first, second = start_node("--socket", str(folder / "a.sock")), start_node("--socket", str(folder / "b.sock"))
    try:
        os.replace(folder / "b.sock", folder / "a.sock")
        with first.client(transport="auto") as client:
            assert client.put(["k"], [b"x" * 1000]) == [True]
        assert first.status()["storage"]["records"] == 1
        assert second.status()["storage"]["records"] == 0
    finally:
        first.stop()
        second.stop()
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


# -- what a client should not do --------------------------------------------------------------------------------------
class LocalSession:
    """A session on a node's Unix socket, frame by frame."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")
        self.session = Session.client(KEY, namespace="raw", agent="raw", lane=0)
        self.sock.sendall(self.session.send_hello())
        prefix = self.file.read(handshake.PREFIX_BYTES)
        self.session.receive_message(prefix + self.file.read(handshake.decode_prefix(prefix).body_bytes))
        self.sock.sendall(self.session.send_proof())
        self.welcome = json.loads(self.answer()[1])

    def send(
        self, opcode: int, metadata: bytes, *, flags: int = 0, count: int = 0, fds: list[int] | None = None
    ) -> None:
        sealed = self.session.seal(opcode, count=count, metadata=metadata, flags=flags)
        if fds:
            socket.send_fds(self.sock, [sealed], fds)
        else:
            self.sock.sendall(sealed)

    def answer(self) -> tuple[wire.Header, bytes]:
        head = self.file.read(wire.HEADER_BYTES)
        if not head:
            raise EOFError
        header = wire.decode_header(head)
        metadata = self.file.read(header.metadata_bytes)
        self.session.open(header, head + metadata, self.file.read(wire.TAG_BYTES))
        return header, metadata

    def error(self) -> tuple[int, str]:
        header, metadata = self.answer()
        assert header.flags & Flag.ERROR
        return wire.decode_error(metadata)

    def register(self, size: int, fds: list[int], *, region: int = 1, address: int = 0) -> None:
        request = RegionRequest(region, Access.READ | Access.WRITE, RegionKind.SHM, size, address)
        self.send(Opcode.REGISTER_REGION, encode_region(request), fds=fds)

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@pytest.fixture
def raw(node: Any) -> Iterator[LocalSession]:
    client = node.client(transport="auto")
    client.put(["k"], [b"x"])
    transport = client._transport
    assert isinstance(transport, ShmTransport)
    path = transport.local._servers[node.address].path
    client.close()
    session = LocalSession(path)
    yield session
    session.close()


def placed_get(key: bytes, capacity: int, region: int, offset: int, size: int) -> bytes:
    return wire.encode_get([key], [capacity]) + struct.pack("<HIQI", 1, region, offset, size)


def test_places_that_are_in_no_region(node: Any, raw: LocalSession) -> None:
    descriptor = os.memfd_create("raw")
    os.ftruncate(descriptor, 8192)
    os.write(descriptor, b"\x55" * 8192)
    raw.register(4096, [descriptor])
    header, metadata = raw.answer()
    assert not header.flags & Flag.ERROR
    assert metadata == b"\x55" * 32
    for region, offset in ((1, 4096), (1, 4000), (1, 2**64 - 100), (2, 0)):
        raw.send(Opcode.GET, placed_get(b"k", 1000, region, offset, 1000), flags=Flag.PLACED, count=1)
        assert raw.error()[0] == ErrorCode.LIMIT_EXCEEDED
    assert os.pread(descriptor, 9000, 0) == b"\x55" * 8192
    os.close(descriptor)
    assert raw.sock.fileno() >= 0
    raw.send(Opcode.PING, b"")
    assert raw.answer()[0].opcode == Opcode.PING, "the session goes on"


def test_memory_that_shrinks_under_the_server(node: Any, raw: LocalSession) -> None:
    with node.client(transport="auto", namespace="raw") as client:
        assert client.put(["big"], [b"v" * MIB]) == [True]
    pid = lane_pid(node)
    descriptor = os.memfd_create("raw")
    os.ftruncate(descriptor, 4 * MIB)
    raw.register(4 * MIB, [descriptor])
    raw.answer()
    os.ftruncate(descriptor, 0)
    parts = placed_get(b"big", MIB, 1, MIB, MIB)
    raw.send(Opcode.GET, parts, flags=Flag.PLACED, count=1)  # it may grow again by this: it is the client's file
    raw.answer()
    os.ftruncate(descriptor, 100)
    put = wire.encode_put([b"p"], [MIB], [bytes(16)], None) + struct.pack("<HIQI", 1, 1, 0, MIB)
    raw.send(Opcode.PUT, put, flags=Flag.PLACED, count=1)
    assert raw.error() == (ErrorCode.MOVE_FAILED, "the region is shorter than it was")
    assert lane_pid(node) == pid, "the lane lives"
    os.close(descriptor)


def test_descriptors_that_nobody_claims_are_closed(node: Any, raw: LocalSession) -> None:
    pid = lane_pid(node)
    descriptor = os.memfd_create("raw")
    os.ftruncate(descriptor, 4096)
    raw.register(4096, [descriptor] * 3)
    raw.answer()
    raw.send(Opcode.PING, b"", fds=[descriptor])
    raw.answer()
    raw.close()
    node.wait_for(lambda: node.status()["connections"] == 0)
    assert open_files(pid) == []
    os.close(descriptor)


def test_too_many_descriptors_at_once_end_the_session(node: Any, raw: LocalSession) -> None:
    pid = lane_pid(node)
    descriptor = os.memfd_create("raw")
    raw.send(Opcode.PING, b"", fds=[descriptor] * 20)
    with pytest.raises((EOFError, ConnectionResetError)):
        raw.answer()
    node.wait_for(lambda: node.status()["connections"] == 0)
    assert open_files(pid) == []
    os.close(descriptor)


def test_a_region_without_a_descriptor_and_one_of_another_kind(raw: LocalSession) -> None:
    raw.register(4096, [])
    assert raw.error() == (ErrorCode.LIMIT_EXCEEDED, "a region of shared memory comes with a descriptor")
    request = RegionRequest(1, Access.READ, RegionKind.RDMA, 4096, 0, 1)
    raw.send(Opcode.REGISTER_REGION, encode_region(request))
    assert raw.error()[0] == ErrorCode.LIMIT_EXCEEDED
    raw.send(Opcode.CONNECT_RDMA, bytes(32))
    assert raw.error()[0] == ErrorCode.UNSUPPORTED_OPCODE
