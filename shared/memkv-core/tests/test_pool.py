# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest

from memkv_core.errors import ClientClosedError
from memkv_core.transports.base import Route
from memkv_core.transports.flow import Flow
from memkv_core.transports.pool import Pool

A0, A1, B0 = Route("a:9900", 0), Route("a:9900", 1), Route("b:9900", 0)


class FakeFlow:
    """What a pool sees of a flow."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.open = True
        self.closed = 0
        self.interrupted = 0

    def close(self) -> None:
        self.open = False
        self.closed += 1

    def interrupt(self) -> None:
        self.interrupted += 1


def made(pool: Pool, route: Route) -> Any:
    """A new flow in a place of the pool."""
    assert pool.acquire(route) == (True, None)
    flow = cast("Flow", FakeFlow(route))
    pool.adopt(flow)
    return flow


def test_last_used_first() -> None:
    pool = Pool(4)
    one, two = made(pool, A0), made(pool, A0)
    pool.release(A0, one)
    pool.release(A0, two)
    assert pool.acquire(A0) == (True, two)
    assert pool.acquire(A0) == (True, one)
    assert pool.acquire(A0) == (True, None)


def test_each_route_has_its_own_bound() -> None:
    pool = Pool(2)
    flows = [made(pool, route) for route in (A0, A0, A1, B0)]
    assert pool.acquire(A0) == (False, None)
    assert pool.acquire(A1) == (True, None)
    pool.release(A0, flows[0])
    assert pool.acquire(A0) == (True, flows[0])
    assert pool.acquire(A0) == (False, None)


def test_a_failed_flow_is_closed_and_its_place_is_free() -> None:
    pool = Pool(1)
    flow = made(pool, A0)
    flow.open = False
    pool.release(A0, flow)
    assert flow.closed == 1
    assert pool.acquire(A0) == (True, None)
    pool.release(A0, None)
    assert pool.acquire(A0) == (True, None)


def test_a_flow_of_any_lane_is_kept_for_the_lane_it_got() -> None:
    pool = Pool(1)
    anywhere = Route("a:9900", 0xFFFF)
    flow = made(pool, anywhere)
    flow.route = A1
    pool.release(anywhere, flow)
    assert pool.acquire(A1) == (True, flow)


def test_discard_idle() -> None:
    pool = Pool(4)
    flows = [made(pool, route) for route in (A0, A1, B0)]
    in_use = made(pool, A0)
    for flow in flows:
        pool.release(flow.route, flow)
    pool.discard_idle("a:9900")
    assert [flow.closed for flow in [*flows, in_use]] == [1, 1, 0, 0]
    assert pool.acquire(A0) == (True, None)
    assert pool.acquire(B0) == (True, flows[2])


def test_close() -> None:
    pool = Pool(4)
    idle, in_use = made(pool, A0), made(pool, A0)
    pool.release(A0, idle)
    pool.close()
    pool.close()
    assert (idle.closed, in_use.closed) == (1, 0)
    assert in_use.interrupted >= 1
    pool.release(A0, in_use)
    assert in_use.closed == 1
    with pytest.raises(ClientClosedError):
        pool.acquire(A0)


def test_abandon_takes_no_lock() -> None:
    pool = Pool(4)
    idle, in_use = made(pool, A0), made(pool, B0)
    pool.release(A0, idle)
    with pool._changed:
        pool.abandon()
    assert (idle.closed, in_use.closed) == (1, 1)
    assert (idle.interrupted, in_use.interrupted) == (0, 0), "the parent's connection would end"


def test_waiting_ends_with_time() -> None:
    pool = Pool(1)
    made(pool, A0)
    pool.wait([A0], 0.01)
    assert pool.acquire(A0) == (False, None)


def test_waiting_does_not_happen_where_there_is_a_place() -> None:
    pool = Pool(1)
    made(pool, A0)
    started_s = time.monotonic()
    pool.wait([A0, B0], 60)
    assert time.monotonic() - started_s < 30


@pytest.mark.parametrize("end", ["release", "close"])
def test_everyone_who_waits_is_woken(end: str) -> None:
    """Some wait for another route than the one that is given back: they must not swallow the wake-up."""
    pool = Pool(1)
    flows = {route: made(pool, route) for route in (A0, A1, B0)}
    woken: list[Route] = []

    def wait(route: Route) -> None:
        pool.wait([route], 60)
        woken.append(route)

    waiters = [threading.Thread(target=wait, args=(route,), daemon=True) for route in (A0, A1, A1, B0)]
    for waiter in waiters:
        waiter.start()
    while pool._waiting < len(waiters):
        time.sleep(0.001)
    if end == "close":
        pool.close()
    else:
        pool.release(B0, flows[B0])
        waiters[3].join(30)
        assert woken == [B0]
        pool.release(A0, flows[A0])
        pool.release(A1, flows[A1])
    for waiter in waiters:
        waiter.join(30)
    assert sorted(woken) == [A0, A1, A1, B0]
    assert pool._waiting == 0


def test_a_flow_of_any_lane_does_not_exceed_its_lanes_bound() -> None:
    pool = Pool(1)
    anywhere = Route("a:9900", 0xFFFF)
    stray, of_lane = made(pool, anywhere), made(pool, A1)
    stray.route = A1
    pool.release(anywhere, stray)
    assert stray.closed == 1
    pool.release(A1, of_lane)
    assert of_lane.closed == 0
