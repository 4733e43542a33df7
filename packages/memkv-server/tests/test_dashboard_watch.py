# SPDX-License-Identifier: Apache-2.0
"""When this node and its peers are looked at: while somebody watches, and not otherwise."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from memkv_server.admin_client import Reply
from memkv_server.dashboard import watch as watched
from memkv_server.dashboard.history import Sample
from memkv_server.dashboard.peers import Peer, admin_url
from memkv_server.dashboard.watch import Watch
from memkv_server.limits import STREAMS_MAX
from memkv_server.rates import Rates


class Looking(Watch):
    """A watch of nothing, which counts its looks."""

    looks = 0

    async def _look(self, peers: Any, series: Any) -> dict[str, Any]:
        self.looks += 1
        series.add("own", [Sample(5 * self.looks, Rates(5, {}))])
        return {"look": self.looks}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Looking:
    monkeypatch.setattr(watched, "TICK_S", 0.01)
    monkeypatch.setattr(watched, "LINGER_S", 0.05)
    network = SimpleNamespace(peers=(), tls_cert=None)
    return Looking(cast(Any, SimpleNamespace(config=SimpleNamespace(network=network), lanes=[])), "token")


async def first(watch: Watch, count: int) -> list[tuple[str, Any]]:
    """The first things that a page is told."""
    stream, told = watch.stream(), []
    async for name, text in stream:
        told.append((name, json.loads(text)))
        if len(told) == count:
            break
    await cast(Any, stream).aclose()
    return told


def test_a_page_is_told_the_points_and_then_the_state(watch: Looking) -> None:
    told = asyncio.run(first(watch, 4))
    assert [name for name, _ in told] == ["points", "state", "points", "state"]
    assert (told[1][1], len(told[0][1])) == ({"look": 1}, 1)
    assert told[2][1][0]["t"] > told[0][1][-1]["t"], "only what is new"


def test_nobody_looking_nothing_is_done_and_the_next_page_begins_anew(watch: Looking) -> None:
    async def watched_twice() -> None:
        await first(watch, 2)
        deadline_s = time.monotonic() + 30
        while not cast(Any, watch)._watching.done():
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)
        looks = watch.looks
        await asyncio.sleep(0.1)
        assert watch.looks == looks
        told = await first(watch, 2)
        assert told[1] == ("state", {"look": looks + 1}), "nothing of the earlier watch"

    asyncio.run(watched_twice())


def test_a_watch_that_ends_as_a_page_comes_begins_again(watch: Looking) -> None:
    async def cross() -> list[tuple[str, Any]]:
        await first(watch, 2)
        running = cast(Any, watch)._watching
        page = asyncio.create_task(first(watch, 2))
        await asyncio.sleep(0)  # it has found the watch running
        running.cancel()
        return await asyncio.wait_for(page, 30)

    assert asyncio.run(cross())[-1][0] == "state"


def test_a_close_ends_every_stream(watch: Looking) -> None:
    async def close() -> None:
        pages = [asyncio.create_task(first(watch, 10**9)) for _ in range(STREAMS_MAX)]
        deadline_s = time.monotonic() + 30
        while not watch.crowded:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)
        await watch.close()
        await asyncio.wait_for(asyncio.gather(*pages), 30)

    asyncio.run(close())


@pytest.mark.parametrize(
    ("peer", "tls", "url"),
    [
        ("host-a:9900", False, "http://host-a:9901"),
        ("host-a:9900", True, "https://host-a:9901"),
        ("[::1]:9900", False, "http://[::1]:9901"),
        ("https://host-a:9443", False, "https://host-a:9443"),
    ],
)
def test_where_a_peer_is_asked(peer: str, tls: bool, url: str) -> None:
    assert admin_url(peer, tls=tls) == url


def reply(body: dict[str, Any] | None, error: str | None = None) -> Reply:
    return Reply("peer", 200 if error is None else None, body, error)


def test_a_peer_is_down_with_the_reason_and_keeps_what_was_known() -> None:
    peer = Peer("peer:9900", "http://peer:9901")
    sample = Sample(int(time.time()), Rates(5, {}))
    far = Sample(int(time.time()) + 7200, Rates(5, {}))
    view = {"start": "theirs", "health": {"status": "healthy"}}
    body = {"node": view, "samples": [sample.as_json(), far.as_json()]}
    assert [each.at_s for each in peer.hear(reply(body), "ours")] == [sample.at_s], "a clock that is wrong"
    assert peer.state(time.monotonic()).up
    assert peer.hear(reply(None, "connection refused"), "ours") == []
    state = peer.state(time.monotonic() + 7)
    assert (state.up, state.error, state.view, state.silent_s >= 7) == (False, "connection refused", view, True)
    for odd in ({}, {"node": 3, "samples": []}, {"node": view, "samples": [{}]}, {"node": view, "samples": 3}):
        assert peer.hear(reply(odd), "ours") == []
        assert "another release" in str(peer.state(time.monotonic()).error)


def test_a_peer_that_is_this_node_is_left_alone() -> None:
    peer = Peer("peer:9900", "http://peer:9901")
    sample = Sample(int(time.time()), Rates(5, {}))
    assert peer.hear(reply({"node": {"start": "ours"}, "samples": [sample.as_json()]}), "ours") == []
    assert peer.own
