# SPDX-License-Identifier: Apache-2.0
"""Which keys a node holds, at its admin endpoint, for an operator who looks.

    GET /v1/keys?namespace=NAME[&prefix=&limit=&after=]   token   {"keys": [...], "after": TEXT or null}

A row is ``{"key", "size", "meta_bytes", "lane"}``; key and prefix are written as ``keytext`` does. ``after`` of an
answer goes into the next request; null: that was all. An answer comes within about a second, however few keys were
found by then. 400 for arguments, 404 for a namespace that no lane knows, 503 where a lane does not answer.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from memkv_core.errors import InvalidArgumentError, StorageError
from memkv_core.limits import KEY_BYTES_MAX, NAMESPACE_BYTES_MAX
from memkv_server.keytext import key_text, parse_key
from memkv_server.limits import LIST_KEYS_MAX, LISTED_KEYS_MAX
from memkv_server.namespace_admin import may_be_namespace

if TYPE_CHECKING:
    from memkv_server.lane_process import LaneProcess

TIMEOUT_S: Final = 10.0
PAUSE_S: Final = 0.004  # between two pieces of a millisecond: clients have four fifths of the lane meanwhile
ENOUGH_S: Final = 1.0  # then a request is answered with what there is
LIMIT_DEFAULT: Final = 1000
CURSOR_PATTERN: Final = "^([0-9]{1,9})-([0-9]{1,9})-((?:[0-9a-f]{32})?)$"
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a listing goes on: a lane, a drive of it, and the hash of the last key that was looked at."""

    lane: int = 0
    drive: int = 0
    after: str = ""

    def __str__(self) -> str:
        return f"{self.lane}-{self.drive}-{self.after}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """InvalidArgumentError for what no answer has said."""
        found = re.fullmatch(CURSOR_PATTERN, text)
        if found is not None:
            return cls(int(found[1]), int(found[2]), found[3])
        raise InvalidArgumentError(f"after={text!r} is no cursor", remedy="give what the answer before said")


class KeyAdmin:
    """Asks one lane after the other. ``lanes`` is the supervisor's list, which grows while it starts."""

    def __init__(self, lanes: Sequence[LaneProcess]) -> None:
        self._lanes = lanes

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler), for ``admin.create_app``."""
        return [("GET", "/v1/keys", self.list)]

    async def list(self, request: Request) -> Response:
        """The handler of GET."""
        given = request.query_params
        try:
            name = given["namespace"]
            prefix = parse_key(given.get("prefix", ""))
            limit = _limit(given.get("limit", str(LIMIT_DEFAULT)))
            cursor = Cursor.parse(given["after"]) if given.get("after") else Cursor()
        except KeyError:
            return _error(400, "name a namespace: /v1/keys?namespace=NAME; /v1/namespaces lists them")
        except InvalidArgumentError as error:
            return _error(400, str(error))
        if not may_be_namespace(name):
            return _error(404, f"no namespace {name[:NAMESPACE_BYTES_MAX]!r} here")
        if len(prefix) > KEY_BYTES_MAX:  # no key is so long; nor is a message to a lane
            return JSONResponse({"keys": [], "after": None})
        try:
            return await self._answer(name, prefix, limit, cursor)
        except StorageError as error:
            return _error(503, str(error))

    async def _answer(self, name: str, prefix: bytes, limit: int, cursor: Cursor) -> Response:
        rows: list[dict[str, Any]] = []
        known = cursor != Cursor()
        end_s = time.monotonic() + ENOUGH_S
        while cursor.lane < len(self._lanes) and len(rows) < limit and time.monotonic() < end_s:
            lane = self._lanes[cursor.lane]
            count = min(limit - len(rows), LIST_KEYS_MAX)
            arguments = {
                "name": name,
                "drive": cursor.drive,
                "after": cursor.after,
                "prefix": prefix.hex(),
                "count": count,
            }
            piece = await lane.call("list_keys", arguments, TIMEOUT_S)
            await asyncio.sleep(PAUSE_S)
            known = known or bool(piece["known"])
            rows += [{**row, "key": key_text(bytes.fromhex(row["key"])), "lane": lane.index} for row in piece["keys"]]
            ended = piece["drive"] is None
            cursor = Cursor(cursor.lane + 1) if ended else Cursor(cursor.lane, piece["drive"], piece["after"])
        if not self._lanes:
            return _error(503, "the lanes are starting")
        ended = cursor.lane >= len(self._lanes)
        if ended and not known:
            return _error(404, f"no namespace {name!r} here")
        return JSONResponse({"keys": rows, "after": None if ended else str(cursor)})


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= LISTED_KEYS_MAX:
        raise InvalidArgumentError(f"limit={text!r}", remedy=f"give a number from 1 to {LISTED_KEYS_MAX}")
    return int(text)


def _error(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)
