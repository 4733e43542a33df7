# SPDX-License-Identifier: Apache-2.0
"""``memkv doctor``: each thing it looks at when it is well and when it is not, on live nodes where there is one."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memkv_core import ClientConfig
from memkv_core.transports.sysfs import DeviceFacts, PortFacts
from memkv_core.transports.topology import PciPlace
from memkv_server import __version__
from memkv_server.admin_client import Reply
from memkv_server.doctor import engines
from memkv_server.doctor.cluster import of_node, of_versions
from memkv_server.doctor.drives import drive_latency
from memkv_server.doctor.engines import examine_engines, hash_seed
from memkv_server.doctor.finding import Finding, exit_code
from memkv_server.doctor.machine import examine_machine, huge_pages, rdma_device

if TYPE_CHECKING:
    from conftest import Cli, Credentials, StartNode

KEY = "a1" * 32  # as in conftest


def environment(credentials: Credentials, *servers: str) -> dict[str, str]:
    return {
        "MEMKV_SERVERS": ",".join(servers),
        "MEMKV_AUTH_KEY": KEY,
        "MEMKV_LICENSE": str(credentials.dir / "minio.license"),
        "MEMKV_LICENSE_KEYS": str(credentials.authority.public_keys),
    }


def report(cli: Cli, env: dict[str, str], *arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and the findings by what they are of."""
    done = cli("doctor", "--json", *arguments, env=env)
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout
    by_area: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        by_area.setdefault(finding["area"], []).append(finding)
        assert finding["verdict"] == "ok" or finding["remedy"], finding
    return done.returncode, by_area


class TestOnALiveCluster:
    def test_all_is_well(self, cli: Cli, start_node: StartNode, credentials: Credentials) -> None:
        node = start_node()
        code, found = report(cli, environment(credentials, node.address))
        assert code == 0
        for area in ("configuration", "license", "data port", "node", "version"):
            assert [each["verdict"] for each in found[area]] == ["ok"] * len(found[area]), found[area]
        assert len(found["data port"]) == 2  # the session, and how long an exists took
        assert "clock" not in found

    def test_a_node_that_is_down_is_named_and_the_other_is_well(
        self, cli: Cli, start_node: StartNode, credentials: Credentials
    ) -> None:
        node, dead = start_node(), start_node()
        dead.stop()
        code, found = report(cli, environment(credentials, node.address, dead.address))
        assert code == 1
        verdicts = {each["text"].split(" ")[0].rstrip(":"): each["verdict"] for each in found["data port"]}
        assert verdicts == {node.address: "ok", dead.address: "fail"}
        assert [each["verdict"] for each in found["node"]] == ["ok", "fail"]

    def test_another_key(self, cli: Cli, start_node: StartNode, credentials: Credentials) -> None:
        node = start_node()
        env = {**environment(credentials, node.address), "MEMKV_AUTH_KEY": "b2" * 32}
        code, found = report(cli, env)
        assert code == 1
        assert [each["verdict"] for each in found["data port"]] == ["fail"]
        assert "token" in found["node"][0]["text"]

    def test_the_table_is_for_people(self, cli: Cli, start_node: StartNode, credentials: Credentials) -> None:
        node = start_node()
        done = cli("doctor", env=environment(credentials, node.address))
        assert done.returncode == 0
        assert "remedy" in done.stdout
        assert node.address in done.stdout


class TestSettings:
    def test_nothing_is_set(self, cli: Cli) -> None:
        code, found = report(cli, {})
        assert code == 1
        assert found["configuration"][0]["verdict"] == "fail"
        assert "servers" in found["configuration"][0]["text"]

    def test_no_license(self, cli: Cli, credentials: Credentials, start_node: StartNode) -> None:
        node = start_node()
        env = environment(credentials, node.address)
        code, found = report(cli, {**env, "MEMKV_LICENSE": str(credentials.dir / "no such file")})
        assert code == 1
        assert found["license"][0]["verdict"] == "fail"

    def test_a_license_that_expires_soon(self, cli: Cli, credentials: Credentials, start_node: StartNode) -> None:
        node = start_node()
        env = environment(credentials, node.address)
        code, found = report(cli, {**env, "MEMKV_LICENSE": credentials.authority.issue("tests", days=3)})
        assert code == 0
        assert found["license"][0]["verdict"] == "warn"

    def test_a_variable_without_effect(
        self, cli: Cli, credentials: Credentials, start_node: StartNode, tmp_path: Path
    ) -> None:
        node = start_node()
        (tmp_path / "client.yaml").write_text("timeout_ms: 3000\n")
        env = {**environment(credentials, node.address), "MEMKV_CONFIG": "client.yaml", "MEMKV_TIMEOUT_MS": "10"}
        code, found = report(cli, env)
        assert code == 0
        assert [each["verdict"] for each in found["configuration"]] == ["ok", "warn"]
        assert "MEMKV_TIMEOUT_MS" in found["configuration"][1]["text"]


