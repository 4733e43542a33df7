# SPDX-License-Identifier: Apache-2.0
"""The admin endpoint of a running node under thousands of requests that its own OpenAPI document leads to.

schemathesis makes requests that keep to the document and requests that break it, with and without the token: nothing
may end in a 5xx, an answer has the status, the type and the fields that the document promises, and what is refused is
refused in JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from deploy_rig.node import KEY, DeployedNode, credentials
from hypothesis import HealthCheck, settings

from memkv_core import Client, ClientConfig
from memkv_core.auth import admin_token
from memkv_server.openapi import OPERATIONS, Operation, document

TOKEN = admin_token(bytes.fromhex(KEY))
EXAMPLES = 60  # of each operation
# A parameter that is not known has no effect: a newer command may ask an older node.
CONFIG = schemathesis.Config.from_dict({"generation": {"allow-extra-parameters": False}})
SCHEMA = schemathesis.openapi.from_dict(document(), config=CONFIG)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedNode]:
    folder = tmp_path_factory.mktemp("node")
    credentials(folder)
    arguments = [
        "start", "--address", "127.0.0.1:0", "--auth-key-file", f"{folder}/auth-key", "--license", f"{folder}/license",
        "--license-keys", f"{folder}/license-keys", "--capacity", "64MiB", "--path", f"{folder}/d0",
        "--path", f"{folder}/d1",
    ]  # fmt: skip
    node = DeployedNode(folder, arguments, {})
    config = ClientConfig.load(
        servers=[node.address], auth_key=KEY, license=f"{folder}/license", license_keys=f"{folder}/license-keys",
        namespace="n",
    )  # fmt: skip
    with Client(config) as client:
        assert all(client.put([b"k%d" % number for number in range(100)], [b"value"] * 100))
    yield node
    node.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def served_document(node: DeployedNode) -> Any:
    with urllib.request.urlopen(f"http://{node.admin}/v1/openapi.json", timeout=10) as reply:
        return json.load(reply)


def test_the_node_serves_the_document(node: DeployedNode) -> None:
    assert served_document(node) == document()


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_no_request_ends_in_a_5xx_or_in_what_is_not_documented(
    case: Any, node: DeployedNode, session: requests.Session
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    case.call_and_validate(base_url=f"http://{node.admin}", session=session, headers=headers, timeout=30)
    if case.path == "/v1/drain":  # it is to serve the next request
        ask(node, "DELETE", "/v1/drain", TOKEN)


def ask(node: DeployedNode, method: str, path: str, token: str | None) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://{node.admin}{path}", method=method)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


CLOSED = [each for each in OPERATIONS if not each.open]


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], "\xe9"])
@pytest.mark.parametrize("operation", CLOSED, ids=lambda each: f"{each.method} {each.path}")
def test_without_the_token_it_is_401_in_json(node: DeployedNode, operation: Operation, token: str | None) -> None:
    code, body = ask(node, operation.method, operation.path.replace("{name}", "n"), token)
    assert (code, set(body)) == (401, {"error"})


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/nothing", "/v2/status", "/v1/status/../keys"])
def test_an_unknown_path_is_404_in_json(node: DeployedNode, path: str) -> None:
    code, body = ask(node, "GET", path, TOKEN)
    assert (code, set(body)) == (404, {"error"})


NO_HTTP = {
    "words": b"nonsense\r\n\r\n",
    "no version": b"GET /v1/health\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    "no length": b"GET /v1/health HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
    "too long": b"GET /v1/health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_400_in_json(node: DeployedNode, raw: bytes) -> None:
    host, port = node.admin.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(raw)
        with contextlib.closing(http.client.HTTPResponse(sock)) as answer:
            answer.begin()
            assert answer.status == 400
            assert set(json.loads(answer.read())) == {"error"}
