# SPDX-License-Identifier: Apache-2.0
"""The admin endpoints for the drives of a node; all of them need the token.

    GET  /v1/drives                          every drive with its state and the work on it
    POST /v1/drives/scrub?path=&rate=        begins a scrub at so many bytes a second
    POST /v1/drives/stop?path=               ends the work on a drive

An answer that is not 200 says why: 400 for arguments, 404 for a drive that the node has not, 409 where it refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from memkv_core.errors import StorageError
from memkv_server.lane_process import LaneProcess
from memkv_server.limits import JOB_RATE_DEFAULT, JOB_RATE_MAX, JOB_RATE_MIN

Handler = Callable[[Request], Awaitable[Response]]
_REMEDY: Final = "see `memkv drive list` for the drives of the node"


class DriveAdmin:
    """Handlers over the lanes of a supervisor. ``drives_of`` is what a lane says of its drives."""

    def __init__(
        self, lanes: Sequence[LaneProcess], drives_of: Callable[[LaneProcess], Sequence[dict[str, Any]]]
    ) -> None:
        self._lanes = lanes
        self._drives_of = drives_of

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler), for ``admin.create_app``."""
        return [
            ("GET", "/v1/drives", self.list),
            ("POST", "/v1/drives/scrub", self.scrub),
            ("POST", "/v1/drives/stop", self.stop),
        ]

    async def list(self, _request: Request) -> Response:
        """Every drive, freshly asked for."""
        await asyncio.gather(*(lane.refresh() for lane in self._lanes))
        rows = [{"lane": lane.index, **drive} for lane in self._lanes for drive in self._drives_of(lane)]
        return JSONResponse({"drives": rows})

    async def scrub(self, request: Request) -> Response:
        """Begins a scrub."""
        text = request.query_params.get("rate", str(JOB_RATE_DEFAULT))
        if not text.isdecimal() or not JOB_RATE_MIN <= int(text) <= JOB_RATE_MAX:
            return _error(400, f"rate {text!r} is no number of bytes from {JOB_RATE_MIN} to {JOB_RATE_MAX}")
        return await self._call(request, "start_scrub", {"rate_bytes_s": int(text)})

    async def stop(self, request: Request) -> Response:
        """Ends the work on a drive."""
        return await self._call(request, "stop_job", {})

    async def _call(self, request: Request, name: str, arguments: dict[str, Any]) -> Response:
        path = request.query_params.get("path", "")
        lane = next((lane for lane in self._lanes for drive in self._drives_of(lane) if drive["path"] == path), None)
        if lane is None:
            return _error(404, f"the node has no drive {path!r}; {_REMEDY}")
        try:
            return JSONResponse({"path": path, "job": await lane.call(name, {"path": path, **arguments})})
        except StorageError as error:
            return _error(409, str(error))


def _error(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)
