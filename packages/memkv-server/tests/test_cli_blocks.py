# SPDX-License-Identifier: Apache-2.0
"""``memkv get``, ``put``, ``stat`` and ``ls`` on a real node of two lanes, and the endpoints beneath them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.auth import admin_token
from memkv_server import admin_client, key_admin, openapi
from memkv_server.keytext import key_text

if TYPE_CHECKING:
    from conftest import Cli, Node, StartNode

KEY = "a1" * 32  # as in conftest
TOKEN = admin_token(bytes.fromhex(KEY))
IDENTITY = {"model": "llama-3", "dtype": "bf16"}
ODD = b"\x00key [with] \\ and \xff"


def shell(node: Node, **more: str) -> dict[str, str]:
    settings = node.credentials.client_settings(node.address)
    return {
        "MEMKV_SERVERS": node.address, "MEMKV_AUTH_KEY": KEY, "MEMKV_LICENSE": settings["license"],
        "MEMKV_LICENSE_KEYS": settings["license_keys"], "MEMKV_TRANSPORT": "tcp", **more,
    }  # fmt: skip


@pytest.fixture
def node(start_node: StartNode, tmp_path: Path) -> Node:
    return start_node("--path", str(tmp_path / "d0"), "--path", str(tmp_path / "d1"))


def test_one_block_there_and_back(node: Node, cli: Cli, tmp_path: Path) -> None:
    env = shell(node)
    (tmp_path / "in").write_bytes(bytes(range(256)) * 300)
    done = cli("put", key_text(ODD), str(tmp_path / "in"), "--meta", "layout\\x00v2", env=env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = cli("get", key_text(ODD), "--output", str(tmp_path / "out"), env=env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    stated = cli("stat", key_text(ODD), "--json", env=env)
    body = json.loads(stated.stdout)
    copy = {"server": node.address, "rank": 1, "state": "present", "size": 76_800, "meta": "layout\\x00v2"}
    assert (stated.returncode, body["namespace"], body["servers"]) == (0, "default", [copy])
    assert "present" in cli("stat", key_text(ODD), env=env).stdout
    with node.client() as client:
        assert client.exists([ODD]) == [True]
    assert cli("put", "k", env=env, input="from stdin\n").returncode == 0
    assert cli("get", "k", env=env).stdout == "from stdin\n"


def test_a_block_longer_than_the_first_target(start_node: StartNode, cli: Cli, tmp_path: Path) -> None:
    node = start_node("--capacity", "2GiB")
    (tmp_path / "in").write_bytes(b"0123456789abcdef" * (17 << 16))
    assert cli("put", "long", str(tmp_path / "in"), env=shell(node)).returncode == 0
    assert cli("get", "long", "-o", str(tmp_path / "out"), env=shell(node)).returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


def test_a_miss_is_exit_code_1_and_says_why(node: Node, cli: Cli) -> None:
    for command in ("get", "stat"):
        assert cli(command, "none", env=shell(node)).returncode == 1
    assert "a miss, absent, in namespace default" in cli("get", "none", env=shell(node)).stderr
    assert node.stop() == 0
    gone = shell(node, MEMKV_TIMEOUT_MS="500")
    assert "unreachable" in cli("get", "k", env=gone).stderr
    assert "unreachable" in cli("stat", "k", env=gone).stdout
    done = cli("put", "k", env=gone, input="x")
    assert done.returncode == 1
    assert "not stored, unreachable" in done.stderr
    done = cli("get", "k", "-n", "pinned", env=gone)
    assert done.returncode == 2
    assert "give --identity" in done.stderr


def test_the_identity_comes_from_the_nodes_or_the_command_line(node: Node, cli: Cli, tmp_path: Path) -> None:
    env = shell(node)
    with node.client(namespace="pinned") as plain, plain.scoped(identity=IDENTITY, namespace="pinned") as client:
        assert client.put([b"k"], [b"of an engine"]) == [True]
    assert cli("get", "k", "-n", "pinned", env=env).stdout == "of an engine"
    (tmp_path / "identity.json").write_text(json.dumps(IDENTITY))
    assert cli("get", "k", "-n", "pinned", "--identity", f"@{tmp_path}/identity.json", env=env).returncode == 0
    refused = cli("get", "k", "-n", "pinned", "--identity", '{"model": "another"}', env=env)
    assert refused.returncode == 1
    assert "a miss, refused" in refused.stderr
    for wrong in ("{", "[]"):
        assert cli("get", "k", "-n", "pinned", "--identity", wrong, env=env).returncode == 2
    done = cli("put", "k", "--identity", json.dumps(IDENTITY), env=env, input="x")
    assert "auto-" in done.stderr, "an identity without a namespace names one, as an adapter's does"


def test_ls(node: Node, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    env = shell(node)
    with node.client(namespace="n/1") as client:
        keys = [b"k%03d" % number for number in range(250)] + [ODD]
        assert all(client.put(keys, [key * 10 for key in keys]))
    listed = cli("ls", "-n", "n/1", "--limit", "1000", "--json", env=env)
    body = json.loads(listed.stdout)
    assert (listed.returncode, body["more"], body["errors"]) == (0, False, {})
    assert {row["key"]: row["size"] for row in body["keys"]} == {key_text(key): len(key) * 10 for key in keys}
    assert {row["lane"] for row in body["keys"]} == {0, 1}
    assert len(body["keys"]) == len(keys)
    body = json.loads(cli("ls", "-n", "n/1", "--prefix", "k24", "--json", env=env).stdout)
    assert len(body["keys"]) == 10
    short = cli("ls", "-n", "n/1", "--limit", "7", env=env)
    assert "more than these 7" in short.stderr
    assert key_text(ODD) in cli("ls", "-n", "n/1", "--prefix", "\\x00", env=env).stdout
    done = cli("ls", "-n", "nobody's", env=env)
    assert done.returncode == 2
    assert "memkv admin namespaces" in done.stderr
    for wrong in (["--limit", "0"], ["--prefix", "\\"]):
        assert cli("ls", "-n", "n/1", *wrong, env=env).returncode == 2
    done = cli("ls", "-n", "n/1", "-s", node.admin, "-s", "127.0.0.1:1", env=env)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", 400), ("namespace=n&limit=0", 400), ("namespace=n&limit=x", 400), ("namespace=n&limit=99999", 400),
        ("namespace=n&limit=%D9%A3", 400), ("namespace=n&after=1", 400), ("namespace=n&after=0-0-zz", 400),
        ("namespace=n&after=0-0-00", 400), ("namespace=n&prefix=%5C", 400), ("namespace=n&prefix=" + "a" * 600, 200),
        ("namespace=" + "a" * 60_000, 404),
        ("namespace=nobody", 404), ("namespace=n&after=7-0-", 200), ("namespace=n&after=0-99-", 200),
    ],
)  # fmt: skip
def test_requests_for_keys(node: Node, query: str, code: int) -> None:
    with node.client(namespace="n") as client:
        client.put([b"k"], [b"v"])
    reply = admin_client.ask(node.admin, f"/v1/keys?{query}", TOKEN)
    assert (reply.code, reply.error is None) == (code, code == 200), reply


def test_requests_for_a_namespace(node: Node) -> None:
    with node.client(namespace="a/b") as client:
        client.exists([b"k"])

    def ask(name: str, token: str | None = TOKEN) -> Any:
        return admin_client.ask(node.admin, f"/v1/namespaces/{quote(name, safe='')}", token)

    assert ask("a/b").body == {"name": "a/b", "identity": ""}
    assert ask("none").code == ask('"' * 20_000).code == 404
    assert admin_client.ask(node.admin, f"/v1/namespaces/{'n' * 60_000}", TOKEN, method="DELETE").code == 404
    assert ask("a/b", None).code == 401


def test_cursor() -> None:
    cursor = key_admin.Cursor(3, 1, "ab" * 16)
    assert key_admin.Cursor.parse(str(cursor)) == cursor


@given(st.data())
def test_every_cursor_that_the_document_allows_is_taken(data: st.DataObject) -> None:
    parameters = openapi.document()["paths"]["/v1/keys"]["get"]["parameters"]
    pattern = next(each["schema"]["pattern"] for each in parameters if each["name"] == "after")
    text = data.draw(st.from_regex(pattern).filter(lambda text: not text.endswith("\n")))
    if text:
        cursor = key_admin.Cursor.parse(text)
        lane, drive, after = text.split("-")
        assert (int(lane), int(drive), after) == (cursor.lane, cursor.drive, cursor.after)
    assert (text == "") == (re.fullmatch(key_admin.CURSOR_PATTERN, text) is None)
