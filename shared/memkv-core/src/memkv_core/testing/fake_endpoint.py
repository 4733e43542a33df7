# SPDX-License-Identifier: Apache-2.0
"""A queue pair of the fake verbs: does its work in the post, in order, or says as a device would why not."""

from __future__ import annotations

import ctypes
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memkv_core.transports import verbs
from memkv_core.transports.verbs import Access, Completion, QueuePairState, WorkKind, WorkRequest, WorkStatus

if TYPE_CHECKING:
    from memkv_core.testing.fake_verbs import FakeDomain, FakeQueue

_CONNECTED = (QueuePairState.RTR, QueuePairState.RTS)


@dataclass(frozen=True)
class _Work:
    kind: WorkKind
    request: WorkRequest
    wr_id: int
    imm: int | None
    signalled: int  # requests of the chain, for the last one; else 0


def _remote(kind: WorkKind) -> Access:
    """What a peer has to allow for it."""
    return Access.REMOTE_WRITE if kind is WorkKind.WRITE else Access.REMOTE_READ


class FakeEndpoint:
    """A queue pair."""

    def __init__(self, domain: FakeDomain, queue: FakeQueue, depths: tuple[int, int], access: Access) -> None:
        self.device, self._hardware, self._fabric = domain.context.device, domain.context.hardware, domain.fabric
        self.domain, self.queue = domain, queue
        self.qpn = self._fabric.number()
        gid = self.device.gid.value
        port = self.device.port
        self.local = verbs.Peer(self.qpn, secrets.randbits(24), gid, port.lid, port.mtu, self.device.reads_max)
        self.send_depth, self.receive_depth = depths
        self.sends_free = self.send_depth
        self._access = access
        self.post_calls = 0
        self._state = QueuePairState.INIT
        self._peer: verbs.Peer | None = None
        self._work: deque[_Work] = deque()
        self._told: deque[tuple[Completion, int]] = deque()  # held back
        self._receives: deque[int] = deque()
        self._waits = self._closed = False
        queue.free -= sum(depths)
        queue.endpoints[self.qpn] = self
        self._hardware.endpoints.append(self)
        self._fabric.endpoints[gid, self.qpn] = self

    def connect(self, peer: verbs.Peer) -> None:
        """As ``Endpoint.connect``."""
        with self._fabric.lock:
            if self._state is not QueuePairState.INIT:
                raise verbs.VerbsError(f"queue pair {self.qpn} is {self._state.name}, not INIT")
            self._peer, self._state = peer, QueuePairState.RTS

    def post(self, kind: WorkKind, requests: Sequence[WorkRequest], wr_id: int, imm: int | None = None) -> None:
        """As ``Endpoint.post``."""
        with self._fabric.lock:
            if self._closed or self._state not in (QueuePairState.RTS, QueuePairState.ERR):
                raise verbs.VerbsError(f"queue pair {self.qpn} is {self._state.name}, nothing can be posted")
            if len(requests) > self.sends_free:
                raise verbs.VerbsError(f"{len(requests)} work requests posted, room for {self.sends_free}")
            if any(len(request.parts) > self.device.sge_max for request in requests):
                raise verbs.VerbsError(f"a work request of more than {self.device.sge_max} parts")
            self.post_calls += 1
            self.sends_free -= len(requests)
            last = len(requests) - 1
            for at, request in enumerate(requests):
                ends = at == last
                self._work.append(_Work(kind, request, wr_id, imm if ends else None, len(requests) if ends else 0))
            self._fabric.later(self._fabric.delay_s, self.run)

    def post_receives(self, count: int, wr_id: int) -> None:
        """As ``Endpoint.post_receives``."""
        with self._fabric.lock:
            if self._closed or len(self._receives) + count > self.receive_depth:
                raise verbs.VerbsError(f"{count} receives posted, room for {self.receive_depth - len(self._receives)}")
            self._receives.extend([wr_id] * count)
            if self._state is QueuePairState.ERR:
                self._flush()

    def state(self) -> QueuePairState:
        """As ``Endpoint.state``."""
        return self._state

    def to_error(self) -> None:
        """As ``Endpoint.to_error``."""
        with self._fabric.lock:
            if not self._closed:
                self._state = QueuePairState.ERR
                self._flush()

    def close(self) -> None:
        """As ``Endpoint.close``; the peer learns of it by trying."""
        with self._fabric.lock:
            if self._closed:
                return
            self._closed = True
            self._state = QueuePairState.ERR
            del self._fabric.endpoints[self.device.gid.value, self.qpn], self.queue.endpoints[self.qpn]
            self._hardware.endpoints.remove(self)
            self.queue.free += self.send_depth + self.receive_depth

    # -- with the lock held ---------------------------------------------------------------------------------------
    def run(self) -> None:
        """Does what is posted, unless that is held back."""
        while self._told and not self._hardware.held:
            self.queue.push(self._told[0][0], self, self._told[0][1])
            self._told.popleft()
        while self._work and not (self._hardware.frozen or self._waits or self._closed):
            if self._state is QueuePairState.ERR:
                self._flush()
                return
            work = self._work[0]
            status = self._do(work)
            if status is WorkStatus.RETRY_EXC_ERR and self._fabric.retry_s:
                self._waits = True
                self._fabric.later(self._fabric.retry_s, self._give_up)
                return
            self._finish(work, status)

    def _give_up(self) -> None:
        self._waits = False
        if self._work and self._state is not QueuePairState.ERR:
            self._finish(self._work[0], WorkStatus.RETRY_EXC_ERR)

    def _finish(self, work: _Work, status: WorkStatus) -> None:
        self._work.popleft()
        if status is WorkStatus.SUCCESS:
            if work.signalled:
                self._tell(Completion(work.wr_id, status, self.qpn), work.signalled)
            return
        self._state = QueuePairState.ERR
        self._tell(Completion(work.wr_id, status, self.qpn), 1)
        self._flush()

    def _flush(self) -> None:
        while self._work:
            self._tell(Completion(self._work.popleft().wr_id, WorkStatus.WR_FLUSH_ERR, self.qpn), 1)
        while self._receives:
            self._tell(Completion(self._receives.popleft(), WorkStatus.WR_FLUSH_ERR, self.qpn), 0)

    def _tell(self, completion: Completion, slots: int) -> None:
        if self._hardware.held:
            self._told.append((completion, slots))
        else:
            self.queue.push(completion, self, slots)

    def _do(self, work: _Work) -> WorkStatus:
        """Moves the bytes of one work request; how it ended."""
        assert self._peer is not None
        size = sum(part[1] for part in work.request.parts)
        if self._hardware.to_fail:
            return self._hardware.to_fail.popleft()
        if not self._hardware.is_active:
            return WorkStatus.LOC_QP_OP_ERR
        if size > self.device.message_bytes_max:
            return WorkStatus.LOC_LEN_ERR
        if not all(self._is_local(work.kind, *part) for part in work.request.parts):
            return WorkStatus.LOC_PROT_ERR
        peer = self._fabric.endpoints.get((self._peer.gid, self._peer.qpn))
        if peer is None or peer._state not in _CONNECTED or not peer._hardware.is_active:
            return WorkStatus.RETRY_EXC_ERR
        if size and _remote(work.kind) not in peer._access:
            return WorkStatus.REM_INV_REQ_ERR
        if size and not peer._allows(work.kind, work.request, size):
            if self._fabric.responder_fails:
                peer.to_error()
            return WorkStatus.REM_ACCESS_ERR
        if work.imm is not None and not peer._receives:
            return WorkStatus.RNR_RETRY_EXC_ERR
        self._move(work)
        if work.imm is not None:
            peer._tell(Completion(peer._receives.popleft(), WorkStatus.SUCCESS, peer.qpn, work.imm), 0)
        return WorkStatus.SUCCESS

    def _is_local(self, kind: WorkKind, address: int, size: int, lkey: int) -> bool:
        region = self._fabric.regions.get(lkey)
        if region is None or region.domain is not self.domain or not region.covers(address, size):
            return False
        return kind is WorkKind.WRITE or Access.LOCAL_WRITE in region.access

    def _allows(self, kind: WorkKind, request: WorkRequest, size: int) -> bool:
        region = self._fabric.regions.get(request.rkey)
        if region is None or region.domain is not self.domain or _remote(kind) not in region.access:
            return False
        return region.covers(request.remote, size)

    def _move(self, work: _Work) -> None:
        remote = work.request.remote
        for address, size, _ in work.request.parts:
            source, target = (address, remote) if work.kind is WorkKind.WRITE else (remote, address)
            ctypes.memmove(target, source, size)
            remote += size
