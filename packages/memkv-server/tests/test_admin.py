# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from memkv_core.address import Address
from memkv_core.auth import admin_token
from memkv_server.admin import AdminServer, create_app
from memkv_server.ports import bind, bound_address

TOKEN, PREVIOUS = admin_token(b"k" * 32), admin_token(b"p" * 32)


class StubNode:
    """A node that says what it is told to."""

    def __init__(self) -> None:
        self.state = "healthy"
        self.reason: str | None = None

    def health(self) -> dict[str, Any]:
        return {"status": self.state, "drives_online": 1}

    def not_ready(self) -> str | None:
        return self.reason

    async def status(self) -> dict[str, Any]:
        if self.state == "broken":
            raise RuntimeError("secret detail")
        return {"version": "0"}

    async def metrics(self) -> tuple[bytes, str]:
        return b"memkv_ready 1.0\n", "text/plain; version=1.0.0"


@dataclass
class Response:
    code: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Endpoint:
    """The real server on loopback, beside the test."""

    def __init__(self, address: Address, node: StubNode) -> None:
        self._address = address
        self.node = node

    def ask(self, path: str, method: str = "GET", authorization: str | None = None) -> Response:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        try:
            headers = {"authorization": authorization} if authorization is not None else {}
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, fields, response.read().decode())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Endpoint]:
    listener = bind(Address("127.0.0.1", 0), "admin")
    node = StubNode()
    server = AdminServer(create_app(node, [TOKEN, PREVIOUS]), None)
    listener.listen()
    thread = threading.Thread(target=lambda: asyncio.run(server.run_on(listener)))
    thread.start()
    yield Endpoint(bound_address(listener), node)
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def endpoint(served: Endpoint) -> Endpoint:
    served.node.__init__()  # type: ignore[misc]  # each test begins with a node that is well
    return served


@pytest.mark.parametrize(("health", "code"), [("healthy", 200), ("degraded", 200), ("unhealthy", 503)])
def test_health_is_open(endpoint: Endpoint, health: str, code: int) -> None:
    endpoint.node.state = health
    response = endpoint.ask("/v1/health")
    assert (response.code, response.json()["status"]) == (code, health)


def test_ready_is_open(endpoint: Endpoint) -> None:
    response = endpoint.ask("/v1/ready")
    assert (response.code, response.text) == (200, "ok\n")
    endpoint.node.reason = "the lanes are starting"
    response = endpoint.ask("/v1/ready")
    assert (response.code, response.json()) == (503, {"error": "the lanes are starting"})


@pytest.mark.parametrize("path", ["/v1/status", "/v1/metrics"])
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}0", "Bearer é"]
)
def test_status_and_metrics_need_the_token(endpoint: Endpoint, path: str, header: str | None) -> None:
    response = endpoint.ask(path, authorization=header)
    assert response.code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert set(response.json()) == {"error"}
    assert TOKEN not in response.text


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer {PREVIOUS}"])
def test_the_token_of_either_key_opens(endpoint: Endpoint, header: str) -> None:
    assert endpoint.ask("/v1/status", authorization=header).json() == {"version": "0"}
    metrics = endpoint.ask("/v1/metrics", authorization=header)
    assert metrics.text == "memkv_ready 1.0\n"
    assert metrics.headers["content-type"].startswith("text/plain; version=1.0.0")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/health/", "/v1/nothing", "/v1/status/x", "/%2e%2e/etc/passwd"])
def test_an_unknown_path_is_404_in_json(endpoint: Endpoint, path: str) -> None:
    response = endpoint.ask(path)
    assert response.code == 404
    assert "no such path" in response.json()["error"]


@pytest.mark.parametrize("path", ["/v1/health", "/v1/ready", "/v1/status", "/v1/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_another_method_is_405_in_json(endpoint: Endpoint, path: str, method: str) -> None:
    response = endpoint.ask(path, method)
    assert (response.code, set(response.json())) == (405, {"error"})
    assert "GET" in response.headers["allow"]


def test_an_error_of_ours_tells_no_detail(endpoint: Endpoint) -> None:
    endpoint.node.state = "broken"
    response = endpoint.ask("/v1/status", authorization=f"Bearer {TOKEN}")
    assert (response.code, response.json()) == (500, {"error": "internal error; the server's log names it"})
