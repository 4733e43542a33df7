# SPDX-License-Identifier: Apache-2.0
"""What the transports share whose servers move the payload themselves (rdma, shm): TCP's frames, with places in them.

A flow gets a *path* at its first exchange that has a payload: the means by which its server moves. Calls with a
payload then go as ``placing.PlacedCall``; whatever cannot (no path, no staging slot free, the server refuses or its
move fails) goes inline over the same session and within the same deadline, and is counted by cause. A path that was
lost is tried again after a pause: nothing is given up for life.

A transport on top of this says how a path is opened, and what its fence is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Final

from memkv_core import wire
from memkv_core.buffers import Region
from memkv_core.errors import MemKVError, RefusedError
from memkv_core.log import RateLimitedLog
from memkv_core.places import Access, RegionKind, RegionRequest, encode_region
from memkv_core.regions import Range, Regions, address_of
from memkv_core.staging import Staging
from memkv_core.transports.base import Call
from memkv_core.transports.flow import Flow, Steps
from memkv_core.transports.placing import PlacedCall, Shelf
from memkv_core.transports.tcp import SessionFactory, TCPTransport
from memkv_core.wire import ErrorCode, Opcode

_LOG: Final = RateLimitedLog(logging.getLogger("memkv_core.transport"))
_RETRY_S_MIN: Final = 0.5
_RETRY_S_MAX: Final = 15.0
_GOES_INLINE: Final = frozenset({ErrorCode.MOVE_FAILED, ErrorCode.LIMIT_EXCEEDED, ErrorCode.UNSUPPORTED_OPCODE})


class ControlCall:
    """A request that is about no keys: CONNECT_RDMA, REGISTER_REGION. ``answer`` is the response's metadata."""

    def __init__(self, opcode: Opcode, metadata: bytes) -> None:
        self.opcode: int = opcode
        self.flags = self.kind = self.key_count = self.payload_bytes = 0
        self.sources: list[memoryview] = []
        self.blocks: Sequence[list[memoryview]] | None = None
        self.response_metadata_bytes = 32
        self.metadata = metadata
        self.started = self.done = False
        self.error: MemKVError | None = None
        self.answer = b""

    def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
        self.answer = metadata
        return []

    def landed(self, received_bytes: int) -> None:
        """Nothing comes after the metadata."""


@dataclass
class MoveCounts:
    """What a transport counted since it started. ``fallbacks`` is by cause: calls that went inline."""

    registered_bytes: int = 0  # moved from or to registered memory: no copy was made
    staged_bytes: int = 0  # went through the staging: one copy
    calls: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)


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
        with self._lock:
            if self._closed or os.getpid() != self._pid:  # in the child of a fork: it is the parent's
                return
            self._closed = True
        self.usable = False
        self.fence()
        for call in self.shelf.under_way:
            slots, call.slots = call.slots, []
            self.abandon(slots)
        self.shelf.under_way.clear()


@dataclass
class _Retry:
    """When a flow's path is tried again."""

    at_s: float
    pause_s: float = _RETRY_S_MIN


