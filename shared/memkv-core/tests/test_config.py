# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from memkv_core.config import ClientConfig, parse_auth_key
from memkv_core.errors import ConfigError
from memkv_core.settings import MissingSettingError, _log

KEY = "0123456789abcdef" * 4
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJhdWQiOiJtZW1rdiJ9.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MEMKV_"):
            monkeypatch.delenv(name)
    _log._seen.clear()


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKV_SERVERS", "host-a,host-b:9902")
    monkeypatch.setenv("MEMKV_AUTH_KEY", KEY)


def write(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.write_text(text)
    monkeypatch.setenv("MEMKV_CONFIG", str(path))
    return path


def failure(**overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        ClientConfig.load(**overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert not isinstance(caught.value.__cause__, ValidationError)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


@pytest.mark.usefixtures("base")
def test_defaults_and_environment() -> None:
    config = ClientConfig.load()
    assert config.servers == ("host-a:9900", "host-b:9902")
    assert config.addresses == (("host-a", 9900), ("host-b", 9902))
    assert config.auth_key_bytes == bytes.fromhex(KEY)
    assert (config.transport, config.license, config.license_keys) == ("auto", None, None)
    assert (config.rdma_devices, config.namespace, config.timeout_ms) == ((), None, 5000)
    assert (config.staging_size_mb, config.staging_slot_mb) == (1024, 16)
    assert (config.connections, config.replicas, config.integrity) == (4, 1, "xxh3")
    assert config.source_of("servers") == "MEMKV_SERVERS"
    assert config.source_of("timeout_ms") == "default"


@pytest.mark.usefixtures("base")
def test_every_field_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "MEMKV_TRANSPORT": "TCP", "MEMKV_LICENSE": "/l", "MEMKV_LICENSE_KEYS": "/k:/m",
        "MEMKV_NAMESPACE": "n", "MEMKV_RDMA_DEVICES": "mlx5_0, mlx5_1", "MEMKV_STAGING_SIZE_MB": "64",
        "MEMKV_STAGING_SLOT_MB": "8", "MEMKV_TIMEOUT_MS": "700", "MEMKV_CONNECTIONS": "2",
        "MEMKV_REPLICAS": "2", "MEMKV_INTEGRITY": "sha256",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    config = ClientConfig.load()
    assert {f"MEMKV_{name.upper()}" for name in ClientConfig.model_fields} == {
        *given,
        "MEMKV_SERVERS",
        "MEMKV_AUTH_KEY",
    }
    assert (config.transport, config.license, config.license_keys) == ("tcp", "/l", "/k:/m")
    assert (config.rdma_devices, config.namespace) == (("mlx5_0", "mlx5_1"), "n")
    assert (config.staging_size_mb, config.staging_slot_mb, config.timeout_ms) == (64, 8, 700)
    assert (config.connections, config.replicas, config.integrity) == (2, 2, "sha256")


@pytest.mark.usefixtures("base")
def test_precedence_keyword_yaml_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.yaml", "servers: [y1, y2:1]\ntimeout_ms: 11\nreplicas: 2\n", monkeypatch)
    monkeypatch.setenv("MEMKV_TIMEOUT_MS", "22")
    monkeypatch.setenv("MEMKV_CONNECTIONS", "3")
    config = ClientConfig.load(replicas=1, namespace=None)
    assert (config.servers, config.timeout_ms, config.connections) == (("y1:9900", "y2:1"), 11, 3)
    assert config.replicas == 1
    rows = {row.name: row for row in ClientConfig.explain(replicas=1)}
    assert rows["replicas"].source == "keyword argument"
    assert rows["replicas"].shadowed == (str(path),)
    assert (rows["timeout_ms"].value, rows["timeout_ms"].source) == ("11", str(path))
    assert rows["timeout_ms"].shadowed == ("MEMKV_TIMEOUT_MS",)
    assert rows["timeout_ms"].warning == f"MEMKV_TIMEOUT_MS sets timeout_ms without effect: {path} comes first"
    assert (rows["connections"].source, rows["connections"].warning) == ("MEMKV_CONNECTIONS", None)
    assert (rows["auth_key"].value, rows["auth_key"].source) == ("****", "MEMKV_AUTH_KEY")
    assert rows["integrity"].source == "default"
    assert config.source_of("servers") == str(path)


@pytest.mark.parametrize("text", ["servers: a,b:1\n", "servers: [a, 'b:1']\n", "servers:\n- a\n- b:1\n"])
def test_yaml_servers_as_list_or_comma_text(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "m.yaml", text + f"auth_key: '{KEY.upper()}'\n", monkeypatch)
    config = ClientConfig.load()
    assert config.servers == ("a:9900", "b:1")
    assert config.auth_key_bytes == bytes.fromhex(KEY)


def test_what_is_missing_is_named_with_its_variable() -> None:
    text = failure()
    for word in ["servers and auth_key are not set", "MEMKV_SERVERS", "MEMKV_AUTH_KEY", "`memkv keygen`"]:
        assert word in text
    text = failure(servers="a")
    assert "auth_key is not set" in text
    assert "MEMKV_SERVERS" not in text


def test_explain_shows_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKV_SERVERS", "")  # an empty variable counts as not set
    rows = {row.name: row for row in ClientConfig.explain(auth_key=KEY)}
    assert (rows["servers"].value, rows["servers"].source) == ("", "not set")
    assert (rows["auth_key"].value, rows["auth_key"].source) == ("****", "keyword argument")
    assert (rows["timeout_ms"].value, rows["timeout_ms"].source) == ("5000", "default")
    with pytest.raises(MissingSettingError):
        ClientConfig.load(auth_key=KEY)
    with pytest.raises(ConfigError, match="tpc"):
        ClientConfig.explain(auth_key=KEY, transport="tpc")


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TRANSPORT", "tpc", ["transport = 'tpc'", "auto | tcp | shm | rdma", "did you mean 'tcp'"]),
        ("INTEGRITY", "crc", ["integrity = 'crc'", "xxh3 | sha256"]),
        ("TIMEOUT_MS", "abc", ["timeout_ms = 'abc'", "1 to 600000"]),
        ("TIMEOUT_MS", "0", ["timeout_ms = '0'", "1 to 600000"]),
        ("TIMEOUT_MS", "1.5", ["timeout_ms = '1.5'"]),
        ("CONNECTIONS", "65", ["connections = '65'", "1 to 64"]),
        ("SERVERS", "a:99999", ["servers = 'a:99999'", "port '99999'"]),
        ("SERVERS", "a,,b", ["item 2 of 3 is empty"]),
        ("SERVERS", "a,A:9900", ["'A:9900' is listed as 'a'"]),
        ("SERVERS", ",".join(f"h{i}" for i in range(1025)), ["lists 1025 servers", "..."]),
        ("REPLICAS", "3", ["replicas = 3, but servers lists 2"]),
        ("STAGING_SLOT_MB", "2048", ["staging_slot_mb = 2048 exceeds staging_size_mb = 1024"]),
        ("RDMA_DEVICES", "mlx5_0,mlx5_0", ["listed twice"]),
        ("RDMA_DEVICES", "mlx5 0", ["no device name", "mlx5_0"]),
        ("NAMESPACE", "x" * 256, ["1 to 255 bytes"]),
        ("NAMESPACE", "a\nb", ["not printable"]),
    ],
)
def test_bad_variable(name: str, value: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MEMKV_{name}", value)
    text = failure()
    for word in [*words, "" if name in ("REPLICAS", "STAGING_SLOT_MB") else f"MEMKV_{name}: "]:
        assert word in text
    assert len(text) < 400


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "server: [a]\n",
            ["unknown setting 'server'", "did you mean 'servers'", "accepted: servers, auth_key"],
        ),
        ("zzz: 1\n", ["unknown setting 'zzz'; accepted:"]),
        ("timeout_ms: yes\n", ["timeout_ms = True", "not a number"]),
        ("timeout_ms: [1]\n", ["timeout_ms = [1]"]),
        ("timeout_ms:\n", ["timeout_ms = None"]),
        ("servers:\n", ["servers = None"]),
        ("servers: []\n", ["lists 0 servers"]),
        ("servers: {a: 1}\n", ["it is a dict"]),
        ("servers: [1]\n", ["item 1 of 1 is 1"]),
        ("namespace: 7\n", ["it is a int, not text"]),
        ("transport: 1\n", ["transport = 1", "auto | tcp"]),
        ("license: {a: b}\n", ["license = {'a': 'b'}"]),
        ("- a\n", ["holds a list"]),
    ],
)
def test_bad_yaml(text: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.yaml", text, monkeypatch)
    message = failure()
    for word in [*words, str(path)]:
        assert word in message


@pytest.mark.usefixtures("base")
def test_a_bad_higher_source_never_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKV_CONFIG", str(tmp_path / "absent.yaml"))
    assert "absent.yaml" in failure()
    write(tmp_path / "m.yaml", "auth_key: 12\n", monkeypatch)
    assert "m.yaml: auth_key: it is a int" in failure()
    assert "keyword argument: timeout_ms = -1" in failure(timeout_ms=-1, auth_key=KEY)
    assert "(and 1 more)" in failure(timeout_ms=-1)


@pytest.mark.usefixtures("base")
def test_optional_yaml_null_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKV_LICENSE", "/from-env")
    write(tmp_path / "m.yaml", "license:\nnamespace:\n", monkeypatch)
    config = ClientConfig.load()
    assert (config.license, config.namespace) == ("/from-env", None)


WRONG_KEYS = [
    ("deadbeef", "it has 8 characters instead of 64"),
    (KEY + "0", "it has 65 characters instead of 64"),
    ("g" + KEY[1:], "character 1 of 64 is no hexadecimal digit"),
    (KEY[:-1] + "G", "character 64 of 64"),
    ("\u0660" * 64, "no hexadecimal digit"),
    (int("9" * 64), "it is a int, not text"),
    (b"x" * 32, "it is a bytes"),
    ("<64-hex-char auth key>", "it has 22 characters"),
]


@pytest.mark.parametrize(("value", "cause"), WRONG_KEYS)
def test_a_wrong_key_is_described_and_never_echoed(value: object, cause: str) -> None:
    text = failure(servers="a", auth_key=value)
    assert cause in text
    assert "`memkv keygen`" in text
    assert str(value) not in text


@pytest.mark.usefixtures("base")
def test_nothing_printable_holds_a_secret() -> None:
    config = ClientConfig.load(license=TOKEN)
    rows = ClientConfig.explain(license=TOKEN)
    for text in [repr(config), str(config), config.describe(), str(config.masked()), str(rows)]:
        assert KEY not in text
        assert TOKEN not in text
        assert "****" in text
    assert '"license": "/x.license"' in ClientConfig.load(license="/x.license").describe()
    assert config.describe().startswith('{"servers": ["host-a:9900", "host-b:9902"], "auth_key": "****"')
    assert ClientConfig.load(auth_key=f" {KEY}\n").auth_key_bytes == bytes.fromhex(KEY)
    assert parse_auth_key(config.auth_key) == KEY


@pytest.mark.usefixtures("base")
def test_frozen_hashable_picklable() -> None:
    config = ClientConfig.load()
    with pytest.raises(ValueError, match="frozen"):
        config.timeout_ms = 1
    assert hash(config) == hash(ClientConfig.load())
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.usefixtures("base")
def test_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MEMKV_SERVRES", "a")
    monkeypatch.setenv("MEMKV_OTEL_ENDPOINT", "x")
    ClientConfig.load()
    ClientConfig.load()
    assert [record.getMessage() for record in caplog.records] == [
        "environment variable MEMKV_SERVRES is not known and has no effect; did you mean MEMKV_SERVERS?"
    ]


@pytest.mark.usefixtures("base")
def test_unknown_keyword() -> None:
    assert "keyword argument: unknown setting 'timeout'; did you mean 'timeout_ms'" in failure(timeout=3)
