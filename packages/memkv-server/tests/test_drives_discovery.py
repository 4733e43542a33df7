# SPDX-License-Identifier: Apache-2.0
"""Discovery over a machine that is a folder, and what the first bytes of a device say."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkv_server.drives.discovery import BlockDevice, Kind, Use, device_use, discover
from memkv_server.drives.signature import content_of, describe
from memkv_server.engine.superblock import SUPERBLOCK_MAGIC, encode_superblock, plan_geometry

GIB = 1 << 30


class Machine:
    """A tree of /sys, /proc and /dev."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._minor = 0
        self._mounts: list[str] = []
        for folder in ("sys/block", "sys/class/block", "proc/self", "dev"):
            (root / folder).mkdir(parents=True)
        (root / "proc/swaps").write_text("Filename Type Size Used Priority\n")
        self.contents: dict[str, tuple[Use, str]] = {}

    def device(self, name: str, gib: int = 100, *, rotational: bool = False, model: str = "", **files: str) -> None:
        folder = self.root / "sys/block" / name
        (folder / "holders").mkdir(parents=True)
        (folder / "queue").mkdir()
        (folder / "device").mkdir()
        (folder / "device/model").write_text(f"{model}   \n")
        (folder / "queue/rotational").write_text(f"{int(rotational)}\n")
        self._fill(folder, gib, {"removable": "0", "ro": "0", **files})

    def partition(self, of: str, name: str, gib: int = 10) -> None:
        folder = self.root / "sys/block" / of / name
        (folder / "holders").mkdir(parents=True)
        self._fill(folder, gib, {"partition": "1"})

    def mount(self, name: str, target: str, number: str | None = None) -> None:
        number = number or (self.root / "sys/class/block" / name / "dev").read_text().strip()
        self._mounts.append(f"30 1 {number} / {target} rw,relatime shared:1 - ext4 /dev/{name} rw\n")
        (self.root / "proc/self/mountinfo").write_text("".join(self._mounts))

    def hold(self, name: str, holder: str) -> None:
        (self.root / "sys/class/block" / name / "holders" / holder).mkdir()

    def swap(self, name: str) -> None:
        with (self.root / "proc/swaps").open("a") as file:
            file.write(f"/dev/{name} partition 1000 0 -2\n")

    def found(self) -> dict[str, BlockDevice]:
        devices = discover(self.root, lambda path: self.contents.get(path.name, (Use.FREE, "blank")))
        return {device.path.name: device for device in devices}

    def _fill(self, folder: Path, gib: int, files: dict[str, str]) -> None:
        self._minor += 1
        for file, text in {"size": str(gib * GIB // 512), "dev": f"259:{self._minor}", **files}.items():
            (folder / file).write_text(f"{text}\n")
        (self.root / "sys/class/block" / folder.name).symlink_to(folder)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_fastest_come_first_and_by_number(machine: Machine) -> None:
    machine.device("sda", rotational=True)
    machine.device("sdb", model="Samsung  SSD 870")
    machine.device("nvme10n1")
    machine.device("nvme2n1", gib=3576, model="KIOXIA KCD8")
    found = machine.found()
    assert list(found) == ["nvme2n1", "nvme10n1", "sdb", "sda"]
    assert [device.kind for device in found.values()] == [Kind.NVME, Kind.NVME, Kind.SSD, Kind.DISK]
    first = found["nvme2n1"]
    assert (first.path, first.size_bytes, first.model) == (machine.root / "dev/nvme2n1", 3576 * GIB, "KIOXIA KCD8")
    assert found["sdb"].model == "Samsung SSD 870"
    assert [device.is_for_auto for device in found.values()] == [True, True, True, False]


def test_what_is_no_drive_is_left_out(machine: Machine) -> None:
    for name in ("loop0", "ram1", "zram0", "sr0", "nbd3", "dm-0", "fd0"):
        machine.device(name)
    machine.device("sdc", removable="1")
    machine.device("nvme0c0n1", hidden="1")
    machine.device("sdd", gib=0)
    machine.device("sde")
    assert list(machine.found()) == ["sde"]


def test_what_is_in_use_says_by_whom(machine: Machine) -> None:
    for name in ("nvme0n1", "nvme1n1", "nvme2n1", "nvme3n1", "nvme4n1", "nvme5n1", "nvme6n1"):
        machine.device(name)
    for name in ("nvme0n1p1", "nvme0n1p2"):
        machine.partition("nvme0n1", name)
    machine.mount("nvme0n1p2", "/")
    machine.mount("nvme1n1", "/mnt/with\\040blank")
    machine.hold("nvme2n1", "md0")
    machine.partition("nvme3n1", "nvme3n1p1")
    machine.hold("nvme3n1p1", "dm-1")
    machine.swap("nvme4n1")
    machine.partition("nvme5n1", "nvme5n1p1")
    machine.mount("nvme6n1", "/srv/btrfs", number="0:45")
    found = machine.found()
    assert {name: (device.use, device.reason) for name, device in found.items()} == {
        "nvme0n1": (Use.IN_USE, "nvme0n1p2: mounted at /"),
        "nvme1n1": (Use.IN_USE, "mounted at /mnt/with blank"),
        "nvme2n1": (Use.IN_USE, "part of md0"),
        "nvme3n1": (Use.IN_USE, "nvme3n1p1: part of dm-1"),
        "nvme4n1": (Use.IN_USE, "swap"),
        "nvme5n1": (Use.FOREIGN, "it has partitions (nvme5n1p1)"),
        "nvme6n1": (Use.IN_USE, "mounted at /srv/btrfs"),
    }
    assert not any(device.is_for_auto for device in found.values())
    assert device_use(machine.root, "nvme0n1p2") == "mounted at /"
    assert device_use(machine.root, "nvme0n1p1") is None
    assert device_use(machine.root, "nvme0n1") == "nvme0n1p2: mounted at /"
    assert device_use(machine.root, "nothing") is None


def test_what_it_holds_decides_for_one_that_nobody_uses(machine: Machine) -> None:
    for name in ("sda", "sdb", "sdc", "sdd"):
        machine.device(name)
    machine.device("sde", ro="1")
    machine.contents = {
        "sda": (Use.OURS, "a MemKV store"),
        "sdb": (Use.FOREIGN, "an xfs filesystem"),
        "sdc": (Use.UNREADABLE, "Permission denied"),
    }
    found = machine.found()
    assert [device.use.value for device in found.values()] == ["ours", "foreign", "unreadable", "free", "unreadable"]
    assert found["sde"].reason == "it is read-only"
    assert [name for name, device in found.items() if device.is_for_auto] == ["sda", "sdd"]


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    assert discover(tmp_path, lambda _path: (Use.FREE, "")) == []


def at(offset: int, content: bytes) -> bytes:
    return (bytes(offset) + content).ljust(1 << 20, b"\0")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (at(0, b""), (Use.FREE, "blank")),
        (at(0, SUPERBLOCK_MAGIC), (Use.OURS, "a MemKV store")),
        (at(0, encode_superblock(plan_geometry(1 << 30, None, 4096, "x"))), (Use.OURS, "a MemKV store")),
        (at(1080, b"\x53\xef"), (Use.FOREIGN, "an ext filesystem")),
        (at(0, b"XFSB"), (Use.FOREIGN, "an xfs filesystem")),
        (at(510, b"\x55\xaaEFI PART"), (Use.FOREIGN, "a partition table (GPT)")),
        (at(510, b"\x55\xaa"), (Use.FOREIGN, "a partition table (MBR)")),
        (at(0, b"LUKS\xba\xbe"), (Use.FOREIGN, "a LUKS volume")),
        (at(999_999, b"x"), (Use.FOREIGN, "something that is not known")),
    ],
)
def test_signatures(head: bytes, expected: tuple[Use, str]) -> None:
    assert describe(head, bytes(1000)) == expected


def test_the_end_of_a_device_counts_as_well(tmp_path: Path) -> None:
    assert describe(bytes(1 << 20), b"\0\0RAID") == (Use.FOREIGN, "something that is not known")
    (tmp_path / "image").write_bytes(bytes(3 << 20) + b"x")
    assert content_of(tmp_path / "image") == (Use.FOREIGN, "something that is not known")
    assert content_of(tmp_path / "none") == (Use.UNREADABLE, "No such file or directory")
