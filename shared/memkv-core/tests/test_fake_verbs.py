# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from memkv_core.testing.fake_verbs import Fabric, FakeVerbs
from memkv_core.testing.verbs_tests import KIB, Link, VerbsTests
from memkv_core.transports import verbs
from memkv_core.transports.verbs import DeviceSpec, QueuePairState, WorkKind, WorkStatus


class TestFakeVerbs(VerbsTests):
    def open_sides(self) -> tuple[verbs.Verbs, verbs.Context, verbs.Context]:
        fabric = Fabric()
        server, client = FakeVerbs(fabric), FakeVerbs(fabric)
        return server, server.open(DeviceSpec("fake0")), client.open(DeviceSpec("fake0"))


class Pair:
    """Both hosts with their faults at hand."""

    def __init__(self) -> None:
        self.fabric = Fabric()
        self.hosts = FakeVerbs(self.fabric), FakeVerbs(self.fabric)
        self.server, self.client = (host.devices["fake0"] for host in self.hosts)
        first, second = (host.open(DeviceSpec("fake0")) for host in self.hosts)
        self.link = Link((first, second))
        self.link.fill()


@pytest.fixture
def pair() -> Pair:
    return Pair()


def statuses(pair: Pair, count: int) -> list[int]:
    return [completion.status for completion in pair.link.server.take(count)]


def test_a_frozen_host_that_wakes_after_the_fence_writes_nothing(pair: Pair) -> None:
    pair.server.freeze()
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    assert pair.link.server.queue.poll() == []
    pair.link.client.endpoint.to_error()
    poison = pair.link.client.memory.copy()
    pair.server.thaw()
    assert statuses(pair, 1) == [WorkStatus.RETRY_EXC_ERR]
    assert np.array_equal(pair.link.client.memory, poison)


def test_a_frozen_host_that_wakes_before_goes_on(pair: Pair) -> None:
    pair.server.freeze()
    for wr_id in range(3):
        pair.link.post(WorkKind.WRITE, [(0, wr_id * KIB, KIB)], wr_id=wr_id)
    pair.server.thaw()
    assert [completion.wr_id for completion in pair.link.server.take(3)] == [0, 1, 2]


def test_completions_that_are_held_back(pair: Pair) -> None:
    pair.server.hold_completions()
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    assert np.array_equal(pair.link.client.memory[:KIB], pair.link.server.memory[:KIB])
    assert pair.link.server.queue.poll() == []
    pair.server.thaw()
    assert statuses(pair, 1) == [WorkStatus.SUCCESS]


def test_a_port_that_goes_down_and_comes_up(pair: Pair) -> None:
    pair.server.port_down()
    with pytest.raises(verbs.DeviceUnavailableError, match="port 1 is DOWN; check the cable"):
        pair.hosts[0].open(DeviceSpec("fake0"))
    assert not pair.link.server.context.active()
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB), (0, 4 * KIB, KIB)])
    assert statuses(pair, 2) == [WorkStatus.LOC_QP_OP_ERR, WorkStatus.WR_FLUSH_ERR]
    pair.server.port_up()
    pair.link.renew()
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    assert statuses(pair, 1) == [WorkStatus.SUCCESS]


def test_a_port_of_the_peer_that_is_down(pair: Pair) -> None:
    pair.client.port_down()
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    assert statuses(pair, 1) == [WorkStatus.RETRY_EXC_ERR]


def test_a_peer_that_is_gone_is_tried_for_a_while(pair: Pair) -> None:
    pair.fabric.retry_s = 0.005
    pair.link.client.endpoint.close()
    posted_s = time.monotonic()
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    assert pair.link.server.queue.poll() == []
    assert statuses(pair, 1) == [WorkStatus.RETRY_EXC_ERR]
    assert time.monotonic() - posted_s >= 0.005


def test_giving_up_during_the_retries_flushes_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Callable[[], None]] = []
    monkeypatch.setattr(pair.fabric, "later", lambda _delay_s, ring: timers.append(ring))
    pair.fabric.retry_s = 0.001
    pair.link.client.endpoint.close()
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    pair.link.server.endpoint.to_error()
    assert statuses(pair, 1) == [WorkStatus.WR_FLUSH_ERR]
    for ring in timers:  # it comes, and finds nothing
        ring()
    assert timers
    assert pair.link.server.queue.poll() == []


def test_a_slow_network(pair: Pair) -> None:
    pair.fabric.delay_s = 0.002
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    assert statuses(pair, 1) == [WorkStatus.SUCCESS]
    assert np.array_equal(pair.link.client.memory[:KIB], pair.link.server.memory[:KIB])


def test_a_failure_to_order(pair: Pair) -> None:
    pair.server.fail_next(WorkStatus.GENERAL_ERR)
    before = pair.link.client.memory.copy()
    pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    assert statuses(pair, 1) == [WorkStatus.GENERAL_ERR]
    assert np.array_equal(pair.link.client.memory, before)


def test_a_responder_that_fails_as_well(pair: Pair) -> None:
    pair.fabric.responder_fails = True
    pair.link.post(WorkKind.WRITE, [(0, 256 * KIB, KIB)])
    assert statuses(pair, 1) == [WorkStatus.REM_ACCESS_ERR]
    assert pair.link.client.endpoint.state() is QueuePairState.ERR


def test_more_than_was_agreed_is_refused(pair: Pair) -> None:
    pair.server.freeze()
    for _ in range(pair.link.server.send_depth):
        pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    with pytest.raises(verbs.VerbsError, match="room for 0"):
        pair.link.post(WorkKind.WRITE, [(0, 0, KIB)])
    pair.link.client.endpoint.post_receives(8, 0)
    with pytest.raises(verbs.VerbsError, match="room for 0"):
        pair.link.client.endpoint.post_receives(1, 0)


def test_a_device_without_a_gid(pair: Pair) -> None:
    pair.server.info = pair.server.info._replace(port=pair.server.info.port._replace(gids=()))
    with pytest.raises(verbs.DeviceUnavailableError, match="has no GID; give its network interface an address"):
        pair.hosts[0].open(DeviceSpec("fake0"))
