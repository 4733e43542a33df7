# SPDX-License-Identifier: Apache-2.0
"""The other nodes of the cluster, asked one by one over their admin API while a page is open.

Each peer has a task of its own, so that one that is silent holds up no other. A peer that turns out to be this node
(its answer names this run of it) is left alone from then on: all nodes may have the same list.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from memkv_core.address import parse_address
from memkv_server.admin_client import THREADS_MAX, Reply, admin_of, ask
from memkv_server.dashboard.cluster import NodeState
from memkv_server.dashboard.history import Sample, sample_of

log = logging.getLogger("memkv.server.dashboard")

ASK_EVERY_S: Final = 2.0
ASK_TIMEOUT_S: Final = 2.0
CLOCK_S_MAX: Final = 60  # a sample from further in the future is of a node whose clock is wrong
PATH: Final = "/v1/dashboard/node"

Took = Callable[[str, Sequence[Sample]], None]


def admin_url(peer: str, *, tls: bool) -> str:
    """Where a peer of the settings is asked: its data address stands for the port after it, a URL for itself."""
    if "://" in peer:
        return peer.rstrip("/")
    return f"{'https' if tls else 'http'}://{admin_of(parse_address(peer))}"


class Peers:
    """``named`` are the peers of the settings. Used by the supervisor's loop only.

    ``took`` is given what a peer did since ``last_of`` it. ``tls``: this node's admin API, and so the others', has it.
    """

    def __init__(
        self, named: Sequence[str], token: str, start: str, took: Took, last_of: Callable[[str], int], *, tls: bool
    ) -> None:
        self._token = token
        self._start = start
        self._took = took
        self._last_of = last_of
        self._peers = [Peer(name.partition("://")[2] or name, admin_url(name, tls=tls)) for name in named]
        self._tasks: list[asyncio.Task[None]] = []
        self._threads: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Begins to ask each of them, again and again."""
        self._tasks = [asyncio.create_task(self._follow(peer)) for peer in self._others]

    async def ask_once(self) -> None:
        """Asks all of them, at the same time."""
        await asyncio.gather(*map(self._ask, self._others))

    async def close(self) -> None:
        """Asks no more; a question under way is left to end by its own timeout."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    @property
    def own_name(self) -> str | None:
        """What the settings call this node, once that is known."""
        return next((peer.name for peer in self._peers if peer.own), None)

    def states(self) -> list[NodeState]:
        """Of the others that were asked at least once, in the order of the settings."""
        now_s = time.monotonic()
        return [peer.state(now_s) for peer in self._others if peer.asked]

    @property
    def _others(self) -> list[Peer]:
        return [peer for peer in self._peers if not peer.own]

    async def _follow(self, peer: Peer) -> None:
        while not peer.own:
            await self._ask(peer)
            await asyncio.sleep(ASK_EVERY_S)

    async def _ask(self, peer: Peer) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(min(THREADS_MAX, len(self._peers)), "memkv-peers")
        path = f"{PATH}?since={self._last_of(peer.name)}"
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(self._threads, ask, peer.url, path, self._token, ASK_TIMEOUT_S)
        samples = peer.hear(reply, self._start)
        if samples:
            self._took(peer.name, samples)


class Peer:
    """One other node, as it last answered."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.own = False
        self.asked = False
        self._view: dict[str, Any] | None = None
        self._error: str | None = None
        self._heard_s = time.monotonic()

    def hear(self, reply: Reply, start: str) -> list[Sample]:
        """Takes an answer; what the node did since it was last asked. ``start`` is this node's own."""
        self.asked = True
        body = reply.body if reply.error is None else None
        if body is None:
            self._error = reply.error
            return []
        try:
            view, samples = dict(body["node"]), [sample_of(each) for each in body["samples"]]
            self.own = view["start"] == start
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._error = f"its answer is of another release ({type(error).__name__}); upgrade all nodes"
            return []
        self._view, self._error, self._heard_s = view, None, time.monotonic()
        latest = time.time() + CLOCK_S_MAX
        return [] if self.own else [sample for sample in samples if sample.at_s <= latest]

    def state(self, now_s: float) -> NodeState:
        """What is shown of it."""
        return NodeState(self.name, self._view, self._error, now_s - self._heard_s)