def status(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "version": __version__,
        "health": {"status": "healthy", "lanes": {"serving": 1, "total": 1}, "drives_online": 1, "drives_total": 1},
        "storage": {"used_bytes": 1, "capacity_bytes": 2, "corrupt_records": 0},
        "draining": False,
    }
    return {**body, **changes}


class TestNodes:
    def verdicts(self, body: dict[str, Any], date_s: float | None = 1000.0) -> list[tuple[str, str]]:
        return [(each.area, each.verdict) for each in of_node(Reply("a:9901", 200, body, None, date_s), 1000.0)]

    def test_a_healthy_one(self) -> None:
        assert self.verdicts(status()) == [("node", "ok")]

    @pytest.mark.parametrize(("health", "verdict"), [("degraded", "warn"), ("unhealthy", "fail")])
    def test_one_that_is_not_well(self, health: str, verdict: str) -> None:
        assert self.verdicts(status(health={**status()["health"], "status": health})) == [("node", verdict)]

    def test_one_that_drains(self) -> None:
        assert self.verdicts(status(draining=True)) == [("node", "warn")]

    def test_one_with_corrupt_records(self) -> None:
        body = status(storage={**status()["storage"], "corrupt_records": 3})
        assert self.verdicts(body) == [("node", "ok"), ("node", "warn")]

    @pytest.mark.parametrize("date_s", [900.0, 1100.0])
    def test_a_clock_that_is_off(self, date_s: float) -> None:
        assert self.verdicts(status(), date_s) == [("node", "ok"), ("clock", "warn")]

    def test_versions(self) -> None:
        same = Reply("a", 200, status(), None)
        other = Reply("b", 200, status(version="0.0.9"), None)
        assert [each.verdict for each in of_versions([same])] == ["ok"]
        (skewed,) = of_versions([same, other])
        assert skewed.verdict == "warn"
        assert "0.0.9" in skewed.text
        assert list(of_versions([Reply("c", None, None, "no answer in time")])) == []


class TestMachine:
    @pytest.mark.parametrize(
        ("text", "verdict"), [("always [madvise] never\n", "ok"), ("always madvise [never]\n", "warn")]
    )
    def test_huge_pages(self, tmp_path: Path, text: str, verdict: str) -> None:
        path = tmp_path / "kernel/mm/transparent_hugepage/enabled"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        assert huge_pages(tmp_path).verdict == verdict

    def test_rdma_devices(self) -> None:
        ports = (PortFacts(1, "ACTIVE", "100 Gb/sec", "Ethernet", (), ()), PortFacts(2, "DOWN", "", "Ethernet", (), ()))
        present = [DeviceFacts("mlx5_0", PciPlace(0, ()), ports)]
        assert rdma_device("mlx5_0", present).verdict == "ok"
        assert rdma_device("mlx5_0:1:3", present).verdict == "ok"
        assert "DOWN" in rdma_device("mlx5_0:2", present).text
        assert "no port 3" in rdma_device("mlx5_0:3", present).text
        missing = rdma_device("mlx5_7", present)
        assert missing.verdict == "fail"
        assert "there are mlx5_0" in missing.text

    def test_staging_memory_counts_only_with_rdma(self, credentials: Credentials, tmp_path: Path) -> None:
        settings = credentials.client_settings("127.0.0.1:9900")
        areas = [each.area for each in examine_machine(ClientConfig.load(**settings), tmp_path)]
        assert areas == ["hugepages", "rdma"]
        settings["rdma_devices"] = ["rxe0"]
        areas = [each.area for each in examine_machine(ClientConfig.load(**settings), tmp_path)]
        assert areas == ["hugepages", "rdma", "memlock"]


