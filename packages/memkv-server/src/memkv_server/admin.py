# SPDX-License-Identifier: Apache-2.0
"""The admin HTTP endpoint (port 9901): health and readiness for probes, status and metrics for operators.

    GET /v1/health    open    200 healthy or degraded, 503 unhealthy
    GET /v1/ready     open    200 "ok" once the node takes data connections, else 503
    GET /v1/openapi.json   open   all of this for a machine: ``openapi``
    GET /v1/status    token   JSON: version, memory, lanes, storage, connections, namespaces
    GET /v1/metrics   token   Prometheus text

and what ``create_app`` is given beside, such as ``namespace_admin`` and the dashboard.

The token is ``memkv_core.auth.admin_token(cluster key)``, sent as ``Authorization: Bearer``. Every error is
JSON: ``{"error": reason}``.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from memkv_core.errors import ConfigError
from memkv_server.admin_http import AdminProtocol
from memkv_server.openapi import document

log = logging.getLogger("memkv.server.admin")

Handler = Callable[[Request], Awaitable[Response]]


class Node(Protocol):
    """What the endpoint shows: the supervisor."""

    def health(self) -> dict[str, Any]:
        """``status`` (healthy, degraded, unhealthy), drive and lane counts."""

    def not_ready(self) -> str | None:
        """Why no data connection is taken, or None when they are."""

    async def status(self) -> dict[str, Any]:
        """The whole state of the node, JSON-able."""

    async def metrics(self) -> tuple[bytes, str]:
        """(Prometheus text, its content type)."""


def create_app(
    node: Node,
    tokens: Sequence[str],
    more: Sequence[tuple[str, str, Handler]] = (),
    pages: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application; ``tokens`` are of the cluster key and, while it is rotated, of the one before.

    ``more`` are further endpoints, all of which need the token: (method, path, handler). ``pages`` look after their
    own access.
    """

    def guarded(handler: Handler) -> Handler:
        async def guard(request: Request) -> Response:
            refused = refusal(request, tokens)
            return refused if refused is not None else await handler(request)

        return guard

    async def health(_request: Request) -> Response:
        body = node.health()
        return JSONResponse(body, status_code=503 if body["status"] == "unhealthy" else 200)

    async def ready(_request: Request) -> Response:
        reason = node.not_ready()
        return PlainTextResponse("ok\n") if reason is None else error_response(503, reason)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(document())

    async def status(_request: Request) -> Response:
        return JSONResponse(await node.status())

    async def metrics(_request: Request) -> Response:
        text, content_type = await node.metrics()
        return Response(text, media_type=content_type)

    further: dict[str, dict[str, Handler]] = {}  # one route a path: "allow" of a 405 names all of its methods
    for method, path, handler in more:
        further.setdefault(path, {})[method] = handler

    def by_method(handlers: dict[str, Handler]) -> Handler:
        async def choose(request: Request) -> Response:
            return await handlers["GET" if request.method == "HEAD" else request.method](request)

        return choose

    app = Starlette(
        routes=[
            Route("/v1/health", health),
            Route("/v1/ready", ready),
            Route("/v1/openapi.json", openapi),
            Route("/v1/status", guarded(status)),
            Route("/v1/metrics", guarded(metrics)),
            *(Route(path, guarded(by_method(of_path)), methods=list(of_path)) for path, of_path in further.items()),
            *pages,
        ],
        exception_handlers={HTTPException: _http_error, Exception: _server_error},
    )
    app.router.redirect_slashes = False  # a path with a slash too many is unknown, not another
    return app


class AdminServer(uvicorn.Server):
    """uvicorn inside the supervisor's loop, on a socket bound by the supervisor. ConfigError for a bad certificate."""

    def __init__(self, app: Starlette, tls: tuple[Path, Path] | None) -> None:
        config = uvicorn.Config(
            app,
            http=AdminProtocol,
            log_config=None,  # the process's own logging stands
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
            limit_concurrency=256,
            ssl_certfile=str(tls[0]) if tls else None,
            ssl_keyfile=str(tls[1]) if tls else None,
        )
        try:
            config.load()
        except OSError as error:  # of the certificate: ssl.SSLError is one
            raise ConfigError(
                f"network.tls_cert {tls[0] if tls else ''} and tls_key do not make a certificate: {error.strerror}",
                remedy="name a PEM certificate (with its chain) and its key without a passphrase",
            ) from error
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the supervisor's: it drains the lanes before this endpoint goes."""
        yield

    async def run_on(self, listener: socket.socket) -> None:
        """Serves until ``should_exit`` is set."""
        await self.serve(sockets=[listener])


def refusal(request: Request, tokens: Sequence[str]) -> Response | None:
    """The answer to a request without an admin token; None where it has one."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not presented:
        reason = "send the admin token as 'Authorization: Bearer TOKEN'; `memkv admin token` prints it"
    elif any(hmac.compare_digest(presented.strip().encode(), token.encode()) for token in tokens):
        return None
    else:
        reason = "the token is not that of this cluster's key"
    return error_response(401, reason, {"www-authenticate": "Bearer"})


def error_response(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """``{"error": reason}``."""
    return JSONResponse({"error": reason}, status_code=status, headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    if error.status_code == 404:
        return error_response(404, f"no such path: {request.url.path}", headers)
    if error.status_code == 405:
        return error_response(405, f"{request.method} is not allowed here", headers)
    return error_response(error.status_code, error.detail, headers)


async def _server_error(_request: Request, error: Exception) -> Response:
    log.error("admin request failed: %s: %s", type(error).__name__, error)
    return error_response(500, "internal error; the server's log names it")
