# SPDX-License-Identifier: Apache-2.0
"""``memkv net``: what there is to reach the nodes over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from memkv_core.address import parse_address
from memkv_core.transports import sysfs
from memkv_core.transports.library import load_verbs
from memkv_core.transports.sysfs import DeviceFacts, GpuFacts, PortFacts
from memkv_core.transports.topology import PROXIMITIES, UNKNOWN_NODE, map_servers, proximity
from memkv_core.transports.verbs import DeviceSpec, DeviceUnavailableError, port_gid_text
from memkv_server.cli.admin_flags import AsJson
from memkv_server.cli.client_settings import client_setting
from memkv_server.cli.output import examples, note, print_json, print_table

app = typer.Typer(help="See what there is to reach the nodes over.", no_args_is_help=True)

_EXAMPLES: Final = (
    "memkv net topo                                                devices of this host, mapping of MEMKV_SERVERS",
    "memkv net topo --device mlx5_0 --device mlx5_1 --server host-a:9900 --server host-b:9900",
    "memkv net topo --json",
)


@app.command("topo", epilog=examples(*_EXAMPLES))
def topo(
    server: Annotated[
        list[str] | None, typer.Option("--server", "-s", help="A node's address; repeat it. Default: MEMKV_SERVERS.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help="A device to map to; repeat it. Default: MEMKV_RDMA_DEVICES, or else all."),
    ] = None,
    sys_folder: Annotated[Path, typer.Option("--sysfs", hidden=True)] = sysfs.SYS,
    as_json: AsJson = False,
) -> None:
    """RDMA devices, ports, GIDs, how near GPUs are, and which server goes over which. Exit code 1: one cannot be used.

    Everything is read from /sys, without pyverbs. A client that has fewer servers than devices near it starts at a
    device of its own choice; here it is the first.
    """
    devices, gpus, nodes = sysfs.read_devices(sys_folder), sysfs.read_gpus(sys_folder), sysfs.process_nodes(sys_folder)
    specs = [DeviceSpec.parse(text) for text in _setting(device, "rdma_devices")]
    problems = [text for spec in specs if (text := _problem(spec, devices)) is not None]
    servers = [str(parse_address(text, 9900)) for text in _setting(server, "servers")]
    rails = specs or [DeviceSpec(found.name) for found in devices]
    mapped = map_servers(servers, [sysfs.rail_facts(rail, devices) for rail in rails], nodes)
    mapping = [(name, rails[mapped[name]].name) for name in servers if name in mapped]
    library, reason = _library()
    if as_json:
        print_json(
            {
                "devices": [_device_as_json(found, gpus) for found in devices],
                "process_numa_nodes": sorted(nodes),
                "mapping": [{"server": name, "rail": rail} for name, rail in mapping],
                "library": library,
                "problems": [*problems, *([reason] if reason else [])],
            }
        )
    else:
        _print(devices, gpus, mapping)
        note(f"library: {library or reason}")
        for problem in problems:
            note(problem)
    raise typer.Exit(1 if problems else 0)


def _setting(given: list[str] | None, name: str) -> list[str]:
    """What the command line names, or else the client's setting; empty where that is not set."""
    if given:
        return given
    found, _source = client_setting(name)
    texts = found.split(",") if isinstance(found, str) else [str(text) for text in found or ()]
    return [text.strip() for text in texts if text.strip()]


def _problem(spec: DeviceSpec, devices: list[DeviceFacts]) -> str | None:
    """Why a device that was named cannot be used, in one line."""
    for found in devices:
        if found.name == spec.name:
            ports = [port for port in found.ports if spec.port in (0, port.number)]
            if not ports:
                return f"RDMA device {spec.name} has no port {spec.port}"
            active = [port for port in ports if port.state == "ACTIVE"]
            if not active:
                return f"RDMA device {spec.name} is not active: " + ", ".join(_state(port) for port in ports)
            if not active[0].gids:
                return f"RDMA device {spec.name} port {active[0].number} has no GID; give its interface an address"
            return None
    names = ", ".join(found.name for found in devices)
    return f"no RDMA device {spec.name}; this host has {names or 'none'}"


def _state(port: PortFacts) -> str:
    return f"port {port.number} is {port.state or 'unknown'}"


def _library() -> tuple[str | None, str | None]:
    """What the devices would be used through, or why they cannot be."""
    try:
        return load_verbs().name, None
    except DeviceUnavailableError as error:
        return None, str(error)


def _gpus_of(device: DeviceFacts, gpus: list[GpuFacts]) -> list[tuple[str, GpuFacts]]:
    """The GPUs with how far they are, the nearest first; those of which that is not known are left out."""
    near = [(found, gpu) for gpu in gpus if (found := proximity(device.place, gpu.place)) is not None]
    return sorted(near, key=lambda pair: (PROXIMITIES.index(pair[0]), pair[1].address))


def _device_as_json(device: DeviceFacts, gpus: list[GpuFacts]) -> dict[str, Any]:
    return {
        "name": device.name,
        "numa_node": device.place.node,
        "pci": device.place.path[-1] if device.place.path else None,
        "ports": [
            {
                "number": port.number,
                "state": port.state,
                "rate": port.rate,
                "link_layer": port.link_layer,
                "interfaces": list(port.interfaces),
                "gids": [{"index": gid.place, "gid": port_gid_text(gid.value), "type": gid.kind} for gid in port.gids],
            }
            for port in device.ports
        ],
        "gpus": [{"pci": gpu.address, "vendor": gpu.vendor, "proximity": near} for near, gpu in _gpus_of(device, gpus)],
    }


def _print(devices: list[DeviceFacts], gpus: list[GpuFacts], mapping: list[tuple[str, str]]) -> None:
    if not devices:
        note("no RDMA device on this host")
        return
    table = Table("device", "port", "state", "rate", "link", "interface", "numa", "GIDs", "GPUs")
    for device in devices:
        node = "-" if device.place.node == UNKNOWN_NODE else str(device.place.node)
        near = "\n".join(f"{gpu.vendor} {gpu.address} {far}" for far, gpu in _gpus_of(device, gpus)) or "-"
        for port in device.ports:
            gids = "\n".join(f"{gid.place} {port_gid_text(gid.value)} {gid.kind}" for gid in port.gids) or "none"
            colour = "green" if port.state == "ACTIVE" else "red"
            table.add_row(
                *(device.name, str(port.number), f"[{colour}]{port.state or 'unknown'}[/]", port.rate or "-"),
                *(port.link_layer or "-", ", ".join(port.interfaces) or "-", node, gids, near),
            )
    print_table(table)
    if mapping:
        rails = Table("server", "rail")
        for server, rail in mapping:
            rails.add_row(server, rail)
        print_table(rails)