class OneSidedTransport(TCPTransport):
    """See ``base.Transport``. Subclasses open paths."""

    kind: RegionKind

    def __init__(self, new_session: SessionFactory, staging: Staging, *, connections: int = 4) -> None:
        super().__init__(new_session, connections=connections)
        self.regions = Regions()
        self.staging = staging
        self.moves = MoveCounts()
        self._retries: weakref.WeakKeyDictionary[Flow, _Retry] = weakref.WeakKeyDictionary()
        self._counting = threading.Lock()
        self._opening = threading.Lock()

    # -- for subclasses -----------------------------------------------------------------------------------------------
    def open_path(self, flow: Flow) -> Generator[int, int, OneSidedPath | None]:
        """Makes the path of a flow whose session is open, with exchanges on it where it needs them.

        None where the server does not offer it; MemKVError that is no lost connection where it cannot be had now.
        """
        raise AssertionError("OneSidedTransport.open_path is for a subclass to fill in")

    def register_range(self, address: int, size_bytes: int, *, staging: bool) -> Range:
        """Makes memory reachable for the paths. MemKVError where that cannot be done: it then goes by staging."""
        return self.regions.add(address, size_bytes)

    def deregister_range(self, known: Range) -> None:
        self.regions.remove(known.number)

    def staging_step(self, slot_count: int) -> int:
        """How many slots are registered at a time, when so many are wanted: by default only those."""
        return slot_count

    # -- the seam -----------------------------------------------------------------------------------------------------
    def register(self, view: memoryview) -> Region:
        if not view.nbytes:
            return Region(view)
        try:
            known = self.register_range(address_of(view), view.nbytes, staging=False)
        except MemKVError as error:
            _LOG.warning("register", "%d bytes are not registered and go by staging: %s", view.nbytes, error)
            return Region(view)
        return _RegisteredRegion(view, self, known)

    def after_fork(self) -> None:
        """Registrations are the parent's too: the child's blocks go by staging, which it has to register anew."""
        super().after_fork()
        self.regions = Regions()
        self.staging = self.staging.renewed()
        self._retries = weakref.WeakKeyDictionary()
        self._counting = threading.Lock()
        self._opening = threading.Lock()

    # -- exchanges ----------------------------------------------------------------------------------------------------
    def _exchange(self, flow: Flow, calls: Sequence[Call]) -> Steps:
        if any(call.blocks is not None and any(call.blocks) for call in calls):
            return self._exchange_placed(flow, calls)
        return flow.exchange(calls)

    def _exchange_placed(self, flow: Flow, calls: Sequence[Call]) -> Steps:
        path = yield from self._path(flow)
        if path is None:
            yield from flow.exchange(calls)
            return
        placed: list[Call] = [
            PlacedCall(call, path.shelf) if call.blocks is not None and any(call.blocks) else call for call in calls
        ]
        self._open_slots(placed)
        announcements = self._announcements(path)
        sent: list[Call] = [*announcements, *placed]
        yield from flow.exchange(sent)
        for announcement in announcements:
            if announcement.error is not None:
                self._lost(flow, path, announcement.error)
        again = self._again(flow, path, placed)
        if again:
            yield from flow.exchange(again)

    def _again(self, flow: Flow, path: OneSidedPath, placed: Sequence[Call]) -> list[Call]:
        """Counts what was moved; the calls that have to go inline, as if they had not gone before."""
        again: list[Call] = []
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
                    self._lost(flow, path, error)
                    call.call.error = None
                    again.append(call.call)
        return again

    def _lost(self, flow: Flow, path: OneSidedPath, error: MemKVError) -> None:
        """The path goes, the session stays."""
        if flow.path is path:
            _LOG.warning(flow.route.server, "%s: %s moves nothing for now: %s", self.name, flow.route.server, error)
            path.close()
            flow.path = None
            self._retries[flow] = _Retry(time.monotonic() + _RETRY_S_MIN)

    def _path(self, flow: Flow) -> Generator[int, int, OneSidedPath | None]:
        """The flow's path, opened if it has none and it is time to try."""
        path = flow.path
        if path is not None:
            assert isinstance(path, OneSidedPath)
            if path.usable:
                return path
            path.close()
            flow.path = None
        retry = self._retries.get(flow)
        if retry is not None and time.monotonic() < retry.at_s:
            with self._counting:
                self.moves.fallbacks["no path"] += 1
            return None
        pause_s = min(2 * retry.pause_s, _RETRY_S_MAX) if retry is not None else _RETRY_S_MIN
        self._retries[flow] = _Retry(time.monotonic() + pause_s, pause_s)
        try:
            opened = yield from self.open_path(flow)
        except RefusedError as error:
            _LOG.warning(flow.route.server, "%s: no path to %s: %s", self.name, flow.route.server, error)
            opened = None
        if opened is None:
            with self._counting:
                self.moves.fallbacks["no path"] += 1
            return None
        flow.path = opened
        del self._retries[flow]
        return opened

    # -- regions ------------------------------------------------------------------------------------------------------
    def _open_slots(self, placed: Sequence[Call]) -> None:
        """Registers as many slots as these calls can use at the same time."""
        wanted = sum(self.staging.slots_of(call.staged_need) for call in placed if isinstance(call, PlacedCall))
        if not wanted or self.staging.opened == self.staging.slot_count or self.staging.free_count >= wanted:
            return
        with self._opening:
            opened = self.staging.opened
            count = min(self.staging_step(wanted - self.staging.free_count), self.staging.slot_count - opened)
            if count <= 0:
                return
            start = self.staging.address + opened * self.staging.slot_bytes
            try:
                self.register_range(start, count * self.staging.slot_bytes, staging=True)
            except MemKVError as error:
                _LOG.warning("staging", "%d staging slots are not registered: %s", count, error)
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
        self._known: Range | None = known

    def close(self) -> None:
        known, self._known = self._known, None
        if known is not None:
            self._transport.deregister_range(known)
        super().close()


READ_WRITE: Final = Access.READ | Access.WRITE
