# SPDX-License-Identifier: Apache-2.0
"""Shared memory with a server on the same host: its Unix socket carries the frames, it moves the payload itself.

    TCP session ──WELCOME names socket, host, node──► Unix session ──memfd, nonce──► path: blocks by shared memory

Each connection has memory of its own to stage blocks in, which the server fills and empties through its descriptor
while the client copies the last ones out or the next ones in. **The fence is that memory:** when a call ends before
its blocks have come, the connection is closed and its memory given up with it. What a server that was stopped writes
when it wakes reaches a file that nobody looks at. A put's blocks in registered memory that has a descriptor (see
``backing``) are read where they are; what is read too late does not match its digest.

Where a server cannot be reached this way its blocks go over TCP, and it is tried again after a pause.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Final

from memkv_core import handshake
from memkv_core.backing import Backing, find_backing
from memkv_core.errors import ConnectError, MemKVError, RemoteProtocolError
from memkv_core.limits import KIB, MIB
from memkv_core.log import RateLimitedLog
from memkv_core.places import NONCE_BYTES, Access, RegionKind, RegionRequest, decode_region, encode_region
from memkv_core.regions import Range, Regions, address_of
from memkv_core.shared_memory import SharedMemory
from memkv_core.staging import Staging
from memkv_core.transports.base import Call, Route
from memkv_core.transports.control_calls import ControlCall
from memkv_core.transports.flow import Flow, Steps
from memkv_core.transports.local_nodes import LocalNodes
from memkv_core.transports.one_sided import READ_WRITE, OneSidedPath, OneSidedTransport
from memkv_core.transports.placing import Shelf
from memkv_core.transports.tcp import SessionFactory, _Task
from memkv_core.wire import Opcode

_LOG: Final = RateLimitedLog(logging.getLogger("memkv_core.transport"))
_STAGING: Final = 0xFFFF_FFFF  # the number of a path's own memory; the others count from 1
# Calls at a time on a connection: with a get more neither end waits for the other, with a put more of the memory than
# this does not stay in the cache (docs/design/0007).
_DEPTH_OF_GETS: Final = 3
_DEPTH_OF_PUTS: Final = 2
_WAYS: Final = 2  # over TCP to hear where the socket is, then through the socket
_SLOTS_MIN: Final = 4  # that a connection's memory is divided into, so that the calls on it overlap
_SLOT_BYTES_MAX: Final = MIB
_FRAME_BYTES: Final = 3 * MIB
# What goes through the socket itself: so little, and so much of blocks that are no larger than this.
_INLINE_BYTES_MAX: Final = 512 * KIB
_INLINE_SMALL_BYTES_MAX: Final = 4 * MIB
_SMALL_BLOCK_BYTES: Final = 32 * KIB


class _OtherWayError(ConnectError):
    """Nothing was sent: the server is to be reached another way than was tried."""


class ShmPath(OneSidedPath):
    """See ``one_sided``. ``regions`` are those that the server knows on this connection, its own memory among them."""

    def __init__(self, shelf: Shelf, shared: SharedMemory, own: Range) -> None:
        super().__init__(shelf, RegionKind.SHM)
        self.shared = shared
        self.own = own
        self.known: Mapping[int, Range] = {}  # of the transport, as they were when they were announced

    def fileno(self) -> int:
        return -1  # what the server has moved is in place when it says so

    def arrived(self, request_id: int) -> bool:
        return True

    def fence(self) -> None:
        """The connection is closed, and its memory is not looked at again."""

    def abandon(self, slots: list[int]) -> None:
        """They are never used again: they go with the memory."""

    def region_request(self, known: Range) -> RegionRequest | None:
        return None


class ShmTransport(OneSidedTransport):
    """See ``base.Transport``. ``required``: a server that cannot be reached this way is not reached at all.

    ``staging_bytes`` bounds the memory of all connections together, each has ``slot_bytes`` of it.
    """

    name = "shm"
    kind = RegionKind.SHM

    def __init__(
        self,
        new_session: SessionFactory,
        *,
        connections: int = 4,
        staging_bytes: int = 1024 * MIB,
        slot_bytes: int = 16 * MIB,
        required: bool = False,
    ) -> None:
        super().__init__(new_session, Staging(0, slot_bytes), connections=connections)
        self.local = LocalNodes()
        self._memory_bytes = slot_bytes
        self._paths_max = max(1, staging_bytes // slot_bytes)
        self._paths_left = self._paths_max
        self._required = required
        self._backings: dict[int, Backing] = {}
        self._sharing = threading.Lock()

    def after_fork(self) -> None:
        super().after_fork()
        self.local.after_fork()
        self._sharing = threading.Lock()
        self._paths_left = self._paths_max
        for backing in self._backings.values():
            os.close(backing.descriptor)  # this process's copies
        self._backings = {}

    # -- connections --------------------------------------------------------------------------------------------------
    def lane_counts(self, servers: Sequence[str], deadline_s: float) -> dict[str, int | MemKVError]:
        counts = super().lane_counts(servers, deadline_s)
        if self._required:
            for server, count in counts.items():
                if isinstance(count, int) and (error := self._refused(server)) is not None:
                    counts[server] = error
        return counts

    def run(self, work: Sequence[tuple[Route, Sequence[Call]]], deadline_s: float) -> None:
        super().run(work, deadline_s)
        for _ in range(_WAYS):
            again = [
                (route, others)
                for route, calls in work
                if (others := [call for call in calls if isinstance(call.error, _OtherWayError)])
            ]
            if not again:
                return
            for _, calls in again:
                for call in calls:
                    call.error = None
            super().run(again, deadline_s)

    def frame_bytes(self, server: str) -> int:
        return _FRAME_BYTES if self.local.reason(server) is None else super().frame_bytes(server)

    def _refused(self, server: str) -> ConnectError | None:
        """Where shared memory is required: why this server is not reached."""
        reason = self.local.refusal(server)
        if reason is None:
            return None
        error = ConnectError(
            f"{server} cannot share memory with this client: {reason}",
            remedy="run both on one host and as one user, or set MEMKV_TRANSPORT to auto",
        )
        _LOG.error(server, "%s", error)
        return error

    def _new_flow(self, task: _Task) -> Flow | None:
        if task.route.lane != handshake.LANE_ANY:
            connected = self.local.connect(task.route.server)
            if connected is not None:
                flow = Flow(task.route, (), connected.family, self._new_session(task.route.lane), connected)
                self._pool.adopt(flow)
                return flow
        return super()._new_flow(task)

    def _learn(self, route: Route, flow: Flow) -> int:
        server = route.server
        if flow.local and not self.local.is_node(server, flow.welcome):
            self._start_over(server)
            raise _OtherWayError(f"{server} is not who answers on its socket any more")
        if not flow.local:
            hello = flow.session.hello
            self.local.heard(server, flow.welcome, hello.key_id if hello is not None else b"")
        try:
            return super()._learn(route, flow)
        except ConnectError:
            self._start_over(server)
            raise

    def _start_over(self, server: str) -> None:
        """The node is another than it was: the next session is over TCP, and its WELCOME counts."""
        self.local.forget(server)
        self._lane_counts.pop(server, None)

    def _connect_and_exchange(self, task: _Task, flow: Flow) -> Steps:
        yield from super()._connect_and_exchange(task, flow)
        self._retire(flow)

    def _exchange(self, flow: Flow, calls: Sequence[Call]) -> Steps:
        return super()._exchange(flow, calls) if flow.local else self._exchange_over_tcp(flow, calls)

    def _exchange_over_tcp(self, flow: Flow, calls: Sequence[Call]) -> Steps:
        server = flow.route.server
        if self._required:
            raise self._refused(server) or _OtherWayError(f"{server} is reached through its socket from now on")
        if self.local.is_here(server):
            with self._counting:
                self.moves.fallbacks["no path"] += sum(call.blocks is not None for call in calls)
        yield from flow.exchange(calls)
        self._retire(flow)

    def _retire(self, flow: Flow) -> None:
        """A TCP connection makes room for a Unix one where that may be had."""
        if not flow.local and self.local.worth_trying(flow.route.server):
            flow.open = False

    def are_worth_placing(self, calls: Sequence[Call]) -> bool:
        """Large blocks are, and many of them. A little is faster through the socket, where no places have to be named,
        found and checked at both ends, and the kernel hands on one piece while the next one comes."""
        blocks = [sum(map(len, parts)) for call in calls for parts in call.blocks or ()]
        size = sum(blocks)
        small = size <= _SMALL_BLOCK_BYTES * len(blocks)
        return size > (_INLINE_SMALL_BYTES_MAX if small else _INLINE_BYTES_MAX)

    # -- paths --------------------------------------------------------------------------------------------------------
    def open_path(self, flow: Flow) -> Generator[int, int, OneSidedPath | None]:
        if not flow.local:
            return None
        with self._sharing:
            if self._paths_left <= 0:
                return None
            self._paths_left -= 1
        opened = None
        try:
            opened = yield from self._share(flow)
        finally:
            if opened is None:
                self._path_closed()
        return opened

    def _share(self, flow: Flow) -> Generator[int, int, _CountedPath | None]:
        """Gives the server this connection's memory; None where it does not see the same."""
        server = flow.route.server
        try:
            shared = SharedMemory(self._memory_bytes)
        except OSError as error:
            self.local.failed(server, f"no memory to share: {error.strerror}")
            return None
        nonce = os.urandom(NONCE_BYTES)
        shared.memory[:NONCE_BYTES] = nonce
        request = RegionRequest(_STAGING, READ_WRITE, RegionKind.SHM, self._memory_bytes)
        call = ControlCall(Opcode.REGISTER_REGION, encode_region(request), shared.take_descriptor())
        try:
            yield from flow.exchange([call])
        finally:
            call.close()
        if call.error is not None or call.answer != nonce:
            reason = str(call.error) if call.error is not None else "it reads other bytes there than were written"
            self.local.failed(server, f"it does not share memory: {reason}")
            if call.error is None:
                raise RemoteProtocolError(f"{server} reads other bytes than those of the memory that it was given")
            flow.open = False
            return None
        self.local.worked(server)
        slot_bytes = max(64 * KIB, min(_SLOT_BYTES_MAX, self._memory_bytes // _SLOTS_MIN))
        staging = Staging(self._memory_bytes, slot_bytes, memory=lambda _: shared.memory)
        staging.open(staging.slot_count)
        own = Range(_STAGING, staging.address, staging.size_bytes)
        regions = Regions()
        regions.replace({_STAGING: own})
        shelf = Shelf(
            regions,
            staging,
            puts_direct=False,
            gets_direct=False,
            depth=_DEPTH_OF_GETS,
            depth_of_puts=_DEPTH_OF_PUTS,
        )
        shelf.slots_known = staging.slot_count
        return _CountedPath(shelf, shared, own, self)

    def _path_closed(self) -> None:
        with self._sharing:
            self._paths_left += 1

    def _suspect(self, server: str) -> None:
        """A connection that was lost says nothing against the next one; ``local`` knows what does."""

    def _lost(self, flow: Flow, path: OneSidedPath, error: MemKVError) -> None:
        super()._lost(flow, path, error)
        flow.open = False  # with the connection goes what the server has of it
        self.local.failed(flow.route.server, str(error))

    # -- regions ------------------------------------------------------------------------------------------------------
    def say_unregistered(self, view: memoryview, error: MemKVError) -> None:
        """Nothing is wrong: most memory is private, and servers on other hosts do not care."""
        _LOG.log(logging.INFO, "register", "%d bytes go by staging over shm: %s", view.nbytes, error)

    def register_range(self, view: memoryview) -> Range:
        backing = find_backing(address_of(view), view.nbytes)
        known = super().register_range(view)
        with self._sharing:
            self._backings[known.number] = backing
        return known

    def deregister_range(self, known: Range) -> None:
        super().deregister_range(known)
        with self._sharing:
            backing = self._backings.pop(known.number, None)
        if backing is not None:
            os.close(backing.descriptor)

    def _region_refused(self, flow: Flow, path: OneSidedPath, announcement: ControlCall) -> None:
        """The server takes no memory of that kind: its blocks go by staging from now on, and the path stays."""
        number = decode_region(announcement.metadata).region
        _LOG.warning("region", "region %d is not shared and goes by staging: %s", number, announcement.error)
        known = self.regions.ranges.get(number)
        if known is not None:
            self.deregister_range(known)

    def _open_slots(self, path: OneSidedPath, placed: Sequence[Call]) -> None:
        """They are a path's own, and open with it."""

    def _announcements(self, path: OneSidedPath) -> list[ControlCall]:
        assert isinstance(path, ShmPath)
        ranges = self.regions.ranges
        if path.known is ranges:
            return []
        calls = [
            ControlCall(Opcode.REGISTER_REGION, encode_region(RegionRequest(number, 0, RegionKind.SHM, 0)))
            for number in path.known.keys() - ranges.keys()
        ]
        for number in ranges.keys() - path.known.keys():
            call = self._announcement(ranges[number])
            if call is not None:
                calls.append(call)
        path.known = ranges
        path.shelf.regions.replace({_STAGING: path.own, **ranges})
        path.shelf.puts_direct = bool(ranges)  # nobody's blocks are in the staging
        return calls

    def _announcement(self, known: Range) -> ControlCall | None:
        with self._sharing:
            backing = self._backings.get(known.number)
            if backing is None:  # deregistered meanwhile
                return None
            descriptor = os.dup(backing.descriptor)
        request = RegionRequest(known.number, Access.READ, RegionKind.SHM, known.size_bytes, backing.offset)
        return ControlCall(Opcode.REGISTER_REGION, encode_region(request), descriptor)


class _CountedPath(ShmPath):
    """Gives back its share of the staging memory when it is closed."""

    def __init__(self, shelf: Shelf, shared: SharedMemory, own: Range, transport: ShmTransport) -> None:
        super().__init__(shelf, shared, own)
        self._transport = transport

    def fence(self) -> None:
        super().fence()
        self._transport._path_closed()
