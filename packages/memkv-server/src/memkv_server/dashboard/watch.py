# SPDX-License-Identifier: Apache-2.0
"""While somebody looks: this node and its peers are looked at every TICK_S, and every open page is told.

Nobody looking, nothing runs here but the history. LINGER_S after the last page has gone the watch ends, so that a page
that is loaded again finds everything as it was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from memkv_core.address import Address
from memkv_server.dashboard.cluster import NodeState, cluster_state
from memkv_server.dashboard.history import History, counts_of, seconds_to_next
from memkv_server.dashboard.node_view import node_view
from memkv_server.dashboard.peers import Peers
from memkv_server.dashboard.series import Series
from memkv_server.limits import STREAMS_MAX

if TYPE_CHECKING:
    from memkv_server.supervisor import Supervisor

log = logging.getLogger("memkv.server.dashboard")

TICK_S: Final = 2.0
LINGER_S: Final = 20.0
_OWN: Final = "own"  # this node's name among the series
_ANYWHERE: Final = ("0.0.0.0", "::")  # no name for a node


class Watch:
    """Of one supervisor, in whose loop it lives. ``token`` opens the peers' admin APIs, as it opens this node's."""

    def __init__(self, node: Supervisor, token: str) -> None:
        self.start = secrets.token_hex(8)
        self.history = History()
        self._node = node
        self._token = token
        self._series = Series()
        self._state = ""
        self._streams = 0
        self._ticked = asyncio.Event()
        self._left_s = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def crowded(self) -> bool:
        """Whether as many pages are open as may be."""
        return self._streams >= STREAMS_MAX

    async def keep_history(self) -> None:
        """Samples the lanes' counters for as long as the node runs."""
        while True:
            at_s, seconds = seconds_to_next()
            await asyncio.sleep(seconds)
            self.history.observe(at_s, counts_of(self._node.lanes))

    async def view(self) -> dict[str, Any]:
        """This node's own view."""
        return await node_view(self._node, self.start, self.history.last)

    async def look_once(self) -> dict[str, Any]:
        """The state of the cluster, with all points, for who asks once. Takes as long as the slowest peer."""
        series = Series()
        peers = self._peers(series)
        try:
            await peers.ask_once()
            return {**await self._look(peers, series), "points": series.points()}
        finally:
            await peers.close()

    async def stream(self) -> AsyncIterator[tuple[str, str]]:
        """(event, JSON) for a page, from all that is known to what is new; ends when the node does.

        ``points`` come before the ``state`` that goes with them.
        """
        self._streams += 1
        revision = 0
        try:
            self._begin()
            while not self._closed:
                ticked, state = self._ticked, self._state
                if state:
                    points = self._series.points(revision)
                    revision = self._series.revision
                    if points:
                        yield "points", _json(points)
                    yield "state", state
                await ticked.wait()
        finally:
            self._streams -= 1
            self._left_s = time.monotonic()

    async def close(self) -> None:
        """Ends every stream."""
        self._closed = True
        self._tick()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    # -- the watch itself ---------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        if self._watching is None or self._watching.done():
            self._series, self._state = Series(), ""  # what an earlier watch saw is over
            self._watching = asyncio.create_task(self._run())
            self._watching.add_done_callback(self._ended)

    def _ended(self, _watching: asyncio.Task[None]) -> None:
        if self._streams and not self._closed:  # a page came while the watch was ending
            self._begin()

    async def _run(self) -> None:
        peers = self._peers(self._series)
        peers.open()
        try:
            while self._streams or time.monotonic() - self._left_s < LINGER_S:
                try:
                    self._state = _json(await self._look(peers, self._series))
                except Exception:  # a bug of ours: the pages wait for the next look, which may go better
                    log.exception("the dashboard could not be made")
                self._tick()
                await asyncio.sleep(TICK_S)
        finally:
            await peers.close()

    def _tick(self) -> None:
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    def _peers(self, series: Series) -> Peers:
        network = self._node.config.network
        tls = network.tls_cert is not None
        return Peers(network.peers, self._token, self.start, series.add, series.last_of, tls=tls)

    async def _look(self, peers: Peers, series: Series) -> dict[str, Any]:
        view = await self.view()
        series.add(_OWN, self.history.since(series.last_of(_OWN)))
        own = NodeState(peers.own_name or self._name(), view, own=True)
        return cluster_state([own, *peers.states()], time.time())

    def _name(self) -> str:
        address = self._node.data_address
        return str(Address(socket.gethostname(), address.port) if address.host in _ANYWHERE else address)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
