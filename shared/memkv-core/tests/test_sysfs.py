# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from memkv_core.testing.fake_sysfs import FakeSysfs
from memkv_core.transports import sysfs
from memkv_core.transports.topology import UNKNOWN_NODE, proximity
from memkv_core.transports.verbs import DeviceSpec


@pytest.fixture
def tree(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def test_devices_ports_and_gids(tree: FakeSysfs) -> None:
    tree.two_sockets()
    devices = sysfs.read_devices(tree.root)
    assert [(device.name, device.place.node) for device in devices] == [
        *(("mlx5_0", 0), ("mlx5_1", 0), ("mlx5_2", 1), ("mlx5_3", 1)),
    ]
    assert devices[0].place.path == ("pci0000:10", "0000:10:01.0", "0000:11:00.0", "0000:11:00.1", "0000:12:00.0")
    (port,) = devices[0].ports
    assert port[:5] == (1, "ACTIVE", "400 Gb/sec (4X NDR)", "Ethernet", ("net-mlx5_0",))
    assert [(gid.place, gid.kind) for gid in port.gids] == [(0, "RoCE v1"), (1, "RoCE v2")]
    assert port.gids[1].value == bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
    assert devices[3].ports[0].state == "DOWN"


def test_gpus_and_how_near_they_are(tree: FakeSysfs) -> None:
    tree.two_sockets()
    devices, gpus = sysfs.read_devices(tree.root), sysfs.read_gpus(tree.root)
    assert [(gpu.address, gpu.vendor, gpu.place.node) for gpu in gpus] == [
        *(("0000:12:00.1", "NVIDIA", 0), ("0000:13:00.1", "NVIDIA", 0)),
        *(("0000:82:00.1", "NVIDIA", 1), ("0000:83:00.1", "NVIDIA", 1)),
    ]
    assert [proximity(devices[0].place, gpu.place) for gpu in gpus] == ["PIX", "PIX", "SYS", "SYS"]


def test_infiniband_and_a_second_port(tree: FakeSysfs) -> None:
    card = tree.pci("pci0000:00/0000:00:02.0", -1, vendor="0x15b3", kind="0x020700")
    device = tree.rdma("mlx4_0", card)
    tree.port(device, 2, layer="InfiniBand", rate="56 Gb/sec (4X FDR)", gids=[("fe80" + ":0000" * 6 + ":0001", "")])
    tree.port(device, 1, layer="InfiniBand", state="1: DOWN", gids=[])
    (found,) = sysfs.read_devices(tree.root)
    assert [(port.number, port.state, port.interfaces) for port in found.ports] == [(1, "DOWN", ()), (2, "ACTIVE", ())]
    assert [gid.kind for gid in found.ports[1].gids] == ["IB"]
    assert sysfs.rail_facts(DeviceSpec("mlx4_0"), [found]).gigabits == 56
    assert sysfs.rail_facts(DeviceSpec("mlx4_0", 3), [found]).gigabits == 0
    assert sysfs.rail_facts(DeviceSpec("other"), [found]).place == (UNKNOWN_NODE, ())


def test_a_device_in_software(tree: FakeSysfs) -> None:
    tree.port(tree.rdma("rxe0", None), rate="2.5 Gb/sec (1X SDR)")
    (found,) = sysfs.read_devices(tree.root)
    assert found.place == (UNKNOWN_NODE, ())
    assert sysfs.rail_facts(DeviceSpec("rxe0"), [found]) == ("rxe0", found.place, 2.5)


def test_a_host_without_any(tree: FakeSysfs) -> None:
    assert sysfs.read_devices(tree.root) == []
    assert sysfs.read_gpus(tree.root) == []
    assert sysfs.process_nodes(tree.root) == set()


def test_the_nodes_of_this_process(tree: FakeSysfs) -> None:
    own = sorted(os.sched_getaffinity(0))
    tree.node(0, "100000-100003")
    tree.node(3, f"{own[0]}-{own[-1]},100008")
    assert sysfs.process_nodes(tree.root) == {3}


def test_texts() -> None:
    assert list(sysfs.numbers_of("0-3,8,10-11")) == [0, 1, 2, 3, 8, 10, 11]
    assert list(sysfs.numbers_of("")) == []
    assert sysfs.gigabits_of("") == 0.0
