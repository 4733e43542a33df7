# SPDX-License-Identifier: Apache-2.0
"""The hooks of ``TransportTests`` that are the same for every server with an address: list them before the kit.

::

    class TestMine(WireHooks, TransportTests):
        def start(self, path): return LocalLane(path, KEY)
        def stop(self, server): server.stop()
        def make_transport(self, server, new_session): return TCPTransport(new_session)
"""

from __future__ import annotations

from typing import Any

from memkv_core.testing.raw_client import RawClient
from memkv_core.testing.transport_tests import KEY, NAMESPACE
from memkv_core.wire import Status


class NodeHooks:
    """For a server that has ``address``, ``freeze``, ``thaw``, ``stop`` and ``start``."""

    def address(self, server: Any) -> str:
        return str(server.address)

    def freeze(self, server: Any) -> None:
        server.freeze()

    def thaw(self, server: Any) -> None:
        server.thaw()

    def kill(self, server: Any) -> None:
        server.stop()

    def revive(self, server: Any) -> None:
        server.start()


class WireHooks(NodeHooks):
    """And one whose engine cannot be reached: what it holds is asked, and put, over a connection of its own."""

    def peek(self, server: Any, lane: int, key: bytes) -> bytes | None:
        with RawClient(self.address(server), KEY, namespace=NAMESPACE, lane=lane) as raw:
            return raw.get(key)

    def plant(self, server: Any, lane: int, key: bytes, value: bytes) -> None:
        with RawClient(self.address(server), KEY, namespace=NAMESPACE, lane=lane) as raw:
            assert raw.put(key, value) == Status.HIT
