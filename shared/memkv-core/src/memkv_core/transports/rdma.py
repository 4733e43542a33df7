# SPDX-License-Identifier: Apache-2.0
"""RDMA: servers move payload from and to this client's registered memory; frames and liveness stay on TCP.

Each flow has a queue pair (RC) of its own, paired over the authenticated session (CONNECT_RDMA), on one of the local
devices. The client posts nothing but receives: a GET's last write carries its request id, and consumes one.

*The fence.* A call that gives up closes its flow, which moves the queue pair to ERROR before the call returns: what
the server writes later is refused by the device. Tearing the rest down takes longer and is left to a thread.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final

from memkv_core.errors import DisconnectedError, RefusedError
from memkv_core.limits import MIB
from memkv_core.places import Access, RegionKind, RegionRequest, decode_endpoint, encode_endpoint
from memkv_core.places import Endpoint as EndpointRecord
from memkv_core.regions import Range, address_of
from memkv_core.staging import Staging
from memkv_core.transports import verbs
from memkv_core.transports.control_calls import ControlCall
from memkv_core.transports.flow import Flow
from memkv_core.transports.one_sided import READ_WRITE, OneSidedPath, OneSidedTransport
from memkv_core.transports.placing import Shelf
from memkv_core.transports.rail import OpenRail, Rail
from memkv_core.transports.tcp import SessionFactory
from memkv_core.transports.verbs import Peer, VerbsError, WorkStatus, status_name
from memkv_core.wire import Opcode

_LOG: Final = logging.getLogger("memkv_core.transport")
_DEPTH: Final = 32  # GETs of one flow under way; as many receives again are posted before these are used up
_IDLE_S: Final = 5.0  # after which the thread that tears down ends
_CLOSE_S: Final = 2.0  # that a close waits for the devices
_IPV4_PREFIX: Final = bytes(10) + b"\xff\xff"  # of a GID that is an IPv4 address
_IPV4_BYTES: Final = 15
_PREFIX_BYTES: Final = 8
_STAGING_REGIONS: Final = 64  # the staging is registered in at most so many pieces

ChooseRail = Callable[[str, int], int]  # (server, how many rails there are) -> which is its own


class RdmaPath(OneSidedPath):
    """One queue pair. See ``OneSidedPath``."""

    def __init__(self, shelf: Shelf, rail: Rail, bury: Callable[[RdmaPath], None], opened: OpenRail) -> None:
        """Raises VerbsError."""
        super().__init__(shelf, RegionKind.RDMA)
        self.rail = rail
        self.post_calls = 0
        self._bury = bury
        self._came: set[int] = set()
        self._consumed = 0
        self.queue = opened.context.completion_queue(2 * _DEPTH + 1)
        try:
            self.endpoint = opened.domain.endpoint(self.queue, 1, 2 * _DEPTH)
            self._post_receives(2 * _DEPTH)
        except VerbsError:
            self.queue.close()
            raise

    def _post_receives(self, count: int) -> None:
        self.endpoint.post_receives(count, 0)
        self.post_calls += 1

    def connect(self, peer: EndpointRecord) -> None:
        """Pairs it with the server's; VerbsError."""
        self.endpoint.connect(Peer(peer.qpn, peer.psn, peer.gid, peer.lid, peer.mtu, peer.reads))
        self.shelf.depth = min(_DEPTH, peer.depth)
        self.queue.arm()

    def fileno(self) -> int:
        return self.queue.fd

    def arrived(self, request_id: int) -> bool:
        if request_id not in self._came:
            self._take()
            if request_id not in self._came:
                self.queue.arm()
                self._take()  # what came before it was armed
        if request_id not in self._came:
            return False
        self._came.remove(request_id)
        return True

    def _take(self) -> None:
        while came := self.queue.poll():
            for completion in came:
                if completion.status != WorkStatus.SUCCESS:
                    self.usable = False
                    raise DisconnectedError(f"the queue pair failed: {status_name(completion.status)}")
                if completion.imm is not None:
                    self._came.add(completion.imm)
                self._consumed += 1
        if self._consumed >= _DEPTH:
            try:
                self._post_receives(self._consumed)
            except VerbsError as error:
                self.usable = False
                raise DisconnectedError(str(error)) from error
            self._consumed = 0

    def fence(self) -> None:
        try:
            self.endpoint.to_error()
        except VerbsError:
            self.endpoint.close()  # a fence as well, and slower
        self._bury(self)

    def destroy(self) -> None:
        """After the fence, when nobody uses it any more: gives back what the device holds for it."""
        try:
            self.endpoint.close()
            self.queue.close()
        finally:
            self.rail.release()

    def region_request(self, known: Range) -> RegionRequest | None:
        region = self.rail.region(known.number)
        if region is None:
            return None
        access = READ_WRITE if region.access & verbs.Access.REMOTE_WRITE else Access.READ
        return RegionRequest(known.number, access, RegionKind.RDMA, known.size_bytes, known.address, region.rkey)


