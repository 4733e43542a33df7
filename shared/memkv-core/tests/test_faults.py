# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

import memkv_core.client
import memkv_core.dispatch
import memkv_core.fleet
import memkv_core.testing.faults
import memkv_core.testing.loopback
from memkv_core import Client
from memkv_core.errors import ConnectError, DisconnectedError, MemKVError, TransportTimeoutError
from memkv_core.testing.clock import VirtualClock
from memkv_core.testing.faults import FAULTS, SEED_VARIABLE, FaultyTransport
from memkv_core.testing.loopback import LoopbackCluster, LoopbackServer, LoopbackTransport
from memkv_core.testing.transport_tests import KEY, NAMESPACE, get_call, in_time, new_session, put_call
from memkv_core.transports.base import Route
from memkv_core.wire import Status

ROUTE = Route("node", 0)


def faulty(server: LoopbackServer, rates: dict[str, float], seed: int | None = 1) -> FaultyTransport:
    return FaultyTransport(LoopbackTransport(new_session, {"node": server}), rates, seed=seed)


@pytest.fixture
def server() -> LoopbackServer:
    server = LoopbackServer([KEY])
    call = put_call({b"a": b"0123456789"})
    LoopbackTransport(new_session, {"node": server}).run([(ROUTE, [call])], in_time())
    assert call.done
    return server


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("refuse", ConnectError),
        ("lose_request", DisconnectedError),
        ("lose_response", DisconnectedError),
        ("truncate", DisconnectedError),
    ],
)
def test_failures(fault: str, error: type[MemKVError], server: LoopbackServer) -> None:
    transport = faulty(server, {fault: 1.0})
    target = bytearray(10)
    get = get_call({b"a": target})
    transport.run([(ROUTE, [get])], in_time())
    assert (get.done, get.lengths) == (False, [None])
    assert type(get.error) is error
    assert transport.counts == {fault: 1}
    if fault != "truncate":
        assert bytes(target) == bytes(10)
        put = put_call({b"b": b"x"})
        transport.run([(ROUTE, [put])], in_time())
        assert not put.done
        # Only where the answer is lost has the server done it.
        assert ((NAMESPACE, b"b") in server.engines[0].blocks) == (fault == "lose_response")


def test_time_out_and_delay_pass_virtual_time(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    clock.install(monkeypatch, memkv_core.testing.faults, memkv_core.testing.loopback)
    call = put_call({b"b": b"x"})
    faulty(server, {"time_out": 1.0}).run([(ROUTE, [call])], clock.monotonic() + 60)
    assert isinstance(call.error, TransportTimeoutError)
    assert clock.monotonic() == 1060
    call = put_call({b"b": b"x"})
    faulty(server, {"delay": 1.0}).run([(ROUTE, [call])], clock.monotonic() + 60)
    assert call.done
    assert 1060 < clock.monotonic() < 1061


def test_flipped_bits_are_found(server: LoopbackServer) -> None:
    get = get_call({b"a": bytearray(10)})
    faulty(server, {"flip_payload": 1.0}).run([(ROUTE, [get])], in_time())
    assert (get.done, get.lengths, get.corrupt) == (True, [None], [0])
    source = b"0123456789"
    put = put_call({b"b": source})
    faulty(server, {"flip_source": 1.0}).run([(ROUTE, [put])], in_time())
    assert put.statuses == bytes([Status.BAD_DIGEST])
    assert source == b"0123456789"
    for fault in ("flip_payload", "flip_source", "truncate"):  # an empty payload has no bit to flip
        empty = put_call({b"e": b""})
        faulty(server, {fault: 1.0}).run([(ROUTE, [empty])], in_time())
        assert empty.done


def test_the_seed_is_told_and_replays(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rates = dict.fromkeys(("refuse", "lose_response", "flip_payload"), 0.2)

    def history(seed: int | None) -> list[tuple[bool, str]]:
        transport = faulty(server, rates, seed)
        calls = [get_call({b"a": bytearray(10)}) for _ in range(100)]
        transport.run([(ROUTE, calls)], in_time())
        assert 30 < transport.counts.total() < 90
        return [(call.done, str(call.error)) for call in calls]

    assert history(7) == history(7) != history(8)
    monkeypatch.setenv(SEED_VARIABLE, "7")
    assert history(None) == history(7)
    line = caplog.records[-1].getMessage()
    assert "seed 7; replay: MEMKV_FAULT_SEED=7 pytest '" in line
    assert "test_faults.py::test_the_seed_is_told_and_replays'" in line
    monkeypatch.delenv(SEED_VARIABLE)
    assert faulty(server, {}, None).seed != faulty(server, {}, None).seed


@pytest.mark.parametrize("rates", [{"nonsense": 0.1}, {"refuse": 0.6, "delay": 0.6}, {"refuse": -0.1}])
def test_rates_are_checked(rates: dict[str, float], server: LoopbackServer) -> None:
    with pytest.raises(ValueError, match="probabilities of"):
        faulty(server, rates)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    clock = VirtualClock()
    modules = (memkv_core.client, memkv_core.dispatch, memkv_core.fleet)
    clock.install(monkeypatch, *modules, memkv_core.testing.faults, memkv_core.testing.loopback)
    return clock


@pytest.fixture
def cluster() -> Iterator[LoopbackCluster]:
    with LoopbackCluster(["a:9900", "b:9900"], lanes=2) as cluster:
        yield cluster


@pytest.mark.parametrize("seed", range(5))
def test_a_client_under_every_fault(seed: int, clock: VirtualClock, cluster: LoopbackCluster) -> None:
    """Whatever fails: nothing raises, a hit is the bytes that were put last, and no call outlives its deadline."""
    rates = dict.fromkeys(FAULTS, 0.05)
    transports: list[FaultyTransport] = []

    def make(*arguments: Any) -> FaultyTransport:
        transports.append(FaultyTransport(cluster.transport(*arguments), rates, seed=seed))
        return transports[-1]

    client = Client(cluster.config(timeout_ms=1000), transport=make)
    choice = random.Random(seed)
    # What a key may hold: a put that was not acknowledged may have happened all the same.
    possible: dict[bytes, set[bytes | None]] = {b"k%d" % number: {None} for number in range(20)}
    hits = 0
    try:
        for _ in range(150):
            keys = choice.sample(sorted(possible), choice.randint(1, 6))
            started_s = clock.monotonic()
            if choice.random() < 0.5:
                values = [choice.randbytes(choice.choice([1, 100, 5000])) for _ in keys]
                for key, value, stored in zip(keys, values, client.put(keys, values), strict=True):
                    possible[key] = {value} if stored else possible[key] | {value}
            else:
                targets = [bytearray(5000) for _ in keys]
                for key, target, size in zip(keys, targets, client.get(keys, targets), strict=True):
                    if size is not None:
                        hits += 1
                        assert bytes(target[:size]) in possible[key]
            assert clock.monotonic() - started_s <= 1.001
            for server in cluster.servers:  # what a probe would find
                client._fleet.success(server)
    finally:
        client.close()
    assert set(transports[0].counts) == set(FAULTS)
    assert hits
