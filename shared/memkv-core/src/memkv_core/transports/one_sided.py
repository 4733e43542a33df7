# SPDX-License-Identifier: Apache-2.0
"""What the transports share whose servers move the payload themselves (rdma, shm): TCP's frames, with places in them.

A flow gets a *path* at its first exchange that has a payload: the means by which its server moves. Calls with a
payload then go as ``placing.PlacedCall``; whatever cannot (no path, no staging slot free, the server refuses or its
move fails) goes inline over the same session and within the same deadline, and is counted by cause. A server whose
path was lost is *suspect*: calls go inline until a background thread has opened a path again and seen something moved
over it. So a probe never costs a call its deadline, and nothing is given up for life.

A transport on top of this says how a path is opened, and what its fence is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Final

from memkv_core.buffers import Region
from memkv_core.errors import MemKVError, RefusedError
from memkv_core.log import RateLimitedLog
from memkv_core.places import Access, RegionKind, RegionRequest, encode_region
from memkv_core.regions import Range, Regions, address_of
from memkv_core.staging import Staging
from memkv_core.transports.base import Call, MoveCounts, Route
from memkv_core.transports.control_calls import ControlCall, ProbeCall
from memkv_core.transports.flow import Flow, Steps
from memkv_core.transports.placing import PlacedCall, Shelf
from memkv_core.transports.suspects import Suspects
from memkv_core.transports.tcp import SessionFactory, TCPTransport
from memkv_core.wire import ErrorCode, Opcode

_LOG: Final = logging.getLogger("memkv_core.transport")
_LIMITED: Final = RateLimitedLog(_LOG)
_PROBE_S: Final = 2.0
_SLOTS_AGAIN_S: Final = 10.0  # after memory for more slots could not be registered
_GOES_INLINE: Final = frozenset({ErrorCode.MOVE_FAILED, ErrorCode.LIMIT_EXCEEDED, ErrorCode.UNSUPPORTED_OPCODE})


class OneSidedPath(ABC):
    """See ``flow.Path``. Used by one thread at a time; ``close`` may come from any."""

    def __init__(self, shelf: Shelf, kind: RegionKind) -> None:
        self.shelf = shelf
        self.kind = kind
        self.usable = True
        self.announced: set[int] = set()  # the regions that the server knows on this session
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()

    @abstractmethod
    def fileno(self) -> int: ...

    @abstractmethod
    def arrived(self, request_id: int) -> bool: ...

    @abstractmethod
    def fence(self) -> None:
        """After this the server can move nothing here any more, or only to slots that ``quarantines`` keeps apart."""

    @abstractmethod
    def region_request(self, known: Range) -> RegionRequest | None:
        """How a region of the table is announced; None: this path cannot reach it."""

    def may_send(self, call: Call) -> bool:
        return not isinstance(call, PlacedCall) or call.prepare()

    def abandon(self, slots: list[int]) -> None:
        """After the fence: slots that were in use. A path whose fence is the slots themselves quarantines them."""
        self.shelf.staging.give_back(slots)

    def close(self) -> None:
        if os.getpid() != self._pid:  # in the child of a fork: it is the parent's, and so may the lock be
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.usable = False
        self.fence()
        for call in self.shelf.under_way | self.shelf.failed:
            self.abandon(call.cut_off())
        self.shelf.under_way.clear()
        self.shelf.failed.clear()


class OneSidedTransport(TCPTransport):
    """See ``base.Transport``. Subclasses open paths."""

    kind: RegionKind
    moves: MoveCounts

    def __init__(self, new_session: SessionFactory, staging: Staging, *, connections: int = 4) -> None:
        super().__init__(new_session, connections=connections)
        self.regions = Regions()
        self.staging = staging
        self.moves = MoveCounts()
        self._suspects = Suspects(self._probe_path)
        self._said: set[str] = set()  # servers whose kind of path was logged
        self._counting = threading.Lock()
        self._opening = threading.Lock()
        self._slots_at_s = 0.0

    # -- for subclasses -----------------------------------------------------------------------------------------------
    def open_path(self, flow: Flow) -> Generator[int, int, OneSidedPath | None]:
        """Makes the path of a flow whose session is open, with exchanges on it where it needs them.

        None where the server does not offer it; MemKVError that is no lost connection where it cannot be had now.
        """
        raise AssertionError("OneSidedTransport.open_path is for a subclass to fill in")

    def register_range(self, view: memoryview) -> Range:
        """Makes memory reachable for the paths. MemKVError where that cannot be done: it then goes by staging."""
        return self.regions.add(address_of(view), view.nbytes)

    def deregister_range(self, known: Range) -> None:
        self.regions.remove(known.number)

    def are_worth_placing(self, calls: Sequence[Call]) -> bool:
        """Whether the server is to move blocks of these calls; if not they go inline, as they would over tcp."""
        return any(call.blocks is not None and any(call.blocks) for call in calls)

    def staging_step(self, slot_count: int) -> int:
        """How many slots are registered at a time, when so many are wanted: by default only those."""
        return slot_count

    # -- the seam -----------------------------------------------------------------------------------------------------
    def register(self, view: memoryview) -> Region:
        if not view.nbytes:
            return Region(view)
        try:
            known = self.register_range(view)
        except MemKVError as error:
            self.say_unregistered(view, error)
            return Region(view)
        return _RegisteredRegion(view, self, known)

    def say_unregistered(self, view: memoryview, error: MemKVError) -> None:
        _LIMITED.warning("register", "%d bytes are not registered and go by staging: %s", view.nbytes, error)

    def after_fork(self) -> None:
        """Registrations are the parent's too: the child's blocks go by staging, which it has to register anew."""
        super().after_fork()
        self.regions = Regions()
        self.staging = self.staging.renewed()
        self._counting = threading.Lock()
        self._opening = threading.Lock()
        self._suspects.after_fork()

    def close(self) -> None:
        self._suspects.close()
        super().close()

    # -- exchanges ----------------------------------------------------------------------------------------------------
    def _exchange(self, flow: Flow, calls: Sequence[Call]) -> Steps:
        if self.are_worth_placing(calls):
            return self._exchange_placed(flow, calls)
        if any(isinstance(call, ProbeCall) for call in calls):
            return self._exchange_probe(flow, calls)
        return flow.exchange(calls)

    def _exchange_placed(self, flow: Flow, calls: Sequence[Call]) -> Steps:
        path = yield from self._path(flow)
        if path is None:
            with self._counting:
                self.moves.fallbacks["no path"] += sum(call.blocks is not None for call in calls)
            yield from flow.exchange(calls)
            return
        announcements = self._announcements(path)  # of the regions that the calls are laid out by
        answered = False
        try:
            placed: list[Call] = [
                PlacedCall(call, path.shelf) if call.blocks is not None and any(call.blocks) else call for call in calls
            ]
            self._open_slots(path, placed)
            announcements += self._announcements(path)
            sent: list[Call] = [*announcements, *placed]
            yield from flow.exchange(sent)
            answered = True
        finally:
            for announcement in announcements:
                announcement.close()
            if not answered:  # the path may be what made it late; if it is not, nothing is lost by a probe
                self._suspect(flow.route.server)
        for announcement in announcements:
            if announcement.error is not None:
                self._region_refused(flow, path, announcement)
        again = self._again(flow, path, placed)
        if again:
            yield from flow.exchange(again)

    def _exchange_probe(self, flow: Flow, calls: Sequence[Call]) -> Steps:
        if flow.path is None:
            flow.path = yield from self.open_path(flow)
        if flow.path is not None:
            yield from flow.exchange(calls)

    def _again(self, flow: Flow, path: OneSidedPath, placed: Sequence[Call]) -> list[Call]:
        """Counts what was moved; the calls that have to go inline, as if they had not gone before."""
        again: list[Call] = []
        lost: MemKVError | None = None
        with self._counting:
            for call in placed:
                if not isinstance(call, PlacedCall):
                    continue
                self.moves.calls += 1
                self.moves.registered_bytes += call.registered_bytes
                self.moves.staged_bytes += call.staged_bytes
                error = call.error
                if call.inline_cause is not None:
                    self.moves.fallbacks[call.inline_cause] += 1
                elif isinstance(error, RefusedError) and error.code in _GOES_INLINE:
                    self.moves.fallbacks["move failed" if error.code == ErrorCode.MOVE_FAILED else "refused"] += 1
                    lost = error
                    call.call.error = None
                    again.append(call.call)
        if lost is not None:
            self._lost(flow, path, lost)
        return again

    def _region_refused(self, flow: Flow, path: OneSidedPath, announcement: ControlCall) -> None:
        assert announcement.error is not None
        self._lost(flow, path, announcement.error)

    def _lost(self, flow: Flow, path: OneSidedPath, error: MemKVError) -> None:
        """The path goes, the session stays. What the server was moving can move no more when this returns."""
        if flow.path is path:
            server = flow.route.server
            _LIMITED.warning(server, "%s: blocks of %s go by tcp for now: %s", self.name, server, error)
            path.close()
            flow.path = None
            self._suspect(server)

    def _path(self, flow: Flow) -> Generator[int, int, OneSidedPath | None]:
        """The flow's path, opened if it has none and its server is no suspect."""
        path = flow.path
        if path is not None:
            assert isinstance(path, OneSidedPath)
            if path.usable:
                return path
            path.close()
            flow.path = None
        server = flow.route.server
        opened: OneSidedPath | None = None
        if server not in self._suspects:
            try:
                opened = yield from self.open_path(flow)
            except RefusedError as error:
                _LIMITED.warning(server, "%s: blocks of %s go by tcp for now: %s", self.name, server, error)
                self._suspect(server)
            else:
                self._say(server, opened is not None)
        flow.path = opened
        return opened

    def _say(self, server: str, offered: bool) -> None:
        """Which transport a server's blocks go by, once."""
        if server not in self._said:
            self._said.add(server)
            if offered:
                _LOG.info("transport server=%s blocks by %s", server, self.name)
            else:
                _LOG.info("transport server=%s blocks by tcp: the server offers no %s", server, self.name)

    def _suspect(self, server: str) -> None:
        """Its calls go inline until a probe has seen something moved."""
        self._suspects.add(server)

    def _probe_path(self, server: str) -> bool:
        """Whether there is a path, and something was moved over it; the flow is in the pool for whoever comes next."""
        call = ProbeCall()
        self.run([(Route(server, 0), [call])], time.monotonic() + _PROBE_S)
        if call.done:
            _LOG.info("transport server=%s blocks by %s again", server, self.name)
        return call.done

    # -- regions ------------------------------------------------------------------------------------------------------
    def _open_slots(self, path: OneSidedPath, placed: Sequence[Call]) -> None:
        """Registers as many slots as these calls can use at the same time."""
        wanted = sum(self.staging.slots_of(call.staged_need) for call in placed if isinstance(call, PlacedCall))
        if not wanted or self.staging.opened == self.staging.slot_count or self.staging.free_count >= wanted:
            return
        if time.monotonic() < self._slots_at_s:
            return
        with self._opening:
            opened = self.staging.opened
            count = min(self.staging_step(wanted - self.staging.free_count), self.staging.slot_count - opened)
            if count <= 0:
                return
            try:
                self.register_range(self.staging.area(opened, count))
            except MemKVError as error:
                _LIMITED.warning("staging", "%d staging slots are not registered: %s", count, error)
                self._slots_at_s = time.monotonic() + _SLOTS_AGAIN_S
                return
            self.staging.open(opened + count)

    def _announcements(self, path: OneSidedPath) -> list[ControlCall]:
        """Tells the server of the regions that it does not know yet, and of those that are no more."""
        slots_known = self.staging.opened  # before the regions are looked at, so that theirs are among them
        known = self.regions.ranges
        path.shelf.slots_known = slots_known
        calls: list[ControlCall] = []
        if path.announced.issuperset(known) and len(path.announced) == len(known):
            return calls
        for number in path.announced - known.keys():
            request = RegionRequest(number, 0, path.kind, 0)
            calls.append(ControlCall(Opcode.REGISTER_REGION, encode_region(request)))
        for number, each in known.items():
            if number not in path.announced:
                announced = path.region_request(each)
                if announced is not None:
                    calls.append(ControlCall(Opcode.REGISTER_REGION, encode_region(announced)))
        path.announced = set(known)
        return calls


class _RegisteredRegion(Region):
    def __init__(self, view: memoryview, transport: OneSidedTransport, known: Range) -> None:
        super().__init__(view)
        self._transport = transport
        self._regions = transport.regions
        self._known: Range | None = known

    def close(self) -> None:
        known, self._known = self._known, None
        if known is not None and self._regions is self._transport.regions:  # else it is the parent's of a fork
            self._transport.deregister_range(known)
        super().close()


READ_WRITE: Final = Access.READ | Access.WRITE
