# SPDX-License-Identifier: Apache-2.0
"""Which server goes over which RDMA device: spread by bandwidth over the devices that are near. Pure.

Near is what shares a NUMA node with the processors of this process; where none does, or that is not known, all are.
A client with fewer servers than devices starts at a device of its own choice (``turn``), so that the ranks of one host
do not all take the first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

UNKNOWN_NODE: Final = -1

# How far two PCI devices are apart, the nearest first; the names are those of `nvidia-smi topo`.
PROXIMITIES: Final = ("PIX", "PXB", "PHB", "NODE", "SYS")


class PciPlace(NamedTuple):
    """Where a device is: its NUMA node, and its PCI path from the root complex down (empty: no PCI device)."""

    node: int
    path: tuple[str, ...]


class RailFacts(NamedTuple):
    """What the mapping needs to know of a device."""

    name: str
    place: PciPlace
    gigabits: float  # of the port in use, per second; 0 where unknown


def proximity(first: PciPlace, second: PciPlace) -> str | None:
    """One of PROXIMITIES; None where it is not known.

    PIX: behind the same switch; PXB: over several; PHB: under the same root complex; NODE: on the same NUMA node;
    SYS: on different ones.
    """
    if not first.path or not second.path:
        return None
    shared = 0
    for one, other in zip(first.path, second.path):
        if one != other:
            break
        shared += 1
    if shared > 1:
        return "PIX" if max(len(first.path), len(second.path)) - shared <= 2 else "PXB"
    if shared:
        return "PHB"
    if UNKNOWN_NODE in (first.node, second.node):
        return None
    return "NODE" if first.node == second.node else "SYS"


def usable_rails(rails: Sequence[RailFacts], nodes: Collection[int]) -> list[int]:
    """Which of the rails, by their numbers, servers are mapped to: those that are near.

    Whether one is up at the moment makes no difference: another stands in for it until it is.
    """
    near = [number for number, rail in enumerate(rails) if rail.place.node in nodes]
    return near or list(range(len(rails)))


def map_servers(
    servers: Sequence[str], rails: Sequence[RailFacts], nodes: Collection[int] = (), turn: int = 0
) -> dict[str, int]:
    """The number of the rail for each server; ``nodes`` are the NUMA nodes of this process's processors.

    Deterministic, whatever the order of ``servers``: each in turn takes the rail that is used least for its bandwidth.
    Empty where there are no rails.
    """
    usable = usable_rails(rails, nodes)
    if not usable:
        return {}
    start = turn % len(usable) if len(servers) < len(usable) else 0
    usable = usable[start:] + usable[:start]
    known = [rails[number].gigabits for number in usable if rails[number].gigabits > 0]
    speeds = {number: rails[number].gigabits or min(known, default=1.0) for number in usable}
    counts = dict.fromkeys(usable, 0)
    mapped: dict[str, int] = {}
    for server in sorted(set(servers)):
        chosen = min(usable, key=lambda number: (counts[number] + 1) / speeds[number])
        counts[chosen] += 1
        mapped[server] = chosen
    return mapped
