# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import memkv_nixl._compat
import memkv_nixl.links
from memkv_nixl import __version__
from memkv_nixl.cli import app, main

runner = CliRunner()


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of plugins, and a file that stands for ours."""
    plugin = tmp_path / "libplugin_MEMKV.so"
    plugin.write_bytes(b"ours")
    monkeypatch.setattr(memkv_nixl.links, "PLUGIN", plugin)
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


def test_version() -> None:
    assert runner.invoke(app, ["version"]).output.strip() == __version__


def test_install_status_uninstall(plugins: Path) -> None:
    chosen = ["--plugins", str(plugins)]
    assert runner.invoke(app, ["status", *chosen]).exit_code == 1
    assert runner.invoke(app, ["install", *chosen, "--alias", "OBJ"]).exit_code == 0
    status = runner.invoke(app, ["status", *chosen, "--json"])
    assert status.exit_code == 0
    assert [place["state"] for place in json.loads(status.output)["places"]] == ["ours", "ours"]
    assert "MEMKV  MemKV" in runner.invoke(app, ["status", *chosen]).output
    assert runner.invoke(app, ["uninstall", *chosen]).exit_code == 0
    assert list(plugins.iterdir()) == []


@pytest.mark.parametrize("command", ["install", "env"])
def test_without_nixl_one_line_and_code_2(
    command: str, plugins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memkv_nixl._compat, "MODULES", ("no_such_module",))
    monkeypatch.setattr(sys, "argv", ["memkv-nixl", command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no NIXL wheel" in error


def test_check_without_settings(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVERS", "AUTH_KEY", "CONFIG"):
        monkeypatch.delenv(f"MEMKV_{name}", raising=False)
    checked = runner.invoke(app, ["check", "--json"])
    assert checked.exit_code == 1
    assert "MEMKV_SERVERS" in json.loads(checked.output)["findings"][0]["text"]
