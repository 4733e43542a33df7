# SPDX-License-Identifier: Apache-2.0
"""The client when servers die, freeze, lie about their key or come back; when it is closed, forked or interrupted.

Times bound how long a call may take, generously; none is compared with another.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from memkv_core.client import Client
from memkv_core.config import ClientConfig
from memkv_core.router import KeyHashes
from memkv_core.testing.socket_server import SocketServer

KEY = bytes(range(32))
MakeConfig = Callable[..., ClientConfig]
Eventually = Callable[[Callable[[], object]], None]
DEADLINE_MS = 1000
LATEST_S = 5.0
POISON = b"\xa5"
KEYS = [b"page-%d" % number for number in range(60)]
VALUES = [key * 40 for key in KEYS]


class Timed:
    """Asserts that what happens within ends by its deadline."""

    def __enter__(self) -> None:
        self.started_s = time.monotonic()

    def __exit__(self, *exc: object) -> None:
        assert time.monotonic() - self.started_s < LATEST_S


@pytest.fixture
def servers() -> Iterator[list[SocketServer]]:
    with SocketServer([KEY], lanes=2) as one, SocketServer([KEY]) as two:
        yield [one, two]


@pytest.fixture
def make_client(servers: list[SocketServer], make_config: MakeConfig) -> Iterator[Callable[..., Client]]:
    clients = []

    def make(**settings: Any) -> Client:
        given = {"timeout_ms": DEADLINE_MS} | settings
        clients.append(Client(make_config(*(server.address for server in servers), **given)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    return make_client()


def home(client: Client, server: SocketServer) -> set[bytes]:
    """The keys that live on a server."""
    indices = client._router.place(KeyHashes(KEYS, client._seed).at(range(len(KEYS))))
    return {key for key, index in zip(KEYS, indices) if client.servers[index] == server.address}


def targets() -> list[bytearray]:
    return [bytearray(POISON * len(value)) for value in VALUES]


def check_hits_of(client: Client, wanted: set[bytes]) -> None:
    """A get hits these keys with the right bytes and misses all others."""
    memory = targets()
    lengths = client.get(KEYS, memory)
    assert {key for key, length in zip(KEYS, lengths) if length is not None} == wanted
    for key, value, target in zip(KEYS, VALUES, memory):
        if key in wanted:
            assert target == value


# -- dead -------------------------------------------------------------------------------------------------------------
def test_a_dead_server(client: Client, servers: list[SocketServer], eventually: Eventually) -> None:
    """Its keys miss, the other's hit; then it is not asked any more; then it is back, and nothing is lost."""
    dead, alive = servers
    assert client.put(KEYS, VALUES) == [True] * len(KEYS)
    dead.stop()
    with Timed():
        check_hits_of(client, home(client, alive))
    assert client.stats().breaker_opened == 1
    assert list(client.servers_down()) == [dead.address]
    assert "Connection refused" in client.servers_down()[dead.address]
    for _ in range(3):
        with Timed():
            check_hits_of(client, home(client, alive))
            assert client.exists(KEYS) == [key in home(client, alive) for key in KEYS]
            assert client.put(KEYS, VALUES) == [key in home(client, alive) for key in KEYS]
    assert client.lookup(KEYS) == min(at for at, key in enumerate(KEYS) if key in home(client, dead))
    assert set(client.stats().misses) == {"unreachable"}
    dead.start()
    eventually(lambda: client.exists(KEYS) == [True] * len(KEYS))
    check_hits_of(client, set(KEYS))
    assert client.servers_down() == {}


def test_a_server_that_was_never_there(client: Client, servers: list[SocketServer], eventually: Eventually) -> None:
    servers[0].stop()
    with Timed():
        assert client.put(KEYS, VALUES) == [key in home(client, servers[1]) for key in KEYS]
    check_hits_of(client, home(client, servers[1]))
    servers[0].start()
    eventually(lambda: all(client.put(KEYS, VALUES)))
    check_hits_of(client, set(KEYS))


def test_all_are_dead(client: Client, servers: list[SocketServer]) -> None:
    for server in servers:
        server.stop()
    with Timed():
        check_hits_of(client, set())
        assert client.put(KEYS, VALUES) == [False] * len(KEYS)
        assert client.exists(KEYS) == [False] * len(KEYS)
        assert client.delete(KEYS) == [False] * len(KEYS)
        assert client.lookup(KEYS) == 0
    assert set(client.stats().misses) == {"unreachable"}


