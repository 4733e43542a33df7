# SPDX-License-Identifier: Apache-2.0
"""What the kernel says in ``/sys`` of RDMA devices, GPUs and NUMA nodes. The only code that reads it.

Nothing here fails: what is missing or unreadable is unknown. ``root`` is ``/sys`` or, for a test, a folder like it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from memkv_core.transports.topology import UNKNOWN_NODE, PciPlace, RailFacts
from memkv_core.transports.verbs import DeviceSpec, Gid, port_gid_text

SYS: Final = Path("/sys")
_PCI_ADDRESS: Final = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_PCI_ROOT: Final = re.compile(r"pci[0-9a-f]{4,}:[0-9a-f]{2}")
_GPU_VENDORS: Final = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel", "0x1da3": "Habana"}
_GPU_CLASSES: Final = ("0x0300", "0x0302", "0x0380", "0x1200")  # display, 3D, other display, accelerator
_EMPTY_GID: Final = port_gid_text(bytes(16))
_GIDS_MAX: Final = 256


class PortFacts(NamedTuple):
    """One port of an RDMA device. ``state`` is "ACTIVE", "DOWN", ...; ``rate`` as the kernel words it."""

    number: int
    state: str
    rate: str
    link_layer: str
    interfaces: tuple[str, ...]  # network interfaces of its GIDs
    gids: tuple[Gid, ...]


class DeviceFacts(NamedTuple):
    """One RDMA device."""

    name: str
    place: PciPlace
    ports: tuple[PortFacts, ...]


class GpuFacts(NamedTuple):
    """One GPU or accelerator, by its PCI address."""

    address: str
    vendor: str
    place: PciPlace


def read_devices(root: Path = SYS) -> list[DeviceFacts]:
    """The RDMA devices of this host, by name; empty where there is no RDMA."""
    return [
        DeviceFacts(folder.name, _place_of(folder / "device"), tuple(_ports_of(folder)))
        for folder in _folders(root / "class" / "infiniband")
    ]


def read_gpus(root: Path = SYS) -> list[GpuFacts]:
    """The GPUs of this host, by PCI address."""
    found = []
    for folder in _folders(root / "bus" / "pci" / "devices"):
        vendor = _GPU_VENDORS.get(_text(folder / "vendor"))
        if vendor is not None and _text(folder / "class").startswith(_GPU_CLASSES):
            found.append(GpuFacts(folder.name, vendor, _place_of(folder)))
    return found


def process_nodes(root: Path = SYS) -> set[int]:
    """The NUMA nodes of the processors that this process may run on; empty where that is not known."""
    allowed = os.sched_getaffinity(0)
    nodes = set()
    for folder in _folders(root / "devices" / "system" / "node"):
        found = re.fullmatch(r"node(\d+)", folder.name)
        if found is not None and allowed & set(numbers_of(_text(folder / "cpulist"))):
            nodes.add(int(found[1]))
    return nodes


def rail_facts(spec: DeviceSpec, devices: list[DeviceFacts]) -> RailFacts:
    """What the mapping needs of a configured device; of one that is not there, nothing is known."""
    for device in devices:
        if device.name == spec.name:
            ports = [port for port in device.ports if spec.port in (0, port.number)]
            ports.sort(key=lambda port: port.state != "ACTIVE")
            return RailFacts(spec.name, device.place, gigabits_of(ports[0].rate) if ports else 0.0)
    return RailFacts(spec.name, PciPlace(UNKNOWN_NODE, ()), 0.0)


def gigabits_of(rate: str) -> float:
    """``100 Gb/sec (4X EDR)`` is 100.0; 0.0 for what is no rate."""
    found = re.match(r"([0-9.]+) Gb/sec", rate)
    return float(found[1]) if found is not None else 0.0


def numbers_of(text: str) -> Iterator[int]:
    """``0-3,8`` as 0, 1, 2, 3, 8."""
    for found in re.finditer(r"(\d+)(?:-(\d+))?", text):
        yield from range(int(found[1]), int(found[2] or found[1]) + 1)


def _ports_of(device: Path) -> Iterator[PortFacts]:
    for folder in sorted(_folders(device / "ports"), key=lambda path: path.name.zfill(3)):
        if not folder.name.isdigit():
            continue
        layer = _text(folder / "link_layer")
        gids, interfaces = [], []
        for place in range(_GIDS_MAX):
            text = _text(folder / "gids" / str(place))
            if not text:
                break
            if text == _EMPTY_GID:
                continue
            kind = _text(folder / "gid_attrs" / "types" / str(place)).replace("IB/RoCE v1", "RoCE v1")
            gids.append(Gid(place, bytes.fromhex(text.replace(":", "")), kind if layer == "Ethernet" else "IB"))
            interfaces.append(_text(folder / "gid_attrs" / "ndevs" / str(place)))
        state = _text(folder / "state").partition(": ")[2]
        known = tuple(dict.fromkeys(filter(None, interfaces)))
        yield PortFacts(int(folder.name), state, _text(folder / "rate"), layer, known, tuple(gids))


def _place_of(device: Path) -> PciPlace:
    """Of the PCI device that ``device`` is or links to."""
    parts = device.resolve().parts if device.exists() else ()
    path = tuple(part for part in parts if _PCI_ROOT.fullmatch(part) or _PCI_ADDRESS.fullmatch(part))
    text = _text(device / "numa_node")
    return PciPlace(int(text) if re.fullmatch(r"-?\d+", text) else UNKNOWN_NODE, path)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # not here
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:  # a missing attribute; of an empty entry of a table reading fails
        return ""
