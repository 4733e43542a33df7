# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from memkv_core.testing.socket_server import SocketServer
from memkv_lmcache import __version__
from memkv_lmcache.check import check
from memkv_lmcache.cli import app

PLUGIN = {
    "storage_plugin.memkv.module_path": "memkv_lmcache.backend",
    "storage_plugin.memkv.class_name": "MemKVStorageBackend",
}
GOOD: dict[str, Any] = {
    "storage_plugins": "memkv",
    "pre_caching_hash_algorithm": "sha256_cbor",
    "extra_config": PLUGIN,
}
L2 = {"type": "plugin", "module_path": "memkv_lmcache.l2_adapter", "class_name": "MemKVL2Adapter"}


@pytest.fixture(autouse=True)
def _no_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.delenv("LMCACHE_CONFIG_FILE", raising=False)


def said(tmp_path: Path, settings: Any) -> dict[str, list[str]]:
    path = tmp_path / "lmcache.yaml"
    path.write_text(yaml.safe_dump(settings))
    lines: dict[str, list[str]] = {"ok": [], "warning": [], "error": []}
    for finding in check(path, None):
        lines[finding.verdict].append(finding.text)
    return lines


def test_a_good_setup_has_no_error(server: SocketServer, tmp_path: Path) -> None:
    lines = said(tmp_path, GOOD)
    assert lines["error"] == []
    assert "a value stored by one client is read by another" in lines["ok"]
    assert f"{server.address} answers" in lines["ok"]
    assert "LMCache loads memkv_lmcache.backend.MemKVStorageBackend" in lines["ok"]


def test_the_remote_connector_is_checked_too(server: SocketServer, tmp_path: Path) -> None:
    remote = {
        "remote_storage_plugins": ["memkv"],
        "pre_caching_hash_algorithm": "sha256_cbor",
        "extra_config": {
            "remote_storage_plugin.memkv.module_path": "memkv_lmcache.connector",
            "remote_storage_plugin.memkv.class_name": "MemKVConnectorAdapter",
        },
    }
    lines = said(tmp_path, remote)
    assert lines["error"] == []
    assert "LMCache loads memkv_lmcache.connector.MemKVConnectorAdapter" in lines["ok"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra_config": {}}, "lacks storage_plugin.memkv.module_path"),
        (
            {"extra_config": {"storage_plugin.memkv.module_path": "memkv_lmcache.backend"}},
            "lacks storage_plugin.memkv.class_name",
        ),
        ({"extra_config": [1]}, "extra_config is no mapping"),
        ({"storage_plugins": "other"}, "neither storage_plugins nor remote_storage_plugins"),
        ({"extra_config": {**PLUGIN, "storage_plugin.memkv.put_queue": 1}}, "did you mean 'put_queue_mb'"),
        (
            {"extra_config": {**PLUGIN, "storage_plugin.memkv.module_path": "memkv_lmcache.backnd"}},
            "memkv_lmcache.backnd cannot be imported",
        ),
        (
            {"extra_config": {**PLUGIN, "storage_plugin.memkv.class_name": "MemKVBackend"}},
            "has no MemKVBackend; the class is MemKVStorageBackend",
        ),
        (
            {"extra_config": {**PLUGIN, "storage_plugin.memkv.class_name": "PutQueue"}},
            "is no StoragePluginInterface",
        ),
        ({"enable_pd": True, "local_cpu": False}, "without local_cpu LMCache loads no storage plugin"),
        ({"extra_config": {**PLUGIN, "storage_plugin.memkv.servers": "lm://127.0.0.1:65432"}}, "lm://127.0.0.1:65432"),
        ({"extra_config": {**PLUGIN, "storage_plugin.memkv.servers": "127.0.0.1:9"}}, "127.0.0.1:9: "),
    ],
)
def test_what_is_wrong_is_named(server: SocketServer, tmp_path: Path, change: Any, words: str) -> None:
    lines = said(tmp_path, {**GOOD, **change})
    assert any(words in line for line in lines["error"]), lines


def test_hashes_that_differ_by_process_are_warned_of(
    server: SocketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builtin = {name: value for name, value in GOOD.items() if name != "pre_caching_hash_algorithm"}
    assert any("PYTHONHASHSEED is not set" in line for line in said(tmp_path, builtin)["warning"])
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    assert any("PYTHONHASHSEED is not set" in line for line in said(tmp_path, builtin)["warning"])
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert not any("PYTHONHASHSEED" in line for line in said(tmp_path, builtin)["warning"])


def test_layerwise_beside_the_cpu_backend_is_warned_of(server: SocketServer, tmp_path: Path) -> None:
    assert any("use_layerwise" in line for line in said(tmp_path, {**GOOD, "use_layerwise": True})["warning"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (L2, None),
        ("{", "is no JSON"),
        ([], "no JSON object"),
        ({**L2, "type": "fs"}, "type is 'fs'"),
        ({"type": "plugin"}, "lacks module_path"),
        ({**L2, "adapter_params": {"prefx": "a"}}, "did you mean 'prefix'"),
        ({**L2, "adapter_params": []}, "adapter_params is no JSON object"),
        ({**L2, "class_name": "L2Adapter"}, "has no L2Adapter"),
    ],
)
def test_the_json_of_mp_mode_is_checked(server: SocketServer, spec: Any, words: str | None) -> None:
    findings = list(check(None, spec if isinstance(spec, str) else json.dumps(spec)))
    errors = [finding.text for finding in findings if finding.verdict == "error"]
    assert (errors == []) if words is None else any(words in line for line in errors)


def test_the_command_says_it_and_exits_accordingly(server: SocketServer, tmp_path: Path) -> None:
    path = tmp_path / "lmcache.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    run = CliRunner().invoke(app, ["check", "--config", str(path)])
    assert run.exit_code == 0, run.output
    assert "read by another" in run.output
    path.write_text(yaml.safe_dump({**GOOD, "extra_config": {}}))
    run = CliRunner().invoke(app, ["check", "--config", str(path), "--json"])
    assert run.exit_code == 1
    assert json.loads(run.output)["ok"] is False
    run = CliRunner().invoke(app, ["check"], env={"LMCACHE_CONFIG_FILE": str(path)})
    assert run.exit_code == 1
    assert CliRunner().invoke(app, ["version"]).output.strip() == __version__


def test_a_server_that_is_away_fails_the_check(server: SocketServer) -> None:
    server.stop()
    errors = [finding.text for finding in check(None, None) if finding.verdict == "error"]
    assert any(line.startswith(server.address) for line in errors)
