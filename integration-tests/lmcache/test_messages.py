# SPDX-License-Identifier: Apache-2.0
"""What is set wrong is named at the start, by the log of LMCache's own process and by ``memkv-lmcache check``.

In-process LMCache goes on without its remote tier when a plugin cannot be made: the line in the log is all there is.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lmcache_rig.engine import STORAGE_PLUGIN, Engine, write_yaml
from lmcache_rig.server import Server, free_port
from memkv_rig.cluster import Cluster, wait_until

from memkv_lmcache import backend

ENGINE_MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    # what is set in extra_config (None: left out), what LMCache's log or the check says
    "no class name": ({"storage_plugin.memkv.class_name": None}, ("class_name",)),
    "no module path": ({"storage_plugin.memkv.module_path": None}, ("module_path",)),
    "no such module": ({"storage_plugin.memkv.module_path": "memkv_lmcache.back"}, ("memkv_lmcache.back",)),
    "no such class": ({"storage_plugin.memkv.class_name": "MemKVBackend"}, ("MemKVBackend",)),
    "unknown setting": ({"storage_plugin.memkv.prefx": "a"}, ("'prefx'", "did you mean 'prefix'")),
    "wrong value": ({"storage_plugin.memkv.io_threads": "many"}, ("io_threads", "'many'")),
    "no license": ({"storage_plugin.memkv.license": "nowhere.license"}, ("nowhere.license",)),
}

L2_MISTAKES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"adapter_params": {"prefx": "a"}}, ("'prefx'", "did you mean 'prefix'")),
    ({"adapter_params": {"servers": "lm://127.0.0.1:65432"}}, ("lm://127.0.0.1:65432",)),
    ({"class_name": "MemKVAdapter"}, ("MemKVAdapter",)),
    ({"module_path": "memkv_lmcache.l2"}, ("memkv_lmcache.l2",)),
]


def yaml_with(path: Path, changes: dict[str, Any]) -> Path:
    write_yaml(path, STORAGE_PLUGIN)
    described = json.loads(path.read_text())
    extra = {**described["extra_config"], **changes}
    described["extra_config"] = {name: value for name, value in extra.items() if value is not None}
    path.write_text(json.dumps(described))
    return path


def check(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("memkv-lmcache")), "check", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("mistake", ENGINE_MISTAKES)
def test_of_the_yaml(mistake: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes, words = ENGINE_MISTAKES[mistake]
    yaml = yaml_with(tmp_path / "lmcache.yaml", changes)
    engine = Engine(yaml, "engine")
    try:
        assert engine.plugin is None
        logged = "\n".join(record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR"))
        for word in words:
            assert word in logged
    finally:
        engine.close()


@pytest.mark.usefixtures("cluster")
def test_a_good_yaml_passes_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = write_yaml(tmp_path / "lmcache.yaml", STORAGE_PLUGIN)
    good = check("--config", str(yaml))
    assert good.returncode == 0, good.stdout
    assert "error" not in good.stdout
    monkeypatch.delenv("PYTHONHASHSEED")
    warned = check("--config", str(yaml))
    assert warned.returncode == 0
    assert "PYTHONHASHSEED" in warned.stdout


@pytest.mark.usefixtures("cluster")
def test_the_check_says_the_same(tmp_path: Path) -> None:
    changes, words = ENGINE_MISTAKES["unknown setting"]
    adapter, adapter_words = L2_MISTAKES[0]
    of_yaml = check("--config", str(yaml_with(tmp_path / "lmcache.yaml", changes)))
    of_adapter = check("--l2-adapter", json.dumps({**Server.ADAPTER, **adapter}))
    assert (of_yaml.returncode, of_adapter.returncode) == (1, 1)
    assert all(word in of_yaml.stdout for word in words)
    assert all(word in of_adapter.stdout for word in adapter_words)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What our loggers say. LMCache gives them its handler and may keep their lines from the root logger."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = backend.logger
    logger.addHandler(handler)
    yield said
    logger.removeHandler(handler)


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Server]:
    """A second `lmcache server`, which has no remote tier."""
    with Server(tmp_path / "stranger.log") as made:
        yield made


def test_a_port_of_lmcache_given_as_a_node(
    stranger: Server, cluster: Cluster, tmp_path: Path, lines: list[str]
) -> None:
    server = f"127.0.0.1:{stranger.port}"
    engine = Engine(write_yaml(tmp_path / "lmcache.yaml", STORAGE_PLUGIN, options={"servers": server}), "engine")
    try:
        assert wait_until(lambda: any("`lmcache server` (ZeroMQ) listens there" in line for line in lines))
        assert any(server in line for line in lines)
    finally:
        engine.close()


@pytest.fixture
def lm_port(tmp_path: Path) -> Iterator[int]:
    """The port of LMCache's old remote server (``lm://``)."""
    port = free_port()
    command = [sys.executable, "-m", "lmcache.v1.server", "127.0.0.1", str(port), "cpu"]
    with (tmp_path / "lm.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            assert wait_until(lambda: _listens(port)), (tmp_path / "lm.log").read_text()
            yield port
        finally:
            process.kill()
            process.wait()


def test_an_lm_port_given_as_a_node(cluster: Cluster, lm_port: int, tmp_path: Path, lines: list[str]) -> None:
    yaml = write_yaml(tmp_path / "lmcache.yaml", STORAGE_PLUGIN, options={"servers": f"127.0.0.1:{lm_port}"})
    engine = Engine(yaml, "engine")
    try:
        assert wait_until(lambda: any("`lm://` server of LMCache listens there" in line for line in lines))
    finally:
        engine.close()
    said = check("--config", str(yaml))
    assert said.returncode == 1
    assert "`lm://` server of LMCache" in said.stdout


@pytest.mark.usefixtures("cluster")
def test_an_lm_port_given_to_the_l2_adapter(lm_port: int, tmp_path: Path) -> None:
    """It serves all the same, without a remote tier: the node may only be away. The log says what is there instead."""
    adapter = {**Server.ADAPTER, "adapter_params": {"servers": f"127.0.0.1:{lm_port}"}}
    with Server(tmp_path / "server.log", adapter=adapter) as server:
        assert wait_until(lambda: "`lm://` server of LMCache listens there" in server.log()), server.log()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("adapter", "words"), L2_MISTAKES)
def test_of_the_l2_adapter(adapter: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    described = {**Server.ADAPTER, **adapter}
    server = Server(tmp_path / "server.log", adapter=described)
    server.start()
    try:
        assert server.wait() != 0, "it started all the same"
        for word in words:
            assert word in server.log()
    finally:
        server.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
