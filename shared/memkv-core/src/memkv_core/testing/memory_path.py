# SPDX-License-Identifier: Apache-2.0
"""A one-sided transport within one process: the server's mover copies between plain addresses of it.

It has everything of shm and rdma but the device: paths are opened with CONNECT_RDMA, regions registered, places sent,
moves fenced. A ``Link`` is what a queue pair would be, and where a test breaks it.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Generator
from typing import Final

from memkv_core.errors import RefusedError
from memkv_core.places import Endpoint, RegionKind, RegionRequest, decode_endpoint, encode_endpoint
from memkv_core.regions import Range
from memkv_core.staging import Staging
from memkv_core.transports.control_calls import ControlCall
from memkv_core.transports.flow import Flow
from memkv_core.transports.one_sided import READ_WRITE, OneSidedPath, OneSidedTransport
from memkv_core.transports.placing import Shelf
from memkv_core.transports.tcp import SessionFactory
from memkv_core.wire import Opcode

_NUMBERS: Final = itertools.count(1)


class Link:
    """One pair of ends. While ``broken`` every move over it fails; once it is ``fenced`` nothing moves any more."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # held by whoever moves bytes, and by whoever fences
        self.number = next(_NUMBERS)
        self.fenced = False
        self.broken = False


class Links:
    """The links of a test, by number. ``up`` is False: no new link can be made, and those there are are broken."""

    def __init__(self) -> None:
        self.by_number: dict[int, Link] = {}
        self.up = True

    def add(self) -> Link:
        link = Link()
        self.by_number[link.number] = link
        return link

    def cut(self) -> None:
        self.up = False
        for link in self.by_number.values():
            link.broken = True


class MemoryPath(OneSidedPath):
    """See ``OneSidedPath``. What the server has moved is in place when it says so."""

    def __init__(self, shelf: Shelf, link: Link) -> None:
        super().__init__(shelf, RegionKind.RDMA)
        self.link = link
        self._fd = os.eventfd(0)

    def fileno(self) -> int:
        return self._fd

    def arrived(self, request_id: int) -> bool:
        return True

    def fence(self) -> None:
        with self.link.lock:
            self.link.fenced = True
        os.close(self._fd)

    def region_request(self, known: Range) -> RegionRequest:
        return RegionRequest(known.number, READ_WRITE, RegionKind.RDMA, known.size_bytes, known.address, 0)


class MemoryTransport(OneSidedTransport):
    """Opens a ``MemoryPath`` on every flow whose server takes it."""

    name = "memory"
    kind = RegionKind.RDMA

    def __init__(
        self,
        new_session: SessionFactory,
        links: Links,
        *,
        connections: int = 4,
        staging: Staging | None = None,
        depth: int = 16,
        puts_direct: bool = True,
        gets_direct: bool = True,
    ) -> None:
        super().__init__(new_session, staging or Staging.of_mb(16, 1), connections=connections)
        self.links = links
        self.paths: list[MemoryPath] = []
        self._depth = depth
        self._direct = puts_direct, gets_direct

    def open_path(self, flow: Flow) -> Generator[int, int, OneSidedPath | None]:
        if "rdma" not in flow.welcome:
            return None
        link = self.links.add()
        link.broken = not self.links.up
        endpoint = Endpoint(link.number, 0, bytes(16), 0, 5, 1, self._depth, 1, 0)
        call = ControlCall(Opcode.CONNECT_RDMA, encode_endpoint(endpoint))
        yield from flow.exchange([call])
        if call.error is not None:
            raise call.error if isinstance(call.error, RefusedError) else AssertionError(call.error)
        decode_endpoint(call.answer)
        puts_direct, gets_direct = self._direct
        shelf = Shelf(self.regions, self.staging, puts_direct=puts_direct, gets_direct=gets_direct, depth=self._depth)
        path = MemoryPath(shelf, link)
        self.paths.append(path)
        return path
