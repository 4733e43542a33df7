# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from memkv_core.errors import ConfigError
from memkv_server.config import ServerConfig
from memkv_server.supervisor import start_message

KEY = "5e" * 32
GIB = 1024**3


def load(tmp_path: Path, text: str = "", flags: dict[str, Any] | None = None) -> ServerConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return ServerConfig.load(path, flags)


def refusal(tmp_path: Path, text: str = "", flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, flags).checked()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults() -> None:
    config = ServerConfig.load()
    assert str(config.address) == "0.0.0.0:9900"
    assert str(config.admin_address) == "0.0.0.0:9901"
    assert (config.storage.mode, config.lane_count, config.auth_keys) == ("file", 1, ())


@pytest.mark.parametrize(
    ("address", "admin", "expected"),
    [
        ("127.0.0.1:7000", None, "127.0.0.1:7001"),
        ("127.0.0.1:0", None, "127.0.0.1:0"),
        ("[::1]:7000", None, "[::1]:7001"),
        ("127.0.0.1", None, "127.0.0.1:9901"),
        ("127.0.0.1:7000", "0.0.0.0:8000", "0.0.0.0:8000"),
        ("127.0.0.1:7000", "0.0.0.0", "0.0.0.0:9900"),
    ],
)
def test_admin_address(address: str, admin: str | None, expected: str) -> None:
    network = {"address": address} | ({"admin_address": admin} if admin else {})
    assert str(ServerConfig.load(None, {"network": network}).admin_address) == expected


def test_flags_over_file_over_environment_over_shared_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMKV_SERVER_NETWORK__ADDRESS", "10.0.0.1:1")
    monkeypatch.setenv("MEMKV_SERVER_NETWORK__ADMIN_ADDRESS", "10.0.0.1:2")
    monkeypatch.setenv("MEMKV_SERVER_LOG__LEVEL", "debug")
    monkeypatch.setenv("MEMKV_SERVER_LOG__FORMAT", "json")
    monkeypatch.setenv("MEMKV_AUTH_KEY", KEY)
    monkeypatch.setenv("MEMKV_LICENSE", "/from/environment")
    text = "network: {address: '10.0.0.2:1'}\nlog: {level: warning}\nlicense: /from/file\n"
    config = load(tmp_path, text, {"network": {"address": "10.0.0.3:1"}})
    assert config.network.address == "10.0.0.3:1"
    assert config.network.admin_address == "10.0.0.1:2"
    assert (config.log.level, config.log.format, config.license) == ("warning", "json", "/from/file")
    assert config.auth_keys == (bytes.fromhex(KEY),)
    path = str(tmp_path / "config.yaml")
    assert config.source_of("network.address") == "flag"
    assert config.source_of("log.level") == path
    assert config.source_of("log.format") == "MEMKV_SERVER_LOG__FORMAT"
    assert config.source_of("network.auth_key") == "MEMKV_AUTH_KEY"
    assert config.source_of("lanes") == "default"
    rows = {row.name: row for row in config.explain()}
    assert rows["network.address"].shadowed == (path, "MEMKV_SERVER_NETWORK__ADDRESS")
    assert rows["license"].shadowed == ("MEMKV_LICENSE",)
    assert rows["network.auth_key"].value == "****"
    assert KEY not in repr(rows)


def test_key_from_a_file_and_a_previous_one(tmp_path: Path) -> None:
    (tmp_path / "auth.key").write_text(KEY.upper() + "\n")
    text = f"network: {{auth_key: {tmp_path}/auth.key, auth_key_previous: '{'01' * 32}'}}"
    config = load(tmp_path, text)
    assert config.auth_keys == (bytes.fromhex(KEY), bytes.fromhex("01" * 32))
    assert KEY not in repr(config)


