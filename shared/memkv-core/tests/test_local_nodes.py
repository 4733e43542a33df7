# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.same_host import host_digest
from memkv_core.transports import local_nodes
from memkv_core.transports.local_nodes import LocalNodes

SERVER = "10.0.0.1:9900"
KEY_ID = b"12345678"


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("n.sock")
        sock.listen(8)
        yield sock


def welcome(path: object = "/n.sock", node: object = "n1", host: object = None) -> dict[str, Any]:
    return {"shm": {"socket": path, "node": node, "host": host_digest(KEY_ID) if host is None else host}}


def heard(path: str) -> LocalNodes:
    nodes = LocalNodes()
    nodes.heard(SERVER, welcome(path), KEY_ID)
    return nodes


def test_nothing_is_tried_before_a_server_has_said_something() -> None:
    nodes = LocalNodes()
    assert nodes.connect(SERVER) is None
    assert not nodes.worth_trying(SERVER)
    assert not nodes.is_here(SERVER)
    assert nodes.reason(SERVER) is not None
    nodes.failed(SERVER, "whatever")
    nodes.worked(SERVER)
    nodes.forget(SERVER)


def test_a_node_on_this_host(tmp_path: Path, listener: socket.socket) -> None:
    nodes = heard(str(tmp_path / "n.sock"))
    sock = nodes.connect(SERVER)
    assert sock is not None
    sock.close()
    assert nodes.reason(SERVER) is None
    assert nodes.is_node(SERVER, welcome())
    assert not nodes.is_node(SERVER, welcome(node="n2")), "started again, or another one"
    assert not nodes.is_node(SERVER, {})


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, "it shares no memory (network.socket)"),
        ({"shm": None}, "it shares no memory (network.socket)"),
        ({"shm": {}}, "what it says of its socket is not understood"),
        (welcome(path="relative"), "what it says of its socket is not understood"),
        (welcome(node=7), "what it says of its socket is not understood"),
        (welcome(host="0" * 64), "it runs on another host"),
        (welcome(host=""), "it runs on another host"),
    ],
)
def test_those_that_are_reached_over_tcp(said: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "memkv_core.transport")
    nodes = LocalNodes()
    for _ in range(3):
        nodes.heard(SERVER, said, KEY_ID)
    assert nodes.reason(SERVER) == reason
    assert not nodes.worth_trying(SERVER)
    assert not nodes.is_here(SERVER)
    assert caplog.messages == [f"{SERVER} is reached over tcp: {reason}"]


def test_a_host_that_does_not_know_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_nodes, "host_digest", lambda _salt: "")
    nodes = LocalNodes()
    nodes.heard(SERVER, welcome(host=""), KEY_ID)
    assert nodes.reason(SERVER) == "it runs on another host"


def test_a_socket_that_cannot_be_used_is_tried_again_after_longer_and_longer(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "memkv_core.transport")
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = tmp_path / "n.sock"
    nodes = heard(str(path))
    path.rename(tmp_path / "away")
    pauses = []
    for _ in range(12):
        assert nodes.connect(SERVER) is None
        began = now[0]
        while not nodes.worth_trying(SERVER):
            now[0] += 0.25
        pauses.append(now[0] - began)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, 60.0)
    assert nodes.is_here(SERVER)
    assert len(caplog.messages) == 1
    assert "No such file or directory" in caplog.messages[0]
    (tmp_path / "away").rename(path)
    sock = nodes.connect(SERVER)
    assert sock is not None
    sock.close()
    nodes.worked(SERVER)
    assert nodes.reason(SERVER) is None
    assert caplog.messages[1:] == [f"{SERVER} is reached through its socket {path} again"]
    nodes.failed(SERVER, "something else")
    now[0] += 0.5
    assert nodes.worth_trying(SERVER), "what has worked starts anew"


def test_what_came_of_it_is_kept_until_the_node_is_another(tmp_path: Path, listener: socket.socket) -> None:
    path = str(tmp_path / "n.sock")
    nodes = heard(path)
    nodes.failed(SERVER, "the nonce")
    nodes.heard(SERVER, welcome(path), KEY_ID)
    assert nodes.reason(SERVER) == "the nonce"
    nodes.heard(SERVER, welcome(path, node="n2"), KEY_ID)
    assert nodes.reason(SERVER) is None
