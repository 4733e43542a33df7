# SPDX-License-Identifier: Apache-2.0
"""Makes the transport that the settings ask for, and says which and why."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from memkv_core.config import ClientConfig
from memkv_core.limits import MIB
from memkv_core.staging import Staging
from memkv_core.transports import sysfs, verbs
from memkv_core.transports.base import Transport
from memkv_core.transports.choice import Found, asks_for_devices, choose
from memkv_core.transports.library import load_verbs
from memkv_core.transports.rail import Rail, opened_rails
from memkv_core.transports.rdma import RdmaTransport
from memkv_core.transports.shm import ShmTransport
from memkv_core.transports.tcp import SessionFactory, TCPTransport
from memkv_core.transports.topology import map_servers

_LOG: Final = logging.getLogger("memkv_core.transport")


def make_transport(
    new_session: SessionFactory, config: ClientConfig, *, load: Callable[[], verbs.Verbs] = load_verbs
) -> Transport:
    """Raises ConfigError, and DeviceUnavailableError where rdma is asked for and cannot be had."""
    found: Found | None = None
    rails: list[Rail] = []
    if asks_for_devices(config.transport, config.rdma_devices):
        found, rails = _look_at(config.rdma_devices, load)
    choice = choose(config.transport, config.rdma_devices, found)
    # What was asked for by name needs no line among those of a start, which others read.
    level = logging.DEBUG if choice.transport == config.transport != "rdma" else logging.INFO
    _LOG.log(level, "transport=%s: %s", "auto" if choice.transport == "local" else choice.transport, choice.reason)
    if choice.transport == "rdma":
        return _rdma(new_session, config, rails)
    if choice.transport in ("shm", "local"):
        return ShmTransport(
            new_session,
            connections=config.connections,
            staging_bytes=config.staging_size_mb * MIB,
            slot_bytes=config.staging_slot_mb * MIB,
            required=choice.transport == "shm",
        )
    return TCPTransport(new_session, connections=config.connections)


def _look_at(devices: tuple[str, ...], load: Callable[[], verbs.Verbs]) -> tuple[Found, list[Rail]]:
    """Opens the devices: what they say, and the rails."""
    try:
        library = load()
    except verbs.VerbsError as error:
        return Found(library=False, problem=str(error)), []
    rails = opened_rails(library, devices)
    usable = [rail.usable() for rail in rails]
    for rail in rails:
        if rail.problem is not None:
            _LOG.warning("rdma: %s", rail.problem)
    return Found(library=True, problem=None if any(usable) else ", ".join(str(rail.problem) for rail in rails)), rails


def _rdma(new_session: SessionFactory, config: ClientConfig, rails: list[Rail]) -> RdmaTransport:
    devices = sysfs.read_devices()
    facts = [sysfs.rail_facts(rail.spec, devices) for rail in rails]
    mapped = map_servers(config.servers, facts, sysfs.process_nodes(), turn=os.getpid())
    return RdmaTransport(
        new_session,
        rails,
        Staging.of_mb(config.staging_size_mb, config.staging_slot_mb),
        choose_rail=lambda server, count: mapped.get(server, 0) % count,
        connections=config.connections,
    )