@pytest.mark.parametrize(
    ("size", "expected"), [("4GiB", 4 * GIB), ("512MiB", GIB // 2), ("1.5 GiB", 3 * GIB // 2), (4096, 4096)]
)
def test_sizes(size: object, expected: int) -> None:
    config = ServerConfig.load(None, {"storage": {"capacity": size}})
    assert config.storage.capacity == expected


def test_drives_without_capacity_share_what_is_left(tmp_path: Path) -> None:
    text = (
        f"network: {{auth_key: '{KEY}'}}\n"
        "storage: {capacity: 4GiB, drives: [{path: /a, capacity: 1GiB}, {path: /b}, {path: /c}]}\n"
    )
    config = load(tmp_path, text).checked()
    assert [config.capacity_of(lane) for lane in range(3)] == [GIB, 3 * GIB // 2, 3 * GIB // 2]
    message = start_message(config, 1)
    assert message["drives"] == [{"path": "/b", "capacity_bytes": 3 * GIB // 2}]
    assert (message["lane"], message["lane_count"], message["segment_bytes"]) == (1, 3, None)


def test_fewer_lanes_than_drives() -> None:
    drives = [{"path": f"/{name}", "capacity": "1GiB"} for name in "abc"]
    flags = {"network": {"auth_key": KEY}, "storage": {"drives": drives}, "lanes": 2}
    config = ServerConfig.load(None, flags).checked()
    assert [drive["path"] for drive in start_message(config, 0)["drives"]] == ["/a", "/c"]
    assert [config.capacity_of(lane) for lane in range(2)] == [2 * GIB, GIB]


def test_memory_is_shared_among_lanes() -> None:
    flags = {"network": {"auth_key": KEY}, "storage": {"mode": "memory", "capacity": "1GiB"}, "lanes": 4}
    config = ServerConfig.load(None, flags).checked()
    assert [config.capacity_of(lane) for lane in range(4)] == [GIB // 4] * 4
    assert start_message(config, 0)["drives"] == []


def test_durability_is_relaxed_unless_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_message(load(tmp_path, ""), 0)["durability"] == "relaxed"
    monkeypatch.setenv("MEMKV_SERVER_STORAGE__DURABILITY", "strict")
    assert start_message(load(tmp_path, ""), 0)["durability"] == "strict"
    assert start_message(load(tmp_path, "storage: {durability: strict}"), 0)["durability"] == "strict"
    shown = {row.name: (row.value, row.source) for row in ServerConfig.load().explain()}
    assert shown["storage.durability"] == ("strict", "MEMKV_SERVER_STORAGE__DURABILITY")


def test_a_capacity_in_per_cent_is_of_each_drive(tmp_path: Path) -> None:
    text = (
        f"network: {{auth_key: '{KEY}'}}\n"
        "storage: {mode: direct, capacity: 50%, drives: [{path: /dev/sdx, capacity: 100%}, {path: /b}]}\n"
        "memory: {max_size: 4GiB}\n"
    )
    config = load(tmp_path, text).checked()
    messages = [start_message(config, lane) for lane in range(2)]
    assert [message["drives"] for message in messages] == [
        [{"path": "/dev/sdx", "capacity_bytes": 0, "capacity_percent": 100.0}],
        [{"path": "/b", "capacity_bytes": 0, "capacity_percent": 50.0}],
    ]
    assert [message["memory_bytes"] for message in messages] == [2 * GIB, 2 * GIB]
    shown = {row.name: row.value for row in config.explain()}
    assert (shown["storage.capacity"], shown["storage.drives[0].capacity"]) == ("50%", "100%")
    assert shown["memory.max_size"] == str(4 * GIB)


def test_the_ram_pool_from_the_environment_and_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_message(ServerConfig.load(None, {}), 0)["memory_bytes"] is None
    monkeypatch.setenv("MEMKV_SERVER_MEMORY__MAX_SIZE", "256MiB")
    assert ServerConfig.load(None, {}).memory.max_size == GIB // 4


BAD_VALUES = [
    ("netwrok: {}", "unknown setting 'netwrok'; did you mean 'network'? accepted: network, storage"),
    ("network: {adress: x}", "unknown setting 'network.adress'; did you mean 'address'?"),
    ("storage: {drives: [{path: /a, size: 1}]}", "unknown setting 'storage.drives[0].size'"),
    ("storage: {mode: floppy}", "storage.mode = 'floppy'"),
    ("storage: {mode: floppy}", "accepted: file | direct | memory"),
    ("storage: {capacity: lots}", "storage.capacity = 'lots': it is no size; accepted: bytes, or 512MiB"),
    ("storage: {capacity: 0}", "storage.capacity = 0: it is not above zero"),
    ("storage: {capacity: 101%}", "storage.capacity = '101%': it is no share; accepted: 1% to 100%"),
    ("storage: {capacity: most%}", "storage.capacity = 'most%': it is no share"),
    ("storage: {drives: [{path: /a, capacity: [1]}]}", "storage.drives[0].capacity = a list: it is no size"),
    ("memory: {max_size: lots}", "memory.max_size = 'lots': it is no size"),
    ("memory: {maxsize: 1GiB}", "unknown setting 'memory.maxsize'; did you mean 'max_size'?"),
    ("storage: {drives: /a}", "storage.drives"),
    ("storage: 7", "storage = 7"),
    ("storage: {durability: none}", "storage.durability = 'none'"),
    ("storage: {durability: none}", "accepted: relaxed | strict"),
    ("network: {address: 'a:b:c'}", "network.address = 'a:b:c'"),
    ("network: {address: 9900}", "network.address = 9900"),
    ("lanes: 0", "lanes = 0"),
    ("limits: {connections_max: many}", "limits.connections_max = 'many'"),
    ("log: {level: loud}", "log.level = 'loud'"),
    ("network: {tls_cert: /a.pem}", "one of tls_cert and tls_key is set"),
]


@pytest.mark.parametrize(("text", "expected"), BAD_VALUES)
def test_bad_values_name_file_key_value_and_what_is_accepted(tmp_path: Path, text: str, expected: str) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(f"{tmp_path}/config.yaml: ")
    assert expected in message


BAD_COMBINATIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "network.auth_key is not set; make a key with `memkv keygen`"),
    ({"storage": {}}, "storage.drives is empty"),
    ({"storage": {"drives": [{"path": "/a"}]}}, "drive /a has no capacity"),
    ({"storage": {"mode": "memory"}}, "storage.capacity is not set"),
    ({"storage": {"mode": "memory", "capacity": 1, "durability": "strict"}}, "strict is not possible in mode memory"),
    ({"storage": {"mode": "memory", "capacity": 1, "drives": [{"path": "/a"}]}}, "takes no drives"),
    ({"storage": {"mode": "memory", "capacity": "50%"}}, "50% is a share of a drive, and mode memory has none"),
    ({"storage": {"capacity": 1, "drives": [{"path": "/a"}]}, "memory": {"max_size": 1}}, "mode file has no RAM pool"),
    (
        {"storage": {"capacity": 9, "drives": [{"path": "/a", "capacity": "50%"}, {"path": "/b"}]}},
        "storage.capacity is 9 bytes, and a drive's is 50%",
    ),
    ({"storage": {"capacity": 9, "drives": [{"path": "/a"}, {"path": "/a/b"}]}}, "drives /a and /a/b overlap"),
    ({"storage": {"capacity": 9, "drives": [{"path": "/a"}, {"path": "/a/../a"}]}}, "overlap"),
    ({"storage": {"capacity": 1, "drives": [{"path": "/a", "capacity": 2}]}}, "add up to 2"),
    ({"storage": {"capacity": 2, "drives": [{"path": "/a", "capacity": 2}, {"path": "/b"}]}}, "leaves nothing for /b"),
    ({"storage": {"capacity": 2, "drives": [{"path": "/a"}]}, "lanes": 2}, "lanes is 2, and there are 1 drives"),
]


@pytest.mark.parametrize(("flags", "expected"), BAD_COMBINATIONS)
def test_bad_combinations(tmp_path: Path, flags: dict[str, Any], expected: str) -> None:
    key = {} if not flags else {"network": {"auth_key": KEY}}
    assert expected in refusal(tmp_path, "", {**key, **flags})


@pytest.mark.parametrize("key", ["0badc0de" * 7, "zz" * 32, "", "secret-secret-secret", 12345678901234567890])
def test_a_bad_key_is_never_quoted(tmp_path: Path, key: object) -> None:
    message = refusal(tmp_path, f"network: {{auth_key: {key!r}}}")
    assert message.startswith(f"{tmp_path}/config.yaml: network.auth_key: ")
    assert not str(key) or str(key) not in message


def test_a_bad_flag_and_a_bad_variable_are_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(tmp_path, "", {"storage": {"capacity": "x"}}).startswith("flag: storage.capacity = 'x'")
    monkeypatch.setenv("MEMKV_SERVER_LOG__LEVEL", "loud")
    assert refusal(tmp_path).startswith("MEMKV_SERVER_LOG__LEVEL: log.level = 'loud'")
    monkeypatch.setenv("MEMKV_SERVER_NETWORK", "{")
    assert refusal(tmp_path).startswith("MEMKV_SERVER_*: ")


def test_an_unknown_variable_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MEMKV_SERVER_STORGE", "{}")
    with caplog.at_level(logging.WARNING):
        ServerConfig.load()
    assert "MEMKV_SERVER_STORGE is not known" in caplog.text
    assert "did you mean MEMKV_SERVER_STORAGE?" in caplog.text


@pytest.mark.parametrize("text", ["- a\n", "a: [", "network: {address: x, address: y}", "\xff"])
def test_a_malformed_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        ServerConfig.load(tmp_path / "config.yaml")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        ServerConfig.load(tmp_path / "none.yaml")


def test_bounds_of_namespaces(tmp_path: Path) -> None:
    text = (
        f"network: {{auth_key: '{KEY}'}}\nstorage: {{mode: memory, capacity: 1GiB}}\nlanes: 2\n"
        "namespaces:\n- {match: keep}\n- {match: 'tenant-a*', quota: 200GiB, ttl: 7d}\n- {match: '*', ttl: 3600}\n"
    )
    config = load(tmp_path, text).checked()
    assert start_message(config, 1)["namespaces"] == [
        {"match": "keep", "quota_bytes": None, "ttl_s": None},
        {"match": "tenant-a*", "quota_bytes": 100 * GIB, "ttl_s": 7 * 86_400},
        {"match": "*", "quota_bytes": None, "ttl_s": 3600},
    ]
    assert start_message(ServerConfig.load(), 0)["namespaces"] == []
    rows = {row.name: row.value for row in config.explain()}
    assert rows["namespaces[1].match"] == "tenant-a*"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("namespaces: [{quota: 1GiB}]", "namespaces[0].match: "),
        ("namespaces: [{match: ''}]", "namespaces[0].match = ''"),
        ("namespaces: [{match: n, quota: many}]", "namespaces[0].quota = 'many': it is no size; accepted: "),
        ("namespaces: [{match: n, quota: 0}]", "namespaces[0].quota = 0"),
        ("namespaces: [{match: n, ttl: soon}]", "namespaces[0].ttl = 'soon': it is no span of time; accepted: seconds"),
        ("namespaces: [{match: n, ttl: 0s}]", "namespaces[0].ttl = '0s': it is too short or too long"),
        ("namespaces: [{match: n, age: 7d}]", "unknown setting 'namespaces[0].age'; accepted: match, quota, ttl"),
        ("namespaces: {match: n}", "namespaces = "),
    ],
)
def test_bounds_of_namespaces_that_are_none(tmp_path: Path, text: str, expected: str) -> None:
    message = refusal(tmp_path, text)
    assert expected in message
    assert "config.yaml" in message or "field required" in message


@pytest.mark.parametrize(
    ("text", "peers"),
    [
        ("network: {peers: [host-a, 'Host-B:9910', host-a:9900]}", ("host-a:9900", "host-b:9910")),
        ("network: {peers: 'host-a:9900,https://host-b'}", ("host-a:9900", "https://host-b:9901")),
        ("network: {peers: []}", ()),
    ],
)
def test_peers(tmp_path: Path, text: str, peers: tuple[str, ...]) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert ServerConfig.load(tmp_path / "config.yaml").network.peers == peers


def test_devices_of_the_environment_are_a_list_of_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKV_SERVER_RDMA__DEVICES", "mlx5_0,mlx5_1:1")
    assert ServerConfig.load().rdma.devices == ("mlx5_0", "mlx5_1:1")


def test_peers_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKV_SERVER_NETWORK__PEERS", "host-a:9900, host-b:9900")
    assert ServerConfig.load().network.peers == ("host-a:9900", "host-b:9900")


@pytest.mark.parametrize("value", ["[3]", "{a: 1}", "['ftp://host-a']", "['host-a:no']"])
def test_peers_that_are_none(tmp_path: Path, value: str) -> None:
    assert "network.peers" in refusal(tmp_path, f"network: {{peers: {value}}}")
