# SPDX-License-Identifier: Apache-2.0
"""A folder like ``/sys``: two sockets, each with a switch that two GPUs and two network cards sit behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MAPPED_GID = "0000:0000:0000:0000:0000:ffff:0a00:0001"
LINK_LOCAL_GID = "fe80:0000:0000:0000:0000:00ff:fe00:0001"
EMPTY_GID = "0000:0000:0000:0000:0000:0000:0000:0000"
SWITCHES = ("pci0000:10/0000:10:01.0/0000:11:00.0", "pci0000:80/0000:80:01.0/0000:81:00.0")  # of sockets 0 and 1


class FakeSysfs:
    """Attributes are files, devices are folders with links to them, as the kernel lays them out."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: Path, text: str) -> None:
        """One attribute."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def node(self, number: int, processors: str) -> None:
        """A NUMA node, as ``0-3,8``."""
        self.write(self.root / f"devices/system/node/node{number}/cpulist", processors)

    def pci(self, path: str, node: int, *, vendor: str, kind: str) -> Path:
        """A PCI device by its path from the root complex."""
        folder = self.root / "devices" / path
        for name, text in {"numa_node": str(node), "vendor": vendor, "class": kind}.items():
            self.write(folder / name, text)
        self._link(self.root / "bus/pci/devices" / folder.name, folder)
        return folder

    def _link(self, link: Path, target: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    def rdma(self, name: str, pci: Path | None) -> Path:
        """An RDMA device on a PCI device, or on none."""
        folder = (pci or self.root / "devices/virtual") / "infiniband" / name
        folder.mkdir(parents=True)
        if pci is not None:
            self._link(folder / "device", pci)
        self._link(self.root / "class/infiniband" / name, folder)
        return folder

    def port(
        self,
        device: Path,
        number: int = 1,
        *,
        state: str = "4: ACTIVE",
        rate: str = "400 Gb/sec (4X NDR)",
        layer: str = "Ethernet",
        gids: Sequence[tuple[str, str]] = ((LINK_LOCAL_GID, "IB/RoCE v1"), (MAPPED_GID, "RoCE v2"), (EMPTY_GID, "")),
    ) -> None:
        """A port with a table of (GID, type)."""
        folder = device / "ports" / str(number)
        for name, text in {"state": state, "rate": rate, "link_layer": layer}.items():
            self.write(folder / name, text)
        for place, (gid, kind) in enumerate(gids):
            self.write(folder / "gids" / str(place), gid)
            if kind:
                self.write(folder / "gid_attrs/types" / str(place), kind)
                self.write(folder / "gid_attrs/ndevs" / str(place), f"net-{device.name}")

    def two_sockets(self) -> None:
        """mlx5_0 and mlx5_1 on socket 0, mlx5_2 and mlx5_3 on socket 1, mlx5_3's port down; a GPU beside each."""
        for socket, switch in enumerate(SWITCHES):
            self.node(socket, f"{socket * 8}-{socket * 8 + 7}")
            bus = 0x12 + socket * 0x70
            for at in range(2):
                number = socket * 2 + at
                down = f"{switch}/0000:{bus - 1:02x}:{at:02x}.1"
                card = self.pci(f"{down}/0000:{bus + at:02x}:00.0", socket, vendor="0x15b3", kind="0x020000")
                device = self.rdma(f"mlx5_{number}", card)
                self.port(device, state="1: DOWN" if number == 3 else "4: ACTIVE")
                up = f"{switch}/0000:{bus - 1:02x}:{at:02x}.2"
                self.pci(f"{up}/0000:{bus + at:02x}:00.1", socket, vendor="0x10de", kind="0x030200")
