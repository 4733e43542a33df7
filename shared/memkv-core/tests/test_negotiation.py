# SPDX-License-Identifier: Apache-2.0
"""Releases that speak different versions of the protocol: both roles of our session against the golden negotiations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memkv_core import auth, wire
from memkv_core.errors import RefusedError, RemoteProtocolError
from memkv_core.session import Session
from memkv_core.testing.vectors import load_vectors
from memkv_core.wire import ErrorCode

GOLDEN = load_vectors("handshake.json")
CASES = load_vectors("negotiation.json")["cases"]
KEY = bytes.fromhex(GOLDEN["auth_key"])


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], None]:
    """From here on this process speaks these versions."""

    def set_versions(versions: list[int]) -> None:
        monkeypatch.setattr(wire, "PROTOCOL_MIN", versions[0])
        monkeypatch.setattr(wire, "PROTOCOL_MAX", versions[1])

    return set_versions


def client_of() -> Session:
    return Session.client(
        KEY, namespace=GOLDEN["namespace"], identity=GOLDEN["identity"].encode(), lane=GOLDEN["lane"],
        agent=GOLDEN["agent"], nonce=bytes.fromhex(GOLDEN["client_nonce"]),
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_server(case: dict[str, Any], speak: Callable[[list[int]], None]) -> None:
    speak(case["server"])
    server = Session.server(auth.Keyring([KEY]), nonce=bytes.fromhex(GOLDEN["server_nonce"]))
    server.receive_message(bytes.fromhex(case["hello"]))
    refusal = server.refusal_of_hello()
    if case["version"] is None:
        assert refusal == (ErrorCode.UNSUPPORTED_VERSION, case["text"])
        assert server.send_refusal(*refusal).hex() == case["answer"]
    else:
        assert refusal is None
        assert server.send_challenge(GOLDEN["lane"]).hex() == case["answer"]
        assert server.version == case["version"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_client(case: dict[str, Any], speak: Callable[[list[int]], None]) -> None:
    speak(case["client"])
    client = client_of()
    assert client.send_hello().hex() == case["hello"]
    if case["version"] is None:
        with pytest.raises(RefusedError, match=case["text"]) as caught:
            client.receive_message(bytes.fromhex(case["answer"]))
        assert caught.value.code == ErrorCode.UNSUPPORTED_VERSION
        assert caught.value.remedy == "upgrade the servers first, then the clients"
    else:
        client.receive_message(bytes.fromhex(case["answer"]))
        client.send_proof()
        assert client.version == case["version"]


def test_a_server_that_chooses_what_was_not_offered(speak: Callable[[list[int]], None]) -> None:
    newer = next(case for case in CASES if case["version"] == 2)
    client = client_of()  # of today: 1 to 1
    client.send_hello()
    with pytest.raises(RemoteProtocolError, match="the server chose protocol 2"):
        client.receive_message(bytes.fromhex(newer["answer"]))
