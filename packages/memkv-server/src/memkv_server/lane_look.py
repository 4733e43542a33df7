# SPDX-License-Identifier: Apache-2.0
"""What a lane says of itself only while somebody looks at a dashboard: its clients, namespaces' identities, problems.

Asked for on the control channel, like an operation of the engine. Every part is bounded in number and in bytes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from memkv_server.engine import DriveSet
from memkv_server.limits import IDENTITY_SHOWN_CHARS_MAX, LOOK_BYTES_MAX, LOOK_CONNECTIONS_MAX
from memkv_server.problems import PROBLEMS
from memkv_server.rdma import RdmaSource

if TYPE_CHECKING:
    from memkv_server.connection import Connection
    from memkv_server.engine.base import Engine
    from memkv_server.movers import MoverSource

LOOK: Final = "look"  # the name of the call


def look(
    connections: Iterable[Connection], engine: Engine, rdma: MoverSource | None, now_s: float, names: Sequence[str]
) -> dict[str, Any]:
    """``names`` are the namespaces whose identity is wanted."""
    return {
        "clients": within(clients_of(connections, now_s)),
        "identities": dict(within(identities_of(engine, names))),
        "problems": within(PROBLEMS.latest()),
        "rails": rails_of(rdma),
    }


def clients_of(connections: Iterable[Connection], now_s: float) -> list[dict[str, Any]]:
    """One row for each client, namespace and transport, those with most connections first.

    A client names itself once it has proved that it holds the key; ``idle_seconds`` is of its busiest connection.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for connection in itertools.islice(connections, LOOK_CONNECTIONS_MAX):
        namespace = connection.namespace
        if namespace is None:  # it has not proved anything yet
            continue
        place = (connection.agent, namespace.name, connection.moves_by)
        idle_s = round(max(0.0, now_s - connection.progress_s), 1)
        row = rows.get(place)
        if row is None:
            rows[place] = {
                "client": place[0],
                "namespace": place[1],
                "transport": place[2],
                "connections": 1,
                "idle_seconds": idle_s,
            }
        else:
            row["connections"] += 1
            row["idle_seconds"] = min(row["idle_seconds"], idle_s)
    return sorted(rows.values(), key=lambda row: -int(row["connections"]))


def identities_of(engine: Engine, names: Sequence[str]) -> list[tuple[str, str]]:
    """(name, canonical JSON) of those that were opened with an identity which is short enough to be shown."""
    if not isinstance(engine, DriveSet):
        return []
    described = (engine.describe_namespace(name) for name in names)
    return [
        (each["name"], each["identity"])
        for each in described
        if each is not None and 0 < len(each["identity"]) <= IDENTITY_SHOWN_CHARS_MAX
    ]


def rails_of(rdma: MoverSource | None) -> list[dict[str, Any]]:
    """The RDMA devices that the lane has open."""
    if not isinstance(rdma, RdmaSource):
        return []
    return [
        {
            "device": device.name,
            "port": device.context.device.port.number,
            "active": device.context.active(),
            "endpoints": device.endpoint_count,
            "direct_bytes": device.direct_bytes,
        }
        for device in rdma.devices
    ]


def within(rows: Iterable[Any], size_max: int = LOOK_BYTES_MAX) -> list[Any]:
    """The first of ``rows`` that together are no more than ``size_max`` bytes of JSON."""
    kept, size = [], 0
    for row in rows:
        size += len(json.dumps(row)) + 1
        if size > size_max:
            break
        kept.append(row)
    return kept
