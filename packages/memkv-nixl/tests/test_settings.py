# SPDX-License-Identifier: Apache-2.0
"""The plugin's chain of settings is the client's: what memkv_core makes of a source, the plugin makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from memkv_core import ClientConfig
from memkv_core.errors import ConfigError

Ask = Callable[..., dict[str, Any]]
KEY = "0123456789abcdef" * 4
BASE = {"MEMKV_SERVERS": "a:9900", "MEMKV_AUTH_KEY": KEY}
COMPARED = ("servers", "timeout_ms", "connections", "replicas", "integrity", "license", "license_keys")


def both(
    ask_with: Ask, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], **parameters: str
) -> tuple[dict[str, Any], ClientConfig | str]:
    """What the plugin says and what memkv_core says to the same sources; an error as its text."""
    answer = ask_with(variables, "settings", parameters=parameters)
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            return answer, ClientConfig.load(**parameters)
        except ConfigError as error:
            return answer, str(error)


def assert_same(answer: dict[str, Any], config: ClientConfig | str) -> None:
    assert isinstance(config, ClientConfig), config
    assert "error" not in answer, answer["error"]
    for name in COMPARED:
        expected = getattr(config, name)
        assert answer[name] == (list(expected) if isinstance(expected, tuple) else expected or ""), name
    assert answer["namespace"] == (config.namespace or "default")
    assert answer["auth_key"] == config.auth_key.get_secret_value()
    for name, source in answer["sources"].items():
        assert source.replace("backend parameter " + name, "keyword argument") == config.source_of(name)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"MEMKV_SERVERS": " Host-B:1, [::1]:2 ,10.0.0.1"},
        {"MEMKV_NAMESPACE": "fleet a", "MEMKV_TIMEOUT_MS": "1", "MEMKV_CONNECTIONS": "64"},
        {"MEMKV_INTEGRITY": "SHA256", "MEMKV_TRANSPORT": "tcp", "MEMKV_STAGING_SIZE_MB": "16"},
        {"MEMKV_SERVERS": "a,b", "MEMKV_REPLICAS": "2", "MEMKV_RDMA_DEVICES": "mlx5_0,mlx5_1"},
        {"MEMKV_LICENSE": "/x/y", "MEMKV_LICENSE_KEYS": "/a:/b", "MEMKV_NAMESPACE": ""},
    ],
)
def test_environment(ask_with: Ask, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    assert_same(*both(ask_with, monkeypatch, {**BASE, **variables}))


def test_precedence(ask_with: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "memkv.yaml"
    written = {"servers": ["y:1", "z"], "auth_key": KEY, "timeout_ms": 2, "connections": 2, "namespace": None}
    path.write_text(yaml.safe_dump(written))
    variables = {"MEMKV_CONFIG": str(path), "MEMKV_TIMEOUT_MS": "3", "MEMKV_CONNECTIONS": "3", "MEMKV_NAMESPACE": "env"}
    answer, config = both(ask_with, monkeypatch, variables, timeout_ms="1")
    assert_same(answer, config)
    assert (answer["timeout_ms"], answer["connections"], answer["namespace"]) == (1, 2, "env")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"MEMKV_SERVERS": ""}, "MEMKV_SERVERS"),
        ({"MEMKV_AUTH_KEY": ""}, "MEMKV_AUTH_KEY"),
        ({"MEMKV_AUTH_KEY": "ab"}, "2 characters instead of 64"),
        ({"MEMKV_AUTH_KEY": KEY[:-1] + "g"}, "character 64 of 64"),
        ({"MEMKV_SERVERS": "a,,b"}, "item 2 of 3"),
        ({"MEMKV_SERVERS": "http://a:1"}, "scheme"),
        ({"MEMKV_SERVERS": "a:99999"}, "65535"),
        ({"MEMKV_SERVERS": "::1:9900"}, "without brackets"),
        ({"MEMKV_SERVERS": "A:9900,a"}, "listed"),
        ({"MEMKV_SERVERS": "1.2.3.400"}, "no IP address"),
        ({"MEMKV_TIMEOUT_MS": "0"}, "timeout_ms"),
        ({"MEMKV_TIMEOUT_MS": "soon"}, "timeout_ms"),
        ({"MEMKV_CONNECTIONS": "65"}, "connections"),
        ({"MEMKV_REPLICAS": "2"}, "replicas = 2, but servers lists 1"),
        ({"MEMKV_INTEGRITY": "crc"}, "integrity"),
        ({"MEMKV_TRANSPORT": "pigeon"}, "transport"),
        ({"MEMKV_NAMESPACE": "a\tb"}, "namespace"),
        ({"MEMKV_RDMA_DEVICES": "a,a"}, "listed twice"),
    ],
)
def test_bad_values(ask_with: Ask, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str) -> None:
    answer, error = both(ask_with, monkeypatch, {**BASE, **variables})
    assert isinstance(error, str)
    assert says in error
    assert says in answer["error"]
    assert "\n" not in answer["error"]
    assert KEY[:-1] not in answer["error"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("servers: [a]\nauth_key: 12\n", "quote it"),
        (f"servers: a\nauth_key: '{KEY}'\nnamespce: x\n", "unknown setting 'namespce'"),
        ("servers: a\nservers: b\n", "given twice"),
        ("servers: [a\n", "not valid yaml"),
        ("- a\n", "key: value"),
        (f"servers: a\nauth_key: '{KEY}'\ntimeout_ms: yes\n", "true or false"),
        (f"servers: a\nauth_key: '{KEY}'\ntimeout_ms:\n", "timeout_ms"),
        (f"servers: a\nauth_key: '{KEY}'\non_error: miss\n", "unknown setting 'on_error'"),
        ("servers: {a: b}\n", "servers"),
    ],
)
def test_bad_files(ask_with: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "memkv.yaml"
    path.write_text(text)
    answer, error = both(ask_with, monkeypatch, {"MEMKV_CONFIG": str(path)})
    assert isinstance(error, str)
    assert says in answer["error"]
    assert str(path) in answer["error"]


def test_file_that_is_not_there(ask_with: Ask, tmp_path: Path) -> None:
    answer = ask_with({"MEMKV_CONFIG": str(tmp_path / "none")}, "settings", parameters={})
    assert "cannot be read: no such file" in answer["error"]
    answer = ask_with({"MEMKV_CONFIG": str(tmp_path)}, "settings", parameters={})
    assert "it is a folder" in answer["error"]


def test_nothing_is_set(ask_with: Ask) -> None:
    error = ask_with({}, "settings", parameters={})["error"]
    assert "MEMKV_SERVERS" in error
    assert "MEMKV_AUTH_KEY" in error
    assert "MEMKV_CONFIG" in error


def test_other_names_of_parameters(ask_with: Ask) -> None:
    given = {"endpoint_override": "http://a:1/", "bucket": "b", "secret_key": KEY, "access_key": "x", "active": "True"}
    answer = ask_with({}, "settings", parameters=given)
    assert (answer["servers"], answer["namespace"], answer["auth_key"]) == (["a:1"], "b", KEY)
    answer = ask_with(BASE, "settings", parameters={"server": "b", "on_error": "miss", "threads": "2"})
    assert (answer["servers"], answer["on_error"], answer["connections"]) == (["b:9900"], "miss", 2)


def test_error_codes(ask_with: Ask) -> None:
    assert ask_with(BASE, "settings", parameters={})["error_codes"] == "precise"
    assert ask_with(BASE, "settings", parameters={"error_codes": "backend"})["error_codes"] == "backend"
    assert "precise | backend" in ask_with(BASE, "settings", parameters={"error_codes": "none"})["error"]


def test_bad_parameters(ask_with: Ask) -> None:
    assert "unknown setting 'sever'" in ask_with(BASE, "settings", parameters={"sever": "a"})["error"]
    assert "both given" in ask_with(BASE, "settings", parameters={"server": "a", "servers": "b"})["error"]
    assert "on_error" in ask_with(BASE, "settings", parameters={"on_error": "panic"})["error"]


def test_unknown_variable_is_warned_of(ask_with: Ask) -> None:
    answer = ask_with({**BASE, "MEMKV_SERVRES": "a"}, "settings", parameters={})
    assert "MEMKV_SERVRES is not known" in answer["stderr"]
    assert ask_with({**BASE, "MEMKV_SERVER_LANES": "2"}, "settings", parameters={})["stderr"] == ""


def test_secrets_are_masked(ask: Ask) -> None:
    given = {"auth_key": KEY, "secret_key": KEY, "license": "eyJx.y.z", "bucket": "b"}
    assert ask("masked", parameters=given) == {
        "auth_key": "****",
        "secret_key": "****",
        "license": "****",
        "bucket": "b",
    }