def test_a_name_that_is_unknown(make_config: MakeConfig, servers: list[SocketServer]) -> None:
    config = make_config("memkv.invalid:9900", servers[1].address, timeout_ms=DEADLINE_MS)
    with Client(config) as client, Timed():
        stored = client.put(KEYS, VALUES)
        assert stored == [key in home(client, servers[1]) for key in KEYS]
    assert set(client.stats().misses) <= {"unreachable", "timeout"}


def test_a_dead_server_and_a_replica(
    make_client: Callable[..., Client], servers: list[SocketServer], eventually: Eventually
) -> None:
    client = make_client(replicas=2)
    assert client.put(KEYS, VALUES) == [True] * len(KEYS)
    servers[0].stop()
    with Timed():
        check_hits_of(client, set(KEYS))
        assert client.exists(KEYS) == [True] * len(KEYS)
        assert client.lookup(KEYS) == len(KEYS)
        assert client.put(KEYS[:5], VALUES[:5]) == [True] * 5
    assert client.stats().hits["get"] == len(KEYS)


def test_cut_connections_cost_nothing(client: Client, servers: list[SocketServer]) -> None:
    client.put(KEYS, VALUES)
    for _ in range(3):
        for server in servers:
            server.sever()
        check_hits_of(client, set(KEYS))
    stats = client.stats()
    assert (stats.misses, stats.breaker_opened) == ({}, 0)


def test_a_server_with_other_lanes_than_before(
    client: Client, servers: list[SocketServer], make_config: MakeConfig
) -> None:
    """Restarted with one lane in place of two: what is put from then on is found."""
    client.put(KEYS, VALUES)
    servers[0].stop()
    with SocketServer([KEY]) as changed:
        changed.stop()
        changed.port = servers[0].port
        changed.start()
        deadline_s = time.monotonic() + 20
        while client.put(KEYS, VALUES) != [True] * len(KEYS):
            assert time.monotonic() < deadline_s
        check_hits_of(client, set(KEYS))


# -- frozen -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "first contact"])
def test_a_frozen_server(
    client: Client, make_client: Callable[..., Client], servers: list[SocketServer], eventually: Eventually, warm: bool
) -> None:
    """One deadline is spent, with the other server's hits; then nothing is waited for; then it is back."""
    client.put(KEYS, VALUES)
    frozen, alive = servers
    frozen.freeze()
    if not warm:
        client = make_client()
    with Timed():
        check_hits_of(client, home(client, alive))
    stats = client.stats()
    assert (stats.misses, stats.breaker_opened) == ({"timeout": len(home(client, frozen))}, 1)
    with Timed():
        for _ in range(20):  # each would take a second if it waited
            check_hits_of(client, home(client, alive))
    assert client.stats().breaker_opened == 1
    frozen.thaw()
    eventually(lambda: client.exists(KEYS) == [True] * len(KEYS))
    check_hits_of(client, set(KEYS))


@pytest.mark.parametrize("operation", ["put", "exists", "lookup", "delete"])
def test_every_operation_ends_by_its_deadline(client: Client, servers: list[SocketServer], operation: str) -> None:
    client.put(KEYS, VALUES)
    servers[0].freeze()
    on_alive = [key in home(client, servers[1]) for key in KEYS]
    with Timed():
        if operation == "put":
            assert client.put(KEYS, VALUES, timeout_ms=300) == on_alive
        elif operation == "lookup":
            assert client.lookup(KEYS, timeout_ms=300) == on_alive.index(False)
        else:
            assert getattr(client, operation)(KEYS, timeout_ms=300) == on_alive


def test_late_bytes_do_not_land(client: Client, servers: list[SocketServer]) -> None:
    """After a call whose deadline passed the targets are the caller's again, whatever the server sends then."""
    values = [random.Random(number).randbytes(300_000) for number in range(20)]
    keys = KEYS[:20]
    assert client.put(keys, values) == [True] * 20
    servers[0].freeze()
    servers[1].freeze()
    memory = [bytearray(300_000) for _ in keys]
    with Timed():
        assert client.get(keys, memory, timeout_ms=300) == [None] * 20
    for target in memory:
        target[:] = POISON * 300_000
    servers[0].thaw()
    servers[1].thaw()
    for server in servers:  # its threads have sent what they had, and found the connection closed
        server.stop()
    assert all(target == POISON * 300_000 for target in memory)


