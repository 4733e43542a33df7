# SPDX-License-Identifier: Apache-2.0
"""This machine: huge pages, locked memory, RDMA devices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from memkv_core import ClientConfig
from memkv_core.transports import memlock
from memkv_core.transports.sysfs import SYS, DeviceFacts, read_devices
from memkv_core.transports.verbs import DeviceSpec
from memkv_server.doctor.finding import Finding


def examine_machine(config: ClientConfig | None, sys: Path = SYS) -> Iterator[Finding]:
    """All about this machine; ``sys`` is where sysfs is mounted."""
    yield huge_pages(sys)
    devices = config.rdma_devices if config is not None else ()
    if not devices:
        yield Finding("rdma", "ok", "not used: MEMKV_RDMA_DEVICES is not set")
        return
    present = read_devices(sys)
    for device in devices:
        yield rdma_device(device, present)
    assert config is not None
    short = memlock.shortfall(config.staging_size_mb << 20)
    if short is None:
        yield Finding("memlock", "ok", f"{config.staging_size_mb} MiB of staging memory can be registered")
    else:
        yield Finding("memlock", "fail", short.partition("; ")[0], f"raise it: {memlock.REMEDY}")


def huge_pages(sys: Path) -> Finding:
    """Transparent huge pages: a node's memory and an engine's pool are touched by far fewer faults with them."""
    try:
        text = (sys / "kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return Finding("hugepages", "warn", "this kernel has no transparent huge pages", "use one that has them")
    chosen = re.search(r"\[(\w+)\]", text)
    mode = chosen[1] if chosen else text.strip()
    if mode == "never":
        remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        return Finding("hugepages", "warn", "transparent huge pages are switched off", remedy)
    return Finding("hugepages", "ok", f"transparent huge pages: {mode}")


def rdma_device(setting: str, present: Sequence[DeviceFacts]) -> Finding:
    """``setting`` as in MEMKV_RDMA_DEVICES; ``present`` are the devices of this host."""
    spec = DeviceSpec.parse(setting)
    device = next((each for each in present if each.name == spec.name), None)
    if device is None:
        text = f"{spec.name}: no such device; there are {', '.join(each.name for each in present) or 'none'}"
        return Finding("rdma", "fail", text, "correct MEMKV_RDMA_DEVICES (`memkv net topo` shows what there is)")
    ports = [port for port in device.ports if spec.port in (0, port.number)]
    if not ports:
        return Finding("rdma", "fail", f"{spec.name} has no port {spec.port}", "correct MEMKV_RDMA_DEVICES")
    active = [port for port in ports if port.state == "ACTIVE"]
    if not active:
        text = f"{spec.name} port {ports[0].number} is {ports[0].state}"
        return Finding("rdma", "fail", text, "bring the link up: `ip link set ... up`")
    return Finding("rdma", "ok", f"{spec.name} port {active[0].number} is active, {active[0].rate}")
