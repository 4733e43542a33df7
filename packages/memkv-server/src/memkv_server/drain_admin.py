# SPDX-License-Identifier: Apache-2.0
"""Taking a node out of service for a while, at its admin endpoint.

    POST   /v1/drain   token   clients are let go and none is taken; /v1/ready says 503
    DELETE /v1/drain   token   clients are taken again

Both answer ``{"draining", "connections", "sessions"}``, and may be repeated: ``connections`` is 0 once all are gone.
A session ends between two requests, and a new one is refused with DRAINING, which opens a client's breaker at once: its
keys of this node are misses without a wait, until a probe finds the node serving again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from memkv_server.supervisor import Supervisor

Handler = Callable[[Request], Awaitable[Response]]


class DrainAdmin:
    """Handlers over a supervisor."""

    def __init__(self, node: Supervisor) -> None:
        self._node = node

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler), for ``admin.create_app``."""
        return [("POST", "/v1/drain", self.begin), ("DELETE", "/v1/drain", self.end)]

    async def begin(self, _request: Request) -> Response:
        """The handler of POST."""
        return await self._hold(True)

    async def end(self, _request: Request) -> Response:
        """The handler of DELETE."""
        return await self._hold(False)

    async def _hold(self, held: bool) -> Response:
        self._node.hold(held)
        await asyncio.gather(*(lane.refresh() for lane in self._node.lanes))
        serving = [lane.status for lane in self._node.lanes if lane.serving]
        return JSONResponse(
            {
                "draining": self._node.draining or self._node.held,
                "connections": sum(int(status.get("connections", 0)) for status in serving),
                "sessions": sum(int(status.get("sessions", 0)) for status in serving),
            }
        )