class TestDrives:
    def test_a_folder(self, tmp_path: Path) -> None:
        found = drive_latency(tmp_path)
        assert found.verdict in ("ok", "warn")  # as fast as this machine is
        assert "durable write" in found.text
        assert list(tmp_path.iterdir()) == []

    def test_a_file_or_device_is_only_read(self, tmp_path: Path) -> None:
        image = tmp_path / "device"
        image.write_bytes(os.urandom(1 << 20))
        before = image.read_bytes()
        assert "a read of 4 KiB" in drive_latency(image).text
        assert image.read_bytes() == before

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        assert drive_latency(tmp_path / "none").verdict == "fail"

    def test_of_a_nodes_configuration(self, cli: Cli, credentials: Credentials, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "node.yaml").write_text("storage:\n  mode: file\n  capacity: 64MiB\n  drives:\n    - path: data\n")
        env = environment(credentials, "127.0.0.1:1")
        _code, found = report(cli, env, "--server-config", "node.yaml")
        assert found["drive"][0]["verdict"] == "ok"
        assert "durable write" in found["drive"][1]["text"]

    def test_a_bad_configuration(self, cli: Cli, credentials: Credentials) -> None:
        code, found = report(cli, environment(credentials, "127.0.0.1:1"), "--server-config", "none.yaml")
        assert code == 1
        assert found["drive"][0]["verdict"] == "fail"


class TestEngines:
    def verdicts(self, installed: dict[str, str], environ: dict[str, str]) -> list[tuple[str, str]]:
        found = examine_engines(environ, installed.get, registered=lambda adapter: None)
        return [(each.area, each.verdict) for each in found]

    def test_none(self) -> None:
        assert self.verdicts({}, {}) == [("engine", "ok")]

    def test_pairs(self) -> None:
        assert self.verdicts({"sglang": "0.5.23", "memkv-sglang": __version__}, {}) == [("engine", "ok")]
        assert self.verdicts({"sglang": "0.5.23"}, {}) == [("engine", "warn")]
        assert self.verdicts({"memkv-sglang": __version__}, {}) == [("engine", "warn")]
        assert self.verdicts({"sglang": "0.5.23", "memkv-sglang": "9.9"}, {}) == [("engine", "fail")]

    def test_an_adapter_that_the_engine_would_not_find(self, monkeypatch: pytest.MonkeyPatch) -> None:
        both = {"sglang": "0.5.23", "memkv-sglang": __version__}
        monkeypatch.setitem(engines._MODULES, "memkv-sglang", ("memkv_core.client",))
        assert [each.verdict for each in examine_engines({}, both.get)] == ["ok"]
        monkeypatch.setitem(engines._MODULES, "memkv-sglang", ("memkv_core.client", "memkv_nowhere.backend"))
        (found,) = examine_engines({}, both.get)
        assert (found.verdict, "memkv_nowhere.backend" in found.text) == ("fail", True)

    @pytest.mark.parametrize(("code", "verdict"), [(0, "ok"), (1, "fail"), (None, "fail")])
    def test_the_plugin_in_nixls_folder(
        self, code: int | None, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setenv("PATH", str(tmp_path))
        if code is not None:
            (tmp_path / "memkv-nixl").write_text(f"#!/bin/sh\necho 'MEMKV  -: /nixl/plugins'\nexit {code}\n")
            (tmp_path / "memkv-nixl").chmod(0o755)
        both = {"nixl": "1.5.1", "memkv-nixl": __version__}
        (found,) = examine_engines({}, both.get)
        assert found.verdict == verdict
        assert code != 1 or ("memkv-nixl install" in str(found.remedy) and "/nixl/plugins" in found.text)

    def test_hash_seed(self) -> None:
        both = {"lmcache": "0.5.6", "memkv-lmcache": __version__}
        assert self.verdicts(both, {}) == [("engine", "ok"), ("hash seed", "warn")]
        assert self.verdicts(both, {"PYTHONHASHSEED": "0"}) == [("engine", "ok"), ("hash seed", "ok")]
        assert hash_seed({"PYTHONHASHSEED": "random"}).verdict == "warn"


def test_a_warning_alone_is_no_failure() -> None:
    assert exit_code([Finding("a", "ok", ""), Finding("b", "warn", "")]) == 0
    assert exit_code([Finding("a", "fail", "")]) == 1


def test_the_time_of_an_answer_is_the_nodes(start_node: StartNode) -> None:
    reply = start_node().ask("/v1/health")
    assert reply.date_s is not None
    assert abs(reply.date_s - time.time()) < 60
