# SPDX-License-Identifier: Apache-2.0
"""The dashboard at the admin endpoint.

    GET  /                     cookie            the page; without a session, the way to /login
    GET  /login                open              the form; POST takes ``token=...`` and gives the cookie
    POST /logout               cookie            takes it back
    GET  /dashboard/FILE       open              scripts, style, icon: the same for everybody
    GET  /dashboard/events     cookie or token   server-sent events: ``points`` and ``state``
    GET  /v1/dashboard         cookie or token   the same once, as JSON
    GET  /v1/dashboard/node    token             this node alone, for its peers: {"node", "samples"}; ``since=SECONDS``

Nothing that is served here names another host, and the policy that goes with it allows none: no script, style, image
or connection but this node's own, nothing inline, and no frame around it.
"""

from __future__ import annotations

import hashlib
import html
import logging
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from memkv_core.log import RateLimitedLog
from memkv_server.admin import error_response, refusal
from memkv_server.dashboard.login import SESSION_S, Sessions
from memkv_server.dashboard.watch import Watch
from memkv_server.events import limited_event
from memkv_server.limits import LOGIN_BYTES_MAX

if TYPE_CHECKING:
    from memkv_server.supervisor import Supervisor

_LOG: Final = RateLimitedLog(logging.getLogger("memkv.server.dashboard"))
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # without any, a browser says of its own form that it comes from nowhere
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_PRIVATE: Final = {**_HEADERS, "cache-control": "no-store"}
_WRONG: Final = "That is not the token of this cluster's key."


class Dashboard:
    """Routes over a supervisor. ``tokens`` as for ``admin.create_app``."""

    def __init__(self, node: Supervisor, tokens: Sequence[str]) -> None:
        self.watch = Watch(node, tokens[0])
        self._tokens = list(tokens)
        self._sessions = Sessions(tokens)
        self._files = {
            entry.name: entry.read_bytes()
            for entry in resources.files("memkv_server.dashboard").joinpath("static").iterdir()
            if entry.is_file() and _type_of(entry.name) is not None
        }

    def routes(self) -> list[BaseRoute]:
        """For ``admin.create_app``: each looks after its own access."""
        return [
            Route("/", self.page),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/dashboard/events", self.events),
            Route("/dashboard/{name}", self.file),
            Route("/v1/dashboard", self.cluster),
            Route("/v1/dashboard/node", self.node),
        ]

    # -- pages --------------------------------------------------------------------------------------------------------
    async def page(self, request: Request) -> Response:
        """The dashboard, for who has logged in."""
        if not self._is_open(request):
            return RedirectResponse("/login", 303, _PRIVATE)
        return self._html("index.html")

    async def login(self, request: Request) -> Response:
        """The form; and the cookie for the token that it brings, or the form again."""
        if request.method != "POST":
            return RedirectResponse("/", 303, _PRIVATE) if self._is_open(request) else self._login_form()
        if not _is_from_here(request):
            return error_response(403, "a login comes from this node's own page")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LOGIN_BYTES_MAX:
                return error_response(413, f"a login is at most {LOGIN_BYTES_MAX} bytes")
        fields = parse_qs(body.decode("utf-8", "replace"))
        if not self._sessions.is_token(fields.get("token", [""])[0]):
            peer = request.client.host if request.client is not None else "unknown"
            words = "a login to the dashboard was refused: the token is not that of this cluster's key"
            limited_event(_LOG, "login", "login_refused", words, peer=peer)
            return self._login_form(_WRONG)
        response = RedirectResponse("/", 303, _PRIVATE)
        response.set_cookie(
            self._sessions.cookie_name, self._sessions.issue(), max_age=SESSION_S, path="/", httponly=True,
            samesite="strict", secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    async def logout(self, request: Request) -> Response:
        """Takes the cookie back."""
        if not _is_from_here(request):
            return error_response(403, "a logout comes from this node's own page")
        response = RedirectResponse("/login", 303, _PRIVATE)
        response.delete_cookie(self._sessions.cookie_name, path="/", httponly=True, samesite="strict")
        return response

    async def file(self, request: Request) -> Response:
        """A file of the page; a browser keeps it as long as it is the same."""
        name = request.path_params["name"]
        data = self._files.get(name)
        if data is None or name.endswith(".html"):
            return error_response(404, f"no such path: {request.url.path}")
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {**_HEADERS, "cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=_type_of(name), headers=headers)

    # -- numbers ------------------------------------------------------------------------------------------------------
    async def events(self, request: Request) -> Response:
        """The stream of an open page."""
        refused = self._refusal(request)
        if refused is not None:
            return refused
        if self.watch.crowded:
            return error_response(503, "as many pages are open as may be; close one")
        return StreamingResponse(
            self._stream(request), media_type="text/event-stream", headers={**_PRIVATE, "x-accel-buffering": "no"}
        )

    async def _stream(self, request: Request) -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        async for name, data in self.watch.stream():
            if self._refusal(request) is not None or await request.is_disconnected():
                return
            yield f"event: {name}\ndata: {data}\n\n"

    async def cluster(self, request: Request) -> Response:
        """All that a page is told, once."""
        refused = self._refusal(request)
        return refused if refused is not None else JSONResponse(await self.watch.look_once(), headers=_PRIVATE)

    async def node(self, request: Request) -> Response:
        """This node, for its peers."""
        refused = refusal(request, self._tokens)
        if refused is not None:
            return refused
        since = request.query_params.get("since", "0")
        if not since.isascii() or not since.isdigit() or len(since) > 12:
            return error_response(400, f"since={since[:40]!r} is no time in whole seconds since the epoch")
        samples = [sample.as_json() for sample in self.watch.history.since(int(since))]
        return JSONResponse({"node": await self.watch.view(), "samples": samples}, headers=_PRIVATE)

    # -- access -------------------------------------------------------------------------------------------------------
    def _is_open(self, request: Request) -> bool:
        return self._sessions.is_open(request.cookies.get(self._sessions.cookie_name))

    def _refusal(self, request: Request) -> Response | None:
        return None if self._is_open(request) else refusal(request, self._tokens)

    def _login_form(self, reason: str = "") -> Response:
        return self._html("login.html", 401 if reason else 200, {"{{reason}}": html.escape(reason)})

    def _html(self, name: str, status: int = 200, filled: dict[str, str] | None = None) -> Response:
        text = self._files[name].decode()
        for place, value in (filled or {}).items():
            text = text.replace(place, value)
        return Response(text, status, _PRIVATE, "text/html")


def _type_of(name: str) -> str | None:
    return next((kind for ending, kind in _TYPES.items() if name.endswith(ending)), None)


def _is_from_here(request: Request) -> bool:
    """A browser says where a form was; what is no browser says nothing."""
    relation, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if relation is not None:
        return relation in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
