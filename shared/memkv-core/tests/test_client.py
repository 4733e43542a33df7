# SPDX-License-Identifier: Apache-2.0
"""The client against dict-backed servers behind real sockets: what each operation promises while all is well."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from memkv_core import limits
from memkv_core.client import Client
from memkv_core.config import ClientConfig
from memkv_core.errors import ClientClosedError, ConfigError, InvalidArgumentError, LicenseError
from memkv_core.testing.socket_server import SocketServer

KEY = bytes(range(32))
MakeConfig = Callable[..., ClientConfig]
POISON = b"\xa5"


@pytest.fixture
def server() -> Iterator[SocketServer]:
    with SocketServer([KEY]) as server:
        yield server


@pytest.fixture
def client(server: SocketServer, make_config: MakeConfig) -> Iterator[Client]:
    with Client(make_config(server.address)) as client:
        yield client


@pytest.fixture
def two(make_config: MakeConfig) -> Iterator[tuple[list[SocketServer], Callable[..., Client]]]:
    """Two servers, the first of three lanes, and a maker of clients that use both."""
    clients = []
    with SocketServer([KEY], lanes=3) as one, SocketServer([KEY]) as other:

        def make(**settings: Any) -> Client:
            clients.append(Client(make_config(one.address, other.address, **settings)))
            return clients[-1]

        yield [one, other], make
        for client in clients:
            client.close()


def keys_of(server: SocketServer) -> set[bytes]:
    return {key for engine in server.node.engines for _, key in engine.blocks}


# -- values -----------------------------------------------------------------------------------------------------------
def test_a_block_comes_back(client: Client) -> None:
    value = random.Random(1).randbytes(100_000)
    assert client.put([b"k"], [value]) == [True]
    target = bytearray(100_000)
    assert client.get([b"k"], [target]) == [100_000]
    assert target == value


def test_what_is_not_there(client: Client) -> None:
    target = bytearray(POISON * 8)
    assert client.get([b"absent"], [target]) == [None]
    assert target == POISON * 8
    assert client.exists([b"absent"]) == [False]
    assert client.delete([b"absent"]) == [False]
    assert client.lookup([b"absent"]) == 0
    assert client.stats().misses == {"absent": 3}


def test_str_and_bytes_are_the_same_key(client: Client) -> None:
    assert client.put(["clé", b"bytes"], [b"1", b"2"]) == [True, True]
    targets = [bytearray(1), bytearray(1)]
    assert client.get(["clé".encode(), "bytes"], targets) == [1, 1]
    assert targets == [b"1", b"2"]


def test_a_batch_of_mixed_sizes_hits_and_misses(client: Client) -> None:
    chance = random.Random(2)
    values = {b"%d" % number: chance.randbytes(chance.choice([0, 1, 63, 4096, 70_000])) for number in range(50)}
    assert client.put(list(values), list(values.values())) == [True] * 50
    asked = [*values, b"absent-1", b"7", b"absent-2", b"7"]
    targets = [bytearray(POISON * (len(values.get(key, b"xx")) + chance.choice([0, 5]))) for key in asked]
    lengths = client.get(asked, targets)
    assert lengths == [len(values[key]) if key in values else None for key in asked]
    for key, target in zip(asked, targets):
        value = values.get(key, b"")
        assert target == value + POISON * (len(target) - len(value))


def test_zero_length_values(client: Client) -> None:
    empty = np.zeros((0, 4), np.float32)
    assert client.put(["a", "b", "c"], [b"", [], empty]) == [True, True, True]
    target = bytearray(POISON)
    assert client.get(["a", "b", "c"], [target, [], bytearray()]) == [0, 0, 0]
    assert target == POISON
    assert client.exists(["a"]) == [True]


def test_a_longer_target_keeps_its_end(client: Client) -> None:
    client.put(["k"], [b"value"])
    target = bytearray(POISON * 9)
    assert client.get(["k"], [target]) == [5]
    assert target == b"value" + POISON * 4


def test_a_shorter_target_is_a_miss_and_stays_as_it_was(client: Client) -> None:
    client.put(["k", "other"], [b"value", b"v"])
    target, other = bytearray(POISON * 4), bytearray(1)
    assert client.get(["k", "other"], [target, other]) == [None, 1]
    assert target == POISON * 4
    assert other == b"v"
    assert client.stats().misses == {"too_long": 1}
    assert client.exists(["k"]) == [True]


def test_blocks_in_several_parts(client: Client) -> None:
    """Cut in one way by the source, in another by the target; numpy and plain memory, empty parts too."""
    value = random.Random(3).randbytes(30_000)
    source = [value[:1], b"", memoryview(value)[1:20_000], np.frombuffer(value[20_000:], np.uint8)]
    assert client.put(["k"], [source]) == [True]
    target: list[Any] = [np.zeros(7000, np.uint8), bytearray(22_999), bytearray(), bytearray(POISON * 11)]
    assert client.get(["k"], [target]) == [30_000]
    assert b"".join(map(bytes, target)) == value + POISON * 10


def test_arrays_of_any_type(client: Client) -> None:
    pages = np.arange(4 * 3 * 5, dtype=np.float16).reshape(4, 3, 5)
    assert client.put([str(number) for number in range(4)], list(pages)) == [True] * 4
    back = np.zeros_like(pages)
    assert client.get([str(number) for number in range(4)], list(back)) == [30] * 4
    assert (back == pages).all()


def test_other_bytes_replace(client: Client) -> None:
    assert client.put(["k"], [b"one"]) == [True]
    assert client.put(["k"], [b"one"]) == [True]
    assert client.put(["k"], [b"another"]) == [True]
    target = bytearray(7)
    assert client.get(["k"], [target]) == [7]
    assert target == b"another"


@pytest.mark.parametrize("integrity", ["xxh3", "sha256"])
def test_integrity(server: SocketServer, make_config: MakeConfig, integrity: str) -> None:
    with Client(make_config(server.address, integrity=integrity)) as client:
        client.put(["k"], [b"value"])
        assert client.get(["k"], [bytearray(5)]) == [5]
        assert {block.digest_kind for block in server.node.engines[0].blocks.values()} == {int(integrity == "sha256")}


def test_a_client_that_wants_sha256_takes_no_weaker_digest(server: SocketServer, make_config: MakeConfig) -> None:
    with (
        Client(make_config(server.address)) as weak,
        Client(make_config(server.address, integrity="sha256")) as strong,
    ):
        weak.put(["k"], [b"value"])
        assert strong.get(["k"], [bytearray(5)]) == [None]
        assert strong.put(["k"], [b"value"]) == [True]
        assert strong.get(["k"], [bytearray(5)]) == [5]
        assert weak.get(["k"], [bytearray(5)]) == [5]


# -- meta -------------------------------------------------------------------------------------------------------------
def test_meta(client: Client) -> None:
    long = b"m" * limits.META_BYTES_MAX
    assert client.put(["a", "b", "c"], [b"1", b"", b"3"], meta=[b"shape", long, None]) == [True] * 3
    targets = [bytearray(1) for _ in range(4)]
    found = client.get(["a", "b", "c", "absent"], targets, with_meta=True)
    assert found == [(1, b"shape"), (0, long), (1, b""), None]
    assert client.get(["a"], [targets[0]]) == [1]
    client.put(["plain"], [b"1"])
    assert client.get(["plain"], [targets[0]], with_meta=True) == [(1, b"")]


# -- exists, lookup, delete -------------------------------------------------------------------------------------------
def test_exists_lookup_delete(client: Client) -> None:
    keys = [b"%d" % number for number in range(10)]
    client.put(keys, [b"v"] * 10)
    assert client.exists([*keys, b"no"]) == [True] * 10 + [False]
    assert client.lookup(keys) == 10
    assert client.delete([keys[4], b"no", keys[7]]) == [True, False, True]
    assert client.lookup(keys) == 4
    assert client.lookup(keys[5:]) == 2
    assert client.lookup(keys[4:]) == 0
    assert client.exists(keys) == [at not in (4, 7) for at in range(10)]
    assert client.get([keys[4]], [bytearray(1)]) == [None]


def test_empty_batches(client: Client, server: SocketServer) -> None:
    assert client.put([], []) == []
    assert client.get([], []) == []
    assert client.get([], [], with_meta=True) == []
    assert client.exists([]) == []
    assert client.delete([]) == []
    assert client.lookup([]) == 0
    assert not server._open, "nothing is asked of a server"


# -- frames -----------------------------------------------------------------------------------------------------------
def test_more_keys_than_a_frame_takes(client: Client) -> None:
    count = limits.FRAME_KEYS_MAX + 1
    keys = [b"key-%d" % number for number in range(count)]
    assert client.put(keys, [b"%05d" % number for number in range(count)]) == [True] * count
    assert client.exists(keys) == [True] * count
    assert client.lookup(keys) == count
    memory = bytearray(5 * count)
    targets = [memoryview(memory)[5 * number : 5 * number + 5] for number in range(count)]
    assert client.get(keys, targets) == [5] * count
    assert memory == b"".join(b"%05d" % number for number in range(count))
    assert client.delete([keys[-1]]) == [True]
    assert client.lookup(keys) == count - 1
    assert client.delete([keys[5]]) == [True]
    assert client.lookup(keys) == 5


def test_more_bytes_than_a_frame_aims_at(client: Client) -> None:
    size = limits.FRAME_PAYLOAD_BYTES_TARGET // 2 + 1
    values = [random.Random(number).randbytes(size) for number in range(3)]
    assert client.put(["0", "1", "2"], values) == [True] * 3
    targets = [bytearray(size) for _ in range(3)]
    assert client.get(["0", "1", "2"], targets) == [size] * 3
    assert targets == values
    assert client.stats().sent_bytes == client.stats().received_bytes == 3 * size


def test_one_value_larger_than_a_frame_aims_at(client: Client) -> None:
    value = random.Random(9).randbytes(limits.FRAME_PAYLOAD_BYTES_TARGET + 12_345)
    assert client.put(["k"], [value]) == [True]
    target = bytearray(len(value) + 1)
    assert client.get(["k"], [target]) == [len(value)]
    assert target[:-1] == value


# -- wrong arguments --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", [b"", "", b"k" * 513, "é" * 257, 7, None, bytearray(b"k")], ids=repr)
def test_bad_keys(client: Client, server: SocketServer, key: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.put([key], [b"v"]),
        lambda: client.get([key], [bytearray(1)]),
        lambda: client.exists([b"good", key]),
        lambda: client.lookup([key]),
        lambda: client.delete([key]),
    ]
    for call in calls:
        with pytest.raises(InvalidArgumentError):
            call()
    assert not server._open, "nothing is asked of a server"


def test_the_longest_key(client: Client) -> None:
    key = bytes(range(256)) * 2
    assert client.put([key, b"\0"], [b"v", b"w"]) == [True, True]
    assert client.exists([key, key[:-1], b"\0"]) == [True, False, True]


def test_other_wrong_arguments(client: Client) -> None:
    oversized = [np.zeros(limits.MIB, np.uint8)] * 257
    calls: list[Callable[[], object]] = [
        lambda: client.put("one key", [b"v"]),
        lambda: client.put(["a", "b"], [b"v"]),
        lambda: client.put(["a"], ["text"]),
        lambda: client.put(["a"], [np.zeros((4, 4), np.uint8).T]),
        lambda: client.put(["a"], [oversized]),
        lambda: client.put(["a"], [b"v"], meta=[b"m", b"m"]),
        lambda: client.put(["a"], [b"v"], meta=[b"m" * 4097]),
        lambda: client.put(["a"], [b"v"], meta=["text"]),  # type: ignore[list-item]
        lambda: client.put(["a"], [b"v"], timeout_ms=0),
        lambda: client.get(["a"], [b"read-only"]),
        lambda: client.get(["a"], []),
        lambda: client.get(["a"], [bytearray(1)], timeout_ms=limits.TIMEOUT_MS_MAX + 1),
        lambda: client.exists(["a"], timeout_ms=-1),
        lambda: client.register("text"),
    ]
    for call in calls:
        with pytest.raises(InvalidArgumentError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert client.put(["a"], [b"v"]) == [True], "nothing was harmed"


# -- several servers --------------------------------------------------------------------------------------------------
def test_two_servers_and_their_lanes(two: tuple[list[SocketServer], Callable[..., Client]]) -> None:
    servers, make = two
    client = make()
    keys = [b"page-%d" % number for number in range(600)]
    assert client.put(keys, [b"v%04d" % number for number in range(600)]) == [True] * 600
    held = [keys_of(server) for server in servers]
    assert held[0] | held[1] == set(keys)
    assert not held[0] & held[1]
    assert all(200 < len(part) < 400 for part in held)
    assert all(len(engine.blocks) > 30 for engine in servers[0].node.engines)
    memory = bytearray(5 * 600)
    targets = [memoryview(memory)[5 * number : 5 * number + 5] for number in range(600)]
    assert client.get(keys, targets) == [5] * 600
    assert memory == b"".join(b"v%04d" % number for number in range(600))
    assert client.lookup(keys) == 600
    assert client.delete([keys[123]]) == [True]
    assert client.lookup(keys) == 123
    assert client.exists(keys) == [at != 123 for at in range(600)]
    assert make().get(keys, targets)[120:126] == [5, 5, 5, None, 5, 5], "any client places a key alike"


def test_replicas(two: tuple[list[SocketServer], Callable[..., Client]]) -> None:
    servers, make = two
    client = make(replicas=2)
    keys = [b"page-%d" % number for number in range(40)]
    assert client.put(keys, [b"value"] * 40) == [True] * 40
    assert keys_of(servers[0]) == keys_of(servers[1]) == set(keys)
    servers[1].node.engines[0].blocks.clear()
    assert client.exists(keys) == [True] * 40
    assert client.lookup([*keys, b"absent"]) == 40
    assert client.get(keys, [bytearray(5) for _ in keys]) == [5] * 40
    assert client.delete(keys) == [True] * 40
    assert keys_of(servers[0]) == set()
    assert client.exists(keys) == [False] * 40
    stats = client.stats()
    assert stats.hits["delete"] == 40
    assert min(stats.misses.values()) > 0


# -- namespaces -------------------------------------------------------------------------------------------------------
def test_identities_do_not_meet(server: SocketServer, make_config: MakeConfig) -> None:
    config = make_config(server.address)
    clients = [Client(config, identity={"dtype": dtype}) for dtype in ("bfloat16", "float16")]
    clients.append(Client(config))
    for number, client in enumerate(clients):
        assert client.put(["k"], [b"%d" % number]) == [True]
    for number, client in enumerate(clients):
        target = bytearray(1)
        assert client.get(["k"], [target]) == [1]
        assert target == b"%d" % number
        client.close()
    assert len({client.namespace for client in clients}) == 3
    assert clients[2].namespace == "default"


def test_a_pinned_namespace_refuses_another_identity(server: SocketServer, make_config: MakeConfig) -> None:
    config = make_config(server.address, namespace="pinned")
    with (
        Client(config, identity={"dtype": "bfloat16"}) as one,
        Client(config, identity={"dtype": "float16"}) as other,
    ):
        assert one.put(["k"], [b"v"]) == [True]
        assert other.exists(["k"]) == [False]
        assert other.get(["k"], [bytearray(1)]) == [None]
        assert other.put(["k"], [b"w"]) == [False]
        assert set(other.stats().misses) == {"refused"}
        assert one.get(["k"], [bytearray(1)]) == [1]


def test_scoped(server: SocketServer, make_config: MakeConfig) -> None:
    with Client(make_config(server.address), identity={"pool": "kv"}) as client:
        derived = client.scoped(identity={"pool": "index"})
        named = client.scoped(identity={"pool": "index"}, namespace="named")
        assert len({client.namespace, derived.namespace, named.namespace}) == 3
        assert (derived.servers, named.namespace) == (client.servers, "named")
        for number, each in enumerate((client, derived, named)):
            assert each.put(["k"], [b"%d" % number]) == [True]
        for number, each in enumerate((client, derived, named)):
            target = bytearray(1)
            assert each.get(["k"], [target]) == [1]
            assert target == b"%d" % number
        derived.close()
        assert client.exists(["k"]) == named.exists(["k"]) == [True]
        named.close()
        for bad in ("", "n" * 256, "a\nb"):
            with pytest.raises(ConfigError):
                client.scoped(identity=None, namespace=bad)


# -- life -------------------------------------------------------------------------------------------------------------
def test_closed(server: SocketServer, make_config: MakeConfig) -> None:
    client = Client(make_config(server.address))
    client.put(["k"], [b"v"])
    client.close()
    client.close()
    calls: list[Callable[[], object]] = [
        lambda: client.put(["k"], [b"v"]),
        lambda: client.get(["k"], [bytearray(1)]),
        lambda: client.exists(["k"]),
        lambda: client.lookup(["k"]),
        lambda: client.delete(["k"]),
    ]
    for call in calls:
        with pytest.raises(ClientClosedError):
            call()
    assert client.stats().keys == {"put": 1}


def test_a_license_is_needed(make_config: MakeConfig, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LicenseError):
        Client(make_config("127.0.0.1:9900", license=str(tmp_path / "absent.license")))


def test_transports_of_other_versions(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="rdma"):
        Client(make_config("127.0.0.1:9900", transport="rdma"))


def test_nothing_connects_before_the_first_call(make_config: MakeConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        Client(make_config(f"{host}:{port}")).close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_what_a_start_logs(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "memkv_core.client")
    Client(make_config("127.0.0.1:9900", "host-b:9902")).close()
    assert caplog.messages == [
        "memkv-client license verified plan=test",
        'Server mapped to rail server="127.0.0.1:9900"',
        'Server mapped to rail server="host-b:9902"',
    ]


def test_region(client: Client) -> None:
    memory = np.zeros(64, np.float32)
    region = client.register(memory)
    assert region.size_bytes == 256
    region.close()


def test_stats(client: Client) -> None:
    client.put(["a", "b"], [b"12", b"345"])
    client.get(["a", "absent"], [bytearray(2), bytearray(2)])
    client.exists(["a"])
    client.lookup(["a", "absent"])
    client.delete(["a", "absent"])
    stats = client.stats()
    assert stats.keys == {"put": 2, "get": 2, "exists": 1, "lookup": 2, "delete": 2}
    assert stats.hits == {"put": 2, "get": 1, "exists": 1, "lookup": 1, "delete": 1}
    assert stats.misses == {"absent": 2}
    assert (stats.sent_bytes, stats.received_bytes) == (5, 2)
    assert (stats.retries, stats.breaker_opened) == (0, 0)
    assert {name: latency.call_count for name, latency in stats.latencies.items()} == dict.fromkeys(stats.latencies, 1)


# -- threads ----------------------------------------------------------------------------------------------------------
def test_sixteen_threads_share_a_client(two: tuple[list[SocketServer], Callable[..., Client]]) -> None:
    """With fewer connections than threads, and batches that want the servers in every order."""
    servers, make = two
    client = make(connections=2)
    wrong: list[str] = []

    def work(thread: int) -> None:
        chance = random.Random(thread)
        for turn in range(6):
            keys = [b"t%d-%d" % (thread, number) for number in range(12)]
            chance.shuffle(keys)
            values = [b"%d:" % turn + key + bytes(3000) for key in keys]
            stored = client.put(keys, values)
            targets = [bytearray(4000) for _ in keys]
            lengths = client.get(keys, targets)
            run = client.lookup(keys)
            if (stored, lengths, run) != ([True] * 12, [len(value) for value in values], 12):
                wrong.append(f"thread {thread} turn {turn}: {stored} {lengths} {run}")
            if any(target[: len(value)] != value for target, value in zip(targets, values)):
                wrong.append(f"thread {thread} turn {turn}: other bytes")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    stats = client.stats()
    assert (stats.keys["get"], stats.hits["get"], stats.misses, stats.breaker_opened) == (1152, 1152, {}, 0)
    # Nothing failed, so no connection was given up: what is open is what was ever made.
    lanes = [3, 1]
    for server, count in zip(servers, lanes):
        assert 1 <= len(server._open) <= 2 * count + 1
