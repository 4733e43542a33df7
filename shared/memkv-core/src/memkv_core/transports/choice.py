# SPDX-License-Identifier: Apache-2.0
"""Which transport a client uses, and why: one table. Pure.

| MEMKV_TRANSPORT | MEMKV_RDMA_DEVICES | the devices | |
|---|---|---|---|
| tcp | any | | tcp |
| shm | any | | shm |
| rdma | none | | ConfigError |
| rdma | some | none can be used | DeviceUnavailableError |
| rdma | some | one can be used | rdma |
| auto | none | | local: shm with servers on this host, tcp with others |
| auto | some | there is no library for them | local |
| auto | some | none can be used now | rdma: by tcp until one can |
| auto | some | one can be used | rdma |

Whether a server offers RDMA is known with its first session; blocks of one that does not go by TCP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from memkv_core.errors import ConfigError
from memkv_core.transports.verbs import DeviceUnavailableError

Wanted = Literal["auto", "tcp", "shm", "rdma"]
Chosen = Literal["tcp", "shm", "rdma", "local"]


class Found(NamedTuple):
    """What was found of the devices. ``problem``: why none can be used now; ``library``: whether it could ever be."""

    library: bool
    problem: str | None


class Choice(NamedTuple):
    """``reason`` is for the log, in one line."""

    transport: Chosen
    reason: str


def asks_for_devices(wanted: Wanted, devices: Sequence[str]) -> bool:
    """Whether the devices have to be looked at. ConfigError where rdma is asked for, and none is named."""
    if wanted == "rdma" and not devices:
        raise ConfigError(
            "transport=rdma, and no device is named",
            remedy="set MEMKV_RDMA_DEVICES (`memkv net topo` shows what there is), or MEMKV_TRANSPORT to auto or tcp",
        )
    return wanted in ("auto", "rdma") and bool(devices)


def choose(wanted: Wanted, devices: Sequence[str], found: Found | None) -> Choice:
    """``found`` is given where ``asks_for_devices`` is True. DeviceUnavailableError where rdma cannot be."""
    if wanted in ("tcp", "shm"):
        return Choice(wanted, "MEMKV_TRANSPORT says so")
    if found is None:
        return Choice("local", "MEMKV_RDMA_DEVICES is not set")
    if found.problem is None:
        return Choice("rdma", f"MEMKV_RDMA_DEVICES names {','.join(devices)}")
    if wanted == "rdma":
        raise DeviceUnavailableError(
            found.problem, remedy="see `memkv net topo`, or set MEMKV_TRANSPORT to auto or tcp"
        )
    if not found.library:
        return Choice("local", f"no RDMA: {found.problem}")
    return Choice("rdma", f"by tcp until a device can be used: {found.problem}")
