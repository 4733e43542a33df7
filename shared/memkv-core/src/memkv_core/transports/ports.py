# SPDX-License-Identifier: Apache-2.0
"""Which port and which GID of a device are used, or in one line why none can be. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from memkv_core.transports.verbs import DeviceSpec, DeviceUnavailableError, Gid, Port, PortState


def choose_gid(spec: DeviceSpec, port: Port) -> Gid:
    """The GID to use of a port: RoCE v2 of an IPv4 address, of another; else the first. DeviceUnavailableError."""
    gids = [gid for gid in port.gids if any(gid.value)]
    if spec.gid_index >= 0:
        for gid in gids:
            if gid.place == spec.gid_index:
                return gid
        raise DeviceUnavailableError(
            f"RDMA device {spec.name} port {port.number} has no GID at index {spec.gid_index}",
            remedy=f"it has {', '.join(str(gid.place) for gid in gids) or 'none'}",
        )
    if not gids:
        raise DeviceUnavailableError(
            f"RDMA device {spec.name} port {port.number} has no GID",
            remedy="give its network interface an address (RoCE), or start the subnet manager (InfiniBand)",
        )
    return min(gids, key=_gid_rank)


def _gid_rank(gid: Gid) -> tuple[bool, bool, bool, int]:
    mapped, link_local = gid.value.startswith(bytes(10) + b"\xff\xff"), gid.value.startswith(b"\xfe\x80")
    return gid.kind != "RoCE v2", not mapped, link_local, gid.place


def choose_port(spec: DeviceSpec, ports: Sequence[Port]) -> Port:
    """The port that was asked for, or the first active one. DeviceUnavailableError where it is not active."""
    asked = [port for port in ports if spec.port in (0, port.number)]
    if not asked:
        raise DeviceUnavailableError(
            f"RDMA device {spec.name} has no port {spec.port}",
            remedy=f"it has {', '.join(str(port.number) for port in ports) or 'none'}",
        )
    for port in asked:
        if port.state is PortState.ACTIVE:
            return port
    states = ", ".join(f"port {port.number} is {port.state.name}" for port in asked)
    raise DeviceUnavailableError(
        f"RDMA device {spec.name} is not active: {states}", remedy="check the cable and that the interface is up"
    )


def unknown_device(name: str, known: Sequence[str]) -> DeviceUnavailableError:
    """For a name that no device of this host has."""
    return DeviceUnavailableError(
        f"no RDMA device {name}", remedy=f"this host has {', '.join(known)}" if known else "this host has none"
    )
