# SPDX-License-Identifier: Apache-2.0
"""The dashboard of real nodes, as HTTP: who gets in, what is told, what becomes of a peer that dies."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from memkv_core.address import parse_address
from memkv_core.auth import admin_token
from memkv_server.limits import HISTORY_STEP_S
from memkv_server.ports import lasting_pairs

KEY = "a1" * 32
TOKEN = admin_token(bytes.fromhex(KEY))
BEARER = {"authorization": f"Bearer {TOKEN}"}


class Web:
    """A browser's part of HTTP, with one cookie."""

    def __init__(self, admin: str) -> None:
        self.address = parse_address(admin)
        self.cookie: dict[str, str] = {}

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, body, {**self.cookie, **(headers or {})})
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return response.status, fields, response.read().decode()
        finally:
            connection.close()

    def login(self, token: str = TOKEN, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str]]:
        code, fields, _text = self.ask("/login", "POST", urlencode({"token": token}), headers)
        if "set-cookie" in fields:
            self.cookie = {"cookie": fields["set-cookie"].split(";")[0]}
        return code, fields

    def events(self) -> Iterator[tuple[str, Any]]:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request("GET", "/dashboard/events", headers=self.cookie)
            response = connection.getresponse()
            assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
            name = ""
            while line := response.readline().decode():
                field, _, value = line.rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)
        finally:
            connection.close()


@pytest.fixture
def node(start_node: Callable[..., Any]) -> Any:
    return start_node()


@pytest.fixture
def web(node: Any) -> Web:
    return Web(node.admin)


def test_without_a_session_there_is_only_the_login(web: Web) -> None:
    code, fields, _ = web.ask("/")
    assert (code, fields["location"]) == (303, "/login")
    code, fields, text = web.ask("/login")
    assert (code, 'type="password"' in text) == (200, True)
    for path in ("/dashboard/events", "/v1/dashboard", "/v1/dashboard/node"):
        code, _, text = web.ask(path)
        assert (code, set(json.loads(text))) == (401, {"error"}), path
    assert web.ask("/v1/health")[0] == 200


def test_a_wrong_token_is_refused_and_said_in_the_log(web: Web, node: Any) -> None:
    for token in ("", "wrong", TOKEN[:-1], "<script>"):
        code, fields = web.login(token)
        assert (code, "set-cookie" in fields) == (401, False)
    log = node.log.read_text()
    assert "a login to the dashboard was refused" in log
    assert TOKEN not in log
    code, _, text = web.ask("/login", "POST", "token=" + "x" * 5000)
    assert (code, set(json.loads(text))) == (413, {"error"})
    assert web.login(headers={"origin": "http://elsewhere:9901"})[0] == 403


def test_the_right_token_opens_the_page_and_no_more(web: Web) -> None:
    code, fields = web.login()
    assert (code, fields["location"]) == (303, "/")
    said = fields["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said
    assert TOKEN not in said
    code, fields, text = web.ask("/")
    assert (code, fields["cache-control"]) == (200, "no-store")
    assert "default-src 'none'" in fields["content-security-policy"]
    assert "unsafe" not in fields["content-security-policy"]
    assert "<script>" not in text
    assert "style=" not in text
    assert web.ask("/v1/dashboard")[0] == 200
    for method, path in (("GET", "/v1/status"), ("POST", "/v1/drain"), ("GET", "/v1/dashboard/node")):
        assert web.ask(path, method)[0] == 401, "the cookie opens the page only"
    code, fields, _ = web.ask("/logout", "POST")
    assert (code, "max-age=0" in fields["set-cookie"].lower()) == (303, True)


def test_files_are_open_and_kept_while_they_are_the_same(web: Web) -> None:
    code, fields, text = web.ask("/dashboard/app.js")
    assert (code, fields["content-type"].split(";")[0]) == (200, "text/javascript")
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert web.ask("/dashboard/app.js", headers={"if-none-match": fields["etag"]})[0] == 304
    for name in ("index.html", "none.js", "../routes.py", "%2e%2e%2froutes.py"):
        assert web.ask(f"/dashboard/{name}")[0] == 404


def test_it_says_what_the_node_does(node: Any) -> None:
    with node.client(namespace="shown") as client:
        keys = [b"k%d" % number for number in range(32)]
        client.put(keys, [bytes(1024)] * 32)
        deadline = time.monotonic() + 60
        while True:
            client.get([*keys, b"none"], [bytearray(1024)] * 33)
            state = json.loads(Web(node.admin).ask("/v1/dashboard", headers=BEARER)[2])
            points = [point for point in state["points"] if point["get_keys"]]
            if points:
                break
            assert time.monotonic() < deadline
    assert (state["health"], len(state["nodes"]), state["storage"]["records"]) == ("healthy", 1, 32)
    (shown,) = [row for row in state["namespaces"] if row["name"] == "shown"]
    assert (shown["records"], shown["hits"] > 0, shown["misses"] > 0) == (32, True, True)
    (client_row,) = [row for row in state["clients"] if row["namespace"] == "shown"]
    assert client_row["client"].startswith("memkv-core/")
    assert (client_row["transport"], client_row["connections"] >= 1) == ("tcp", True)
    assert 0.9 < points[-1]["hit_ratio"] < 1
    assert 0 < points[-1]["get_p50"] <= points[-1]["get_p99"]
    assert points[-1]["t"] % HISTORY_STEP_S == 0


def test_a_time_that_is_none_is_400(web: Web) -> None:
    for since in ("x", "-1", "1e9", "9" * 40):
        code, _, text = web.ask(f"/v1/dashboard/node?since={since}", headers=BEARER)
        assert (code, "since" in json.loads(text)["error"]) == (400, True)


def test_a_refused_client_stands_among_the_problems_with_its_remedy(node: Any) -> None:
    with node.client(auth_key="b2" * 32) as stranger:
        assert stranger.exists([b"k"]) == [False]
    problems: list[dict[str, Any]] = []

    def is_told() -> bool:
        problems[:] = json.loads(Web(node.admin).ask("/v1/dashboard", headers=BEARER)[2])["problems"]
        return any(problem["event"] == "session_refused" for problem in problems)

    node.wait_for(is_told)
    (problem,) = [problem for problem in problems if problem["event"] == "session_refused"]
    assert "auth_key" in problem["remedy"]
    assert problem["node"] == node.address


def test_nodes_show_each_other_and_a_death(start_node: Callable[..., Any], tmp_path: Path) -> None:
    pairs = [str(pair) for pair in lasting_pairs("127.0.0.1", 2)]
    (tmp_path / "config.yaml").write_text(f"network: {{peers: [{', '.join(pairs)}]}}")
    first, second = (start_node("--config", str(tmp_path / "config.yaml"), "--address", pair) for pair in pairs)
    web = Web(first.admin)
    assert web.login()[0] == 303
    seen: list[list[tuple[str, str, bool]]] = []
    for name, value in web.events():
        if name != "state":
            continue
        seen.append([(node["name"], node["status"], node["own"]) for node in value["nodes"]])
        if seen[-1] == [(pairs[0], "healthy", True), (pairs[1], "healthy", False)] and second.process.poll() is None:
            second.stop(signal.SIGKILL)
        if (pairs[1], "down", False) in seen[-1]:
            assert value["health"] == "degraded"
            assert value["nodes"][1]["error"], "it is said why"
            break
        assert len(seen) < 30, seen
    assert first.stop() == 0, "open streams hold up no stop"