def test_an_impatient_call_does_not_condemn_a_server(client: Client, servers: list[SocketServer]) -> None:
    client.put(KEYS, VALUES)
    servers[0].freeze()
    assert client.exists(KEYS, timeout_ms=1) != [True] * len(KEYS)
    servers[0].thaw()
    assert client.stats().breaker_opened == 0


def test_a_frozen_server_and_more_threads_than_connections(
    make_client: Callable[..., Client], servers: list[SocketServer]
) -> None:
    """Threads that wait for the frozen server's only connection still get the other server's hits."""
    client = make_client(connections=1)
    client.put(KEYS, VALUES)
    servers[0].freeze()
    wanted = home(client, servers[1])
    found: list[set[bytes]] = []

    def work() -> None:
        lengths = client.get(KEYS, targets())
        found.append({key for key, length in zip(KEYS, lengths) if length is not None})

    threads = [threading.Thread(target=work) for _ in range(6)]
    with Timed():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [wanted] * 6
    assert client.stats().breaker_opened == 1


# -- keys -------------------------------------------------------------------------------------------------------------
def test_a_wrong_key_gets_nothing(
    client: Client, servers: list[SocketServer], make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.put(KEYS, VALUES) == [True] * len(KEYS)
    config = make_config(*client.servers, auth_key="ff" * 32, timeout_ms=DEADLINE_MS)
    with Client(config) as stranger, Timed():
        memory = targets()
        assert stranger.get(KEYS, memory) == [None] * len(KEYS)
        assert all(target == POISON * len(target) for target in memory)
        assert stranger.exists(KEYS) == [False] * len(KEYS)
        assert stranger.lookup(KEYS) == 0
        assert stranger.put(KEYS, [b"worse"] * len(KEYS)) == [False] * len(KEYS)
        assert stranger.delete(KEYS) == [False] * len(KEYS)
        assert stranger.stats().misses == {"refused": 4 * len(KEYS)}
        assert stranger.stats().hits == dict.fromkeys(("get", "exists", "lookup", "put", "delete"), 0)
    assert "MEMKV_AUTH_KEY" in caplog.text
    assert "ff" * 32 not in caplog.text
    check_hits_of(client, set(KEYS))


def test_a_key_that_is_being_rotated(make_config: MakeConfig) -> None:
    new_key = bytes(32)
    with SocketServer([KEY, new_key]) as server:
        for number, key in enumerate((KEY, new_key)):
            with Client(make_config(server.address, auth_key=key.hex())) as client:
                assert client.put([b"%d" % number], [b"v"]) == [True]
                assert client.exists(["0"]) == [True]


# -- damage -----------------------------------------------------------------------------------------------------------
def test_a_block_that_was_damaged_in_the_store(client: Client, servers: list[SocketServer]) -> None:
    """It is a miss, counted as corrupt; the server is told to look, and drops it; a put makes it good."""
    client.put(KEYS, VALUES)
    for server in servers:
        for engine in server.node.engines:
            if ("default", KEYS[7]) in engine.blocks:
                engine.damage("default", KEYS[7])
    check_hits_of(client, set(KEYS) - {KEYS[7]})
    assert client.stats().misses == {"corrupt": 1}
    assert client.exists([KEYS[7]]) == [False]
    assert client.put([KEYS[7]], [VALUES[7]]) == [True]
    check_hits_of(client, set(KEYS))


def test_a_damaged_block_has_a_replica(make_client: Callable[..., Client], servers: list[SocketServer]) -> None:
    client = make_client(replicas=2)
    client.put(KEYS, VALUES)
    for engine in servers[0].node.engines:
        for _, key in list(engine.blocks):
            engine.damage("default", key)
    check_hits_of(client, set(KEYS))
    assert set(client.stats().misses) <= {"corrupt"}


# -- close, interrupt, fork -------------------------------------------------------------------------------------------
def test_close_ends_calls_in_other_threads(client: Client, servers: list[SocketServer]) -> None:
    client.put(KEYS, VALUES)
    for server in servers:
        server.freeze()
    results: list[list[bool]] = []
    thread = threading.Thread(target=lambda: results.append(client.exists(KEYS, timeout_ms=600_000)))
    thread.start()
    while len(client._transport._pool._in_use) < 2:  # type: ignore[attr-defined]
        time.sleep(0.01)
    with Timed():
        client.close()
        thread.join()
    assert results == [[False] * len(KEYS)]


def test_an_interrupted_call_leaves_no_half_used_connection(client: Client, servers: list[SocketServer]) -> None:
    """An exception out of nowhere (Ctrl-C, a signal handler that raises) in the middle of an exchange."""
    client.put(KEYS, VALUES)
    for server in servers:
        server.freeze()

    class Alarm(Exception):
        pass

    def ring(signum: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    memory = targets()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Alarm):
            client.get(KEYS, memory, timeout_ms=60_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for target in memory:
        target[:] = POISON * len(target)
    for server in servers:
        server.thaw()
    check_hits_of(client, set(KEYS))
    assert all(target == POISON * len(target) for target in memory)
    assert client.stats().breaker_opened == 0


def in_child(work: Callable[[], object]) -> None:
    """Runs ``work`` in a forked child, which must return something true, soon."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(20)
            status = 0 if work() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


FORKS = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@FORKS
def test_a_forked_child_makes_its_own_connections(client: Client, servers: list[SocketServer]) -> None:
    client.put(KEYS, VALUES)
    before = [set(server._open) for server in servers]

    def work() -> bool:
        memory = targets()
        lengths = client.get(KEYS, memory)
        return lengths == [len(value) for value in VALUES] and memory == VALUES and all(client.put(["c"], [b"child"]))

    for _ in range(2):
        in_child(work)
    check_hits_of(client, set(KEYS))
    assert client.exists(["c"]) == [True]
    stats = client.stats()
    assert (stats.misses, stats.retries, stats.breaker_opened) == ({}, 0, 0), "the parent's connections were harmed"
    for server, sockets in zip(servers, before):
        assert sockets <= server._open, "the parent had to connect anew"


@FORKS
def test_a_fork_while_other_threads_hold_the_locks(client: Client) -> None:
    client.put(KEYS, VALUES)
    pool = client._transport._pool  # type: ignore[attr-defined]
    breakers = list(client._fleet._breakers.values())
    with client._recorder._lock, client._fleet._lock, pool._changed, breakers[0]._lock, breakers[1]._lock:
        in_child(lambda: client.exists(KEYS) == [True] * len(KEYS) and client.stats().hits["exists"] == len(KEYS))


@FORKS
def test_a_fork_while_a_server_is_not_used(client: Client, servers: list[SocketServer], eventually: Eventually) -> None:
    """The thread that would bring it back is not in the child; the child starts its own."""
    client.put(KEYS, VALUES)
    servers[0].stop()
    client.exists(KEYS)
    assert client.stats().breaker_opened == 1
    servers[0].start()

    def work() -> bool:
        while client.exists(KEYS) != [True] * len(KEYS):
            time.sleep(0.01)
        return True

    in_child(work)
    eventually(lambda: client.exists(KEYS) == [True] * len(KEYS))


@FORKS
def test_a_closed_child_does_not_close_the_parent(client: Client) -> None:
    client.put(KEYS, VALUES)

    def work() -> bool:
        client.close()
        return True

    in_child(work)
    check_hits_of(client, set(KEYS))
    assert client.stats().retries == 0


# -- names ------------------------------------------------------------------------------------------------------------
def test_a_name_with_an_address_that_does_not_answer(
    servers: list[SocketServer], make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As localhost is ::1 first on many machines, while a server listens on 127.0.0.1."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = unused.getsockname()
        port = servers[1].port

        def both(host: str, port: int, **_: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (nobody, ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        with Client(make_config(f"cache.internal:{port}", timeout_ms=DEADLINE_MS)) as client, Timed():
            for _ in range(3):
                assert client.put(KEYS, VALUES) == [True] * len(KEYS)
                servers[1].sever()
            assert client.stats().misses == {}


def test_a_name_service_that_hangs(
    servers: list[SocketServer], make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs its own server's keys, and holds one thread however often it is asked."""
    hung, asked = threading.Event(), []
    real = socket.getaddrinfo

    def hang(host: str, port: int, **more: Any) -> Any:
        if host == "cache.internal":
            asked.append(host)
            hung.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    config = make_config("cache.internal:9900", servers[1].address, timeout_ms=DEADLINE_MS)
    try:
        with Client(config) as client:
            for _ in range(3):
                with Timed():
                    assert client.put(KEYS, VALUES) == [key in home(client, servers[1]) for key in KEYS]
            assert client.stats().breaker_opened == 1
            assert asked == ["cache.internal"]
    finally:
        hung.set()
