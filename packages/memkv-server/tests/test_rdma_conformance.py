# SPDX-License-Identifier: Apache-2.0
"""The rdma transport against a real lane, over the fake verbs: core's conformance kit in the shapes that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memkv_core.staging import Staging
from memkv_core.testing.conformance import TransportTests
from memkv_core.testing.fake_verbs import Fabric, FakeVerbs
from memkv_core.testing.node_hooks import WireHooks
from memkv_core.testing.transport_tests import KEY, SessionFactory
from memkv_core.transports.base import Transport
from memkv_core.transports.rail import Rail
from memkv_core.transports.rdma import RdmaTransport
from memkv_core.transports.verbs import DeviceSpec
from memkv_server.engine import DriveSet
from memkv_server.rdma import RdmaSource
from memkv_server.testing.local_lane import LocalLane


class TestBounced(WireHooks, TransportTests):
    """Mode file: the server's memory cannot be registered. The client's is not either: staging on one side, bounce
    slots on the other."""

    mode = "file"
    bounce_bytes = 8 << 20

    def start(self, path: Path) -> Any:
        self.fabric = Fabric()
        self.node = FakeVerbs(self.fabric, ["node0"])
        self.made: list[RdmaTransport] = []
        return LocalLane(path, KEY, rdma=self.open_source, mode=self.mode)

    def open_source(self, engine: DriveSet) -> RdmaSource:
        return RdmaSource.open(["node0"], engine.fixed_memory(), self.bounce_bytes, lambda: self.node)

    def stop(self, server: Any) -> None:
        server.stop()
        assert self.fabric.endpoints == {}, "endpoints were left"
        moved = sum(transport.moves.registered_bytes + transport.moves.staged_bytes for transport in self.made)
        tried = sum(transport.moves.calls for transport in self.made)
        assert moved or not tried, "nothing went over the device"

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        transport = self.new_transport(new_session)
        self.made.append(transport)
        return transport

    def new_transport(self, new_session: SessionFactory) -> RdmaTransport:
        rails = [Rail(FakeVerbs(self.fabric, ["client0"]), DeviceSpec("client0"))]
        return RdmaTransport(new_session, rails, Staging.of_mb(16, 1), choose_rail=lambda server, count: 0)


class TestOneBounceSlot(TestBounced):
    """Every frame is longer than what can be under way: steps wait for each other, and for those of other sessions."""

    bounce_bytes = 64 << 10


class TestSlowNetwork(TestBounced):
    """Completions come by the descriptor, later, and to both sides."""

    def start(self, path: Path) -> Any:
        lane = super().start(path)
        self.fabric.delay_s = 0.001
        return lane