class RdmaTransport(OneSidedTransport):
    """See ``base.Transport``. ``choose_rail`` maps a server to one of the rails; another stands in while it is down."""

    name = "rdma"
    kind = RegionKind.RDMA

    def __init__(
        self,
        new_session: SessionFactory,
        rails: list[Rail],
        staging: Staging,
        *,
        choose_rail: ChooseRail,
        connections: int = 4,
    ) -> None:
        super().__init__(new_session, staging, connections=connections)
        self.rails = rails
        self._choose = choose_rail
        self._buried: queue.SimpleQueue[RdmaPath] = queue.SimpleQueue()
        self._undertaker: threading.Thread | None = None
        self._starting = threading.Lock()
        _LOG.info(
            "rdma staging up to %d MiB in slots of %d MiB, pinned as it is needed (MEMKV_STAGING_SIZE_MB, _SLOT_MB)",
            staging.size_bytes // MIB, staging.slot_bytes // MIB,
        )  # fmt: skip

    # -- paths --------------------------------------------------------------------------------------------------------
    def open_path(self, flow: Flow) -> Generator[int, int, OneSidedPath | None]:
        offers = _offers_of(flow.welcome)
        if not offers:
            return None
        path = self._new_path(flow.route.server)
        try:
            local = path.endpoint.local
            asked = EndpointRecord(
                local.qpn, local.psn, local.gid, local.lid, local.mtu, path.endpoint.device.port.number,
                _DEPTH, max(1, local.reads), choose_offer(local.gid, offers, self.rails.index(path.rail)),
            )  # fmt: skip
            call = ControlCall(Opcode.CONNECT_RDMA, encode_endpoint(asked))
            yield from flow.exchange([call])
            if call.error is not None:
                raise call.error
            path.connect(decode_endpoint(call.answer))
        except VerbsError as error:
            path.close()
            raise RefusedError(0, str(error)) from error
        except BaseException:
            path.close()
            raise
        return path

    def rail_of(self, server: str) -> str | None:
        return self.rails[self._choose(server, len(self.rails))].name if self.rails else None

    def _new_path(self, server: str) -> RdmaPath:
        """On the server's own rail, or on the next that can be used. RefusedError where there is none."""
        first = self._choose(server, len(self.rails))
        problems: list[str] = []
        for at in range(len(self.rails)):
            rail = self.rails[(first + at) % len(self.rails)]
            shelf = Shelf(self.regions, self.staging, puts_direct=True, gets_direct=True, depth=_DEPTH)
            try:
                path = rail.attach(partial(RdmaPath, shelf, rail, self._bury))
            except VerbsError as error:
                problems.append(str(error))
                continue
            if path is not None:
                return path
            problems.append(rail.problem or f"RDMA device {rail.name} is not open")
        raise RefusedError(0, ", ".join(problems))

    def _bury(self, path: RdmaPath) -> None:
        """Has a thread tear down what was fenced: that takes a device milliseconds."""
        with self._starting:
            self._buried.put(path)
            if self._undertaker is None:
                self._undertaker = threading.Thread(target=self._tear_down, name="memkv-rdma-end", daemon=True)
                try:
                    self._undertaker.start()
                except RuntimeError:  # no more threads: then here
                    self._undertaker = None
                    self._destroy(self._buried.get())

    def _tear_down(self) -> None:
        while True:
            try:
                path = self._buried.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._starting:
                    if self._buried.empty():
                        self._undertaker = None
                        return
                continue
            self._destroy(path)

    def _destroy(self, path: RdmaPath) -> None:
        try:
            path.destroy()
        except VerbsError as error:
            _LOG.warning("rdma: a queue pair could not be given back: %s", error)

    # -- memory -------------------------------------------------------------------------------------------------------
    def register_range(self, view: memoryview) -> Range:
        known = self.regions.reserve(address_of(view), view.nbytes)
        try:
            for rail in self.rails:
                rail.register(known.number, view)
        except VerbsError:
            for rail in self.rails:
                rail.deregister(known.number)
            raise
        self.regions.show(known)
        return known

    def deregister_range(self, known: Range) -> None:
        super().deregister_range(known)
        for rail in self.rails:
            rail.deregister(known.number)

    def staging_step(self, slot_count: int) -> int:
        return max(slot_count, -(-self.staging.slot_count // _STAGING_REGIONS))

    # -- its end ------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        super().close()
        for rail in self.rails:
            rail.close()
        for rail in self.rails:  # calls of other threads end soon: they were interrupted
            rail.wait_closed(_CLOSE_S)

    def after_fork(self) -> None:
        """The devices are the parent's: the child opens them for itself, and never touches what was open."""
        super().after_fork()
        self.rails = [rail.renewed() for rail in self.rails]
        self._buried = queue.SimpleQueue()
        self._undertaker = None
        self._starting = threading.Lock()


def _offers_of(welcome: dict[str, Any]) -> list[bytes]:
    """The GIDs of the devices that a server offers, empty for one that cannot be read."""
    offer = welcome.get("rdma")
    return [_gid_of(device) for device in offer] if isinstance(offer, list) else []


def _gid_of(device: Any) -> bytes:
    try:
        return bytes.fromhex(device["gid"])
    except (KeyError, TypeError, ValueError):
        return b""


def choose_offer(gid: bytes, offers: Sequence[bytes], place: int) -> int:
    """Which of a server's devices a local one with this GID is paired with: one of its own network (IPv4: the first
    24 bits; else the first 64), or else any. ``place`` spreads local devices over several that would do. Pure."""
    shared = _IPV4_BYTES if gid.startswith(_IPV4_PREFIX) else _PREFIX_BYTES
    near = [at for at, offer in enumerate(offers) if offer[:shared] == gid[:shared]] or list(range(len(offers)))
    return near[place % len(near)]
