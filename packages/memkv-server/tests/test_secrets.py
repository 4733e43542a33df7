# SPDX-License-Identifier: Apache-2.0
"""Keys, tokens and licenses stay out of every line that a node, its lanes, a client or the command line writes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memkv_core import Client, ClientConfig
from memkv_core.auth import admin_token
from memkv_core.errors import ConfigError, LicenseError

if TYPE_CHECKING:
    from conftest import Cli, Credentials, Node, StartNode

KEY = "a1" * 32  # as in conftest
PREVIOUS, WRONG = "c3" * 32, "d4" * 32


def secrets(license_token: str) -> list[str]:
    """What must stand nowhere: keys in any case, the admin's tokens, the license and each part of it."""
    found = [KEY, PREVIOUS, WRONG, *(admin_token(bytes.fromhex(key)) for key in (KEY, PREVIOUS, WRONG))]
    found += [license_token, *license_token.split(".")[1:]]
    return [*found, *(text.upper() for text in (KEY, PREVIOUS, WRONG))]


def leaks(text: str, license_token: str) -> list[str]:
    return [secret[:6] for secret in secrets(license_token) if secret in text]


def provoke(node: Node, cli: Cli) -> None:
    """Everything that a node may be moved to speak of, with wrong and right secrets in it."""
    with node.client() as client:
        assert client.put(["k"], [b"value"]) == [True]
    with node.client(auth_key=PREVIOUS) as client:
        assert client.exists(["k"]) == [True], "the key before is accepted while one is rotated"
    with node.client(auth_key=WRONG) as client:
        assert client.put(["k"], [b"value"]) == [False]
        assert client.servers_down()
    host, port = node.address.rsplit(":", 1)
    for sent in (
        b"GET / HTTP/1.1\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n",
        bytes.fromhex(KEY) * 4,
        b"x",
    ):
        with socket.create_connection((host, int(port)), 5) as peer, contextlib.suppress(OSError):  # it may close first
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(4096)
    for token in (admin_token(bytes.fromhex(KEY)), admin_token(bytes.fromhex(WRONG)), KEY, None):
        for path in ("/v1/status", f"/v1/{KEY}", f"/v1/metrics?token={KEY}"):
            node.ask(path, token=token)
    request = urllib.request.Request(f"http://{node.admin}/v1/drain", b"{" + KEY.encode(), {"authorization": "Basic x"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10)
    lane = node.status()["lanes"][0]["pid"]
    os.kill(lane, signal.SIGKILL)
    node.wait_for(
        lambda: node.status()["lanes"][0]["restarts"] == 1 and node.status()["lanes"][0]["state"] == "serving"
    )


@pytest.mark.parametrize("format", ["console", "json"])
def test_a_node_says_none(
    start_node: StartNode, cli: Cli, tmp_path: Path, credentials: Credentials, caplog: pytest.LogCaptureFixture,
    format: str,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    config = tmp_path / "config.yaml"
    config.write_text(f"network: {{auth_key_previous: '{PREVIOUS}'}}\nlimits: {{connections_max: 100}}\n")
    token = (credentials.dir / "minio.license").read_text().strip()
    node = start_node("--log-level", "debug", "--log-format", format, "--config", str(config), "--license", token)
    provoke(node, cli)
    node.stop()
    text = node.log.read_text()
    assert leaks(text, token) == []
    assert leaks(caplog.text, token) == [], "a client's own lines"
    assert "lane 0 is down" in text
    assert "refused" in text or "closed" in text
    if format == "json":
        events = [json.loads(line).get("event") for line in text.splitlines()]
        assert {"node_ready", "lane_ready", "lane_down", "node_stopping", "node_stopped"} <= set(events)
        assert events.count("node_ready") == 1
        assert events.count("lane_ready") == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", "--mode", "memory", "--capacity", "64MiB", "--license", "{token}x"),
        ("start", "--mode", "memory", "--capacity", "64MiB", "--auth-key-file", "{key file}"),
        ("start", "--mode", "memory", "--capacity", "64MiB", "--license-keys", "{token}"),
        ("config", "show"),
        ("config", "show", "--json"),
        ("license", "show"),
        ("license", "verify", "{token}x"),
        ("admin", "status", "--server", "127.0.0.1:1"),
        ("bench", "--{token}"),
    ],
)
def test_the_command_line_says_none(
    cli: Cli, credentials: Credentials, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    token = (credentials.dir / "minio.license").read_text().strip()
    (tmp_path / "bad.key").write_text(KEY[:-1] + "\n")
    fill = {"{token}": token, "{key file}": str(tmp_path / "bad.key")}
    words = list(arguments)
    for name, value in fill.items():
        words = [word.replace(name, value) for word in words]
    environment = {
        "MEMKV_SERVERS": "127.0.0.1:1", "MEMKV_AUTH_KEY": KEY, "MEMKV_LICENSE": token,
        "MEMKV_LICENSE_KEYS": str(credentials.authority.public_keys),
    }  # fmt: skip
    ran = cli(*words, env=environment)
    said = ran.stdout + ran.stderr
    assert said
    assert leaks(said, token) == []
    assert KEY[:-1] not in said


@pytest.mark.parametrize(
    "settings",
    [{"auth_key": KEY + "00"}, {"auth_key": KEY[:-1] + "z"}, {"license": "{token}x"}, {"license_keys": "{token}"}],
)
def test_the_errors_of_a_client_say_none(credentials: Credentials, settings: dict[str, str]) -> None:
    token = (credentials.dir / "minio.license").read_text().strip()
    good = {**credentials.client_settings("127.0.0.1:1"), "license": token}
    given = {name: value.replace("{token}", token) for name, value in settings.items()}

    def make() -> Client:
        return Client(ClientConfig.load(**{**good, **given}))

    with pytest.raises((ConfigError, LicenseError)) as caught:
        make()
    assert leaks(f"{caught.value!s} {caught.value!r}", token) == []
    assert KEY[:-1] not in str(caught.value)


def test_settings_show_none(credentials: Credentials) -> None:
    token = (credentials.dir / "minio.license").read_text().strip()
    config = ClientConfig.load(**{**credentials.client_settings("127.0.0.1:1"), "license": token})
    shown: list[Callable[[], object]] = [config.describe, config.masked, lambda: repr(config), lambda: str(config)]
    assert [leaks(str(show()), token) for show in shown] == [[]] * len(shown)
