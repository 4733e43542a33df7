# SPDX-License-Identifier: Apache-2.0
"""``memkv net topo`` over a folder like ``/sys``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkv_core.testing.fake_sysfs import FakeSysfs

Cli = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    FakeSysfs(tmp_path / "sys").two_sockets()
    return tmp_path / "sys"


def test_all_of_it_as_json(cli: Cli, tree: Path) -> None:
    done = cli(
        "net", "topo", "--json", "--sysfs", str(tree), *("-s", "b", "-s", "a:9902"), *("-d", "mlx5_2", "-d", "mlx5_0")
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [device["name"] for device in told["devices"]] == ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"]
    first = told["devices"][0]
    assert (first["numa_node"], first["pci"]) == (0, "0000:12:00.0")
    assert [port["state"] for port in first["ports"]] == ["ACTIVE"]
    assert first["ports"][0]["gids"][1] == {
        "index": 1,
        "gid": "0000:0000:0000:0000:0000:ffff:0a00:0001",
        "type": "RoCE v2",
    }
    assert [(gpu["pci"], gpu["proximity"]) for gpu in first["gpus"]][:3] == [
        *(("0000:12:00.1", "PIX"), ("0000:13:00.1", "PIX"), ("0000:82:00.1", "SYS")),
    ]
    assert {entry["server"] for entry in told["mapping"]} == {"a:9902", "b:9900"}
    assert {entry["rail"] for entry in told["mapping"]} <= {"mlx5_0", "mlx5_2"}


def test_as_a_table_by_the_settings(cli: Cli, tree: Path) -> None:
    settings = {"MEMKV_SERVERS": "host-a:9900,host-b:9900", "MEMKV_RDMA_DEVICES": "mlx5_1"}
    done = cli("net", "topo", "--sysfs", str(tree), env=settings)
    assert done.returncode == 0, done.stderr
    for text in (
        "mlx5_3",
        "DOWN",
        "400 Gb/sec (4X NDR)",
        "net-mlx5_0",
        "1 0000:0000:0000:0000:0000:ffff:0a00:0001 RoCE v2",
    ):
        assert text in done.stdout
    assert [line.split()[1:4:2] for line in done.stdout.splitlines() if "host-" in line] == [
        ["host-a:9900", "mlx5_1"],
        ["host-b:9900", "mlx5_1"],
    ]
    assert "library: " in done.stderr


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("mlx9_9", "no RDMA device mlx9_9; this host has mlx5_0, mlx5_1, mlx5_2, mlx5_3"),
        ("mlx5_3", "RDMA device mlx5_3 is not active: port 1 is DOWN"),
        ("mlx5_0:2", "RDMA device mlx5_0 has no port 2"),
    ],
)
def test_a_device_that_cannot_be_used_is_named(cli: Cli, tree: Path, device: str, told: str) -> None:
    done = cli("net", "topo", "--sysfs", str(tree), "-d", device)
    assert done.returncode == 1
    assert told in done.stderr.splitlines()


def test_no_gid(cli: Cli, tmp_path: Path) -> None:
    tree = FakeSysfs(tmp_path)
    tree.port(tree.rdma("rxe0", None), gids=[])
    done = cli("net", "topo", "--sysfs", str(tmp_path), "-d", "rxe0")
    assert done.returncode == 1
    assert "RDMA device rxe0 port 1 has no GID; give its interface an address" in done.stderr


def test_a_host_without_any(cli: Cli, tmp_path: Path) -> None:
    done = cli("net", "topo", "--sysfs", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("no RDMA device on this host\n")


def test_an_entry_that_is_no_device(refused: Refused) -> None:
    assert "'a/b' is no device" in refused("net", "topo", "-d", "a/b")
