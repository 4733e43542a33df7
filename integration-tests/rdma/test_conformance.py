# SPDX-License-Identifier: Apache-2.0
"""Core's conformance kit on real verbs: a real lane in this process, on the same device as its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memkv_core.staging import Staging
from memkv_core.testing.conformance import TransportTests
from memkv_core.testing.node_hooks import WireHooks
from memkv_core.testing.transport_tests import KEY, SessionFactory
from memkv_core.transports import pyverbs_binding
from memkv_core.transports.base import Transport
from memkv_core.transports.rail import Rail
from memkv_core.transports.rdma import RdmaTransport
from memkv_core.transports.verbs import DeviceSpec
from memkv_server.engine import DriveSet
from memkv_server.rdma import RdmaSource
from memkv_server.testing.local_lane import LocalLane

BOUNCE_BYTES = 8 << 20


def open_source(engine: DriveSet) -> RdmaSource:
    """The device, for a lane."""
    return RdmaSource.open(["rxe0"], engine.fixed_memory(), BOUNCE_BYTES, pyverbs_binding.load)


class TestRdma(WireHooks, TransportTests):
    def start(self, path: Path) -> Any:
        self.made: list[RdmaTransport] = []
        return LocalLane(path, KEY, rdma=open_source)

    def stop(self, server: Any) -> None:
        server.stop()
        tried = sum(transport.moves.calls for transport in self.made)
        moved = sum(transport.moves.staged_bytes for transport in self.made)
        assert moved or not tried, "nothing went over the device"

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        rails = [Rail(pyverbs_binding.load(), DeviceSpec("rxe0"))]
        self.made.append(RdmaTransport(new_session, rails, Staging.of_mb(16, 1), choose_rail=lambda server, count: 0))
        return self.made[-1]
