# SPDX-License-Identifier: Apache-2.0
"""What rdma and shm stand on, with no device: core's conformance kit over a mover of plain memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memkv_core.staging import Staging
from memkv_core.testing.conformance import TransportTests
from memkv_core.testing.memory_path import Links, MemoryTransport
from memkv_core.testing.node_hooks import WireHooks
from memkv_core.testing.transport_tests import KEY, SessionFactory
from memkv_core.transports.base import Transport
from memkv_server.testing.local_lane import LocalLane, MemorySource


class TestStaged(WireHooks, TransportTests):
    """Unregistered memory: all of it goes by the staging."""

    turn_bytes = 1 << 20

    def start(self, path: Path) -> Any:
        self.links = Links()
        self.source = MemorySource(self.links, turn_bytes=self.turn_bytes)
        return LocalLane(path, KEY, rdma=lambda engine: self.source)

    def stop(self, server: Any) -> None:
        server.stop()

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        return MemoryTransport(new_session, self.links)


class TestSmallTurns(TestStaged):
    """A mover that takes many turns for one move, little staging, few GETs at a time."""

    turn_bytes = 4099

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        return MemoryTransport(new_session, self.links, staging=Staging(1 << 20, 64 << 10), depth=2)


class TestRegistered(TestStaged):
    """Every address of the process is in a region: nothing may go by the staging."""

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        transport = MemoryTransport(new_session, self.links)
        transport.regions.add(1 << 46, 1 << 46)
        self.made = transport
        return transport

    def stop(self, server: Any) -> None:
        super().stop(server)
        assert (self.made.moves.staged_bytes, self.made.staging.opened) == (0, 0)
