# SPDX-License-Identifier: Apache-2.0
"""The namespaces of a node at its admin endpoint: listed over all lanes, dropped in all lanes.

    GET    /v1/namespaces          token   {"namespaces": [...], "lanes": {"serving", "total"}}, in the order of names
    GET    /v1/namespaces/{name}   token   its identity as it was first presented: {"name", "identity"}; 404, 503
    DELETE /v1/namespaces/{name}   token   200 dropped everywhere; 404 no lane knows it; 503 not everywhere: ask again

A drop is answered when every lane has recorded it durably. A lane that does not serve cannot record it, which the
answer says; a drive that is away beside others that serve is told when it is back, and is named under ``away``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from memkv_core.errors import StorageError
from memkv_core.limits import NAMESPACE_BYTES_MAX
from memkv_server.engine.usage import join_namespaces
from memkv_server.limits import STATUS_NAMESPACES_MAX

if TYPE_CHECKING:
    from memkv_server.lane_process import LaneProcess

TIMEOUT_S: Final = 20.0
Handler = Callable[[Request], Awaitable[Response]]


class NamespaceAdmin:
    """Asks the lanes. ``lanes`` is the supervisor's list, which grows while it starts."""

    def __init__(self, lanes: Sequence[LaneProcess]) -> None:
        self._lanes = lanes

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler), for ``admin.create_app``."""
        return [
            ("GET", "/v1/namespaces", self.list),
            ("GET", "/v1/namespaces/{name:path}", self.describe),
            ("DELETE", "/v1/namespaces/{name:path}", self.drop),
        ]

    async def list(self, _request: Request) -> Response:
        """The handler of GET."""
        found = await asyncio.gather(*map(_all_of, self._lanes))
        rows: list[dict[str, Any]] = []
        for of_lane in found:
            rows = join_namespaces(rows, of_lane or [])
        serving = sum(of_lane is not None for of_lane in found)
        return JSONResponse(
            {
                "namespaces": sorted(rows, key=lambda row: str(row["name"])),
                "lanes": {"serving": serving, "total": len(found)},
            }
        )

    async def describe(self, request: Request) -> Response:
        """The handler of GET for one: ``identity`` is JSON text, empty where none was presented."""
        name: str = request.path_params["name"]
        if not may_be_namespace(name):
            return _too_long(name)
        failed = [] if self._lanes else ["the lanes are starting"]
        for lane in self._lanes:
            try:
                found = (await lane.call("describe_namespace", {"name": name}, TIMEOUT_S))["namespace"]
            except StorageError as error:
                failed.append(str(error))
                continue
            if found is not None:
                return JSONResponse(found)
        if failed:
            return JSONResponse({"error": "; ".join(failed)}, status_code=503)
        return JSONResponse({"error": f"no namespace {name!r} here"}, status_code=404)

    async def drop(self, request: Request) -> Response:
        """The handler of DELETE."""
        name: str = request.path_params["name"]
        if not may_be_namespace(name):
            return _too_long(name)
        started_s = time.monotonic()
        outcomes = await asyncio.gather(*(_drop_in(lane, name) for lane in self._lanes))
        done = [outcome["dropped"] for outcome in outcomes if outcome.get("dropped") is not None]
        failed = [outcome["error"] for outcome in outcomes if "error" in outcome]
        body: dict[str, Any] = {
            "name": name,
            "records": sum(dropped["records"] for dropped in done),
            "bytes": sum(dropped["bytes"] for dropped in done),
            "away": [path for dropped in done for path in dropped["away"]],
            "lanes": {"dropped": len(done), "total": len(self._lanes)},
            "seconds": round(time.monotonic() - started_s, 6),
        }
        if failed or not self._lanes:
            reason = "; ".join(failed) or "the lanes are starting"
            return JSONResponse({"error": f"not dropped everywhere: {reason}", **body}, status_code=503)
        if not done:
            return JSONResponse({"error": f"no namespace {name!r} here", **body}, status_code=404)
        return JSONResponse(body)


def may_be_namespace(name: str) -> bool:
    """Whether a lane is to be asked for it: a message to one has a bound."""
    return len(name.encode(errors="surrogatepass")) <= NAMESPACE_BYTES_MAX


def _too_long(name: str) -> Response:
    return JSONResponse({"error": f"no namespace {name[:NAMESPACE_BYTES_MAX]!r} here"}, status_code=404)


async def _drop_in(lane: LaneProcess, name: str) -> dict[str, Any]:
    try:
        return await lane.call("drop_namespace", {"name": name}, TIMEOUT_S)
    except StorageError as error:
        return {"error": f"lane {lane.index}: {error}"}


async def _all_of(lane: LaneProcess) -> list[dict[str, Any]] | None:
    """Every namespace of a lane, page by page; None where it does not answer."""
    rows: list[dict[str, Any]] = []
    try:
        while True:
            after = rows[-1]["name"] if rows else ""
            page = (await lane.call("list_namespaces", {"after": after}, TIMEOUT_S))["namespaces"]
            rows += page
            if len(page) < STATUS_NAMESPACES_MAX:
                return rows
    except StorageError:
        return None
