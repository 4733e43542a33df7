# SPDX-License-Identifier: Apache-2.0
"""A queue pair over pyverbs, and the work requests that it posts.

pyverbs never frees a work request or its parts, and an object costs 1.8 µs to make. So each endpoint posts from a ring
of requests that were chained once: a chain of k is the last k of them, only the last is ever signalled, and a device
copies what is posted before the call returns. Rings outlive their endpoints and serve the next ones.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from memkv_core.transports import verbs
from memkv_core.transports.verbs import Access, QueuePairState, WorkKind, WorkRequest

if TYPE_CHECKING:
    from memkv_core.transports.pyverbs_binding import PyverbsDomain, PyverbsQueue
    from memkv_core.transports.pyverbs_load import Modules

_WRITE_WITH_IMM: Final = 1  # IBV_WR_RDMA_WRITE_WITH_IMM
_SIGNALLED: Final = 2  # IBV_SEND_SIGNALED
_RELIABLE: Final = 2  # IBV_QPT_RC
_STATE: Final = 1  # IBV_QP_STATE

_spare_rings: dict[tuple[int, int], list[_Ring]] = {}


class _Ring:
    """Work requests of one part each, and receives of none, each chained to the next."""

    def __init__(self, modules: Modules, send_depth: int, receive_depth: int) -> None:
        wr = modules.wr
        self.sends: list[tuple[Any, Any]] = []  # (request, its part)
        self.receives: list[Any] = []
        following = None
        for at in range(send_depth):
            part = wr.SGE(0, 0, 0)
            flags = _SIGNALLED if at == 0 else 0
            following = wr.SendWR(opcode=0, num_sge=1, sg=[part], send_flags=flags, next_wr=following)
            following.close()  # frees its copy of the part: from here on it refers to the part itself
            following.sg_list = part
            self.sends.append((following, part))
        self.sends.reverse()
        following = None
        for _ in range(receive_depth):
            part = wr.SGE(0, 0, 0)
            following = wr.RecvWR(num_sge=1, sg=[part], next_wr=following)
            following.num_sge = 0  # an immediate value needs no memory, but the constructor wants a part
            part.close()
            self.receives.append(following)
        self.receives.reverse()


class PyverbsEndpoint:
    """An RC queue pair."""

    def __init__(self, domain: PyverbsDomain, queue: PyverbsQueue, depths: tuple[int, int], access: Access) -> None:
        self.device = domain.context.device
        self.send_depth, self.receive_depth = depths
        self._modules, self._domain, self._queue = domain.context.modules, domain, queue
        self._access = int(access)
        self._lock = threading.RLock()  # to_error comes from any thread, and pyverbs does not survive a closed object
        self._raw: Any = self._create()
        self.qpn: int = self._raw.qp_num
        port = self.device.port
        self.local = verbs.Peer(
            self.qpn, secrets.randbits(24), self.device.gid.value, port.lid, port.mtu, self.device.reads_max
        )
        spare = _spare_rings.setdefault(depths, [])
        self._ring = spare.pop() if spare else _Ring(self._modules, *depths)
        queue.free -= sum(depths)
        queue.endpoints.add(self)
        domain.endpoints.add(self)

    def _create(self) -> Any:
        qp, error_type = self._modules.qp, self._modules.error
        cap = qp.QPCap(self.send_depth, self.receive_depth, self.device.sge_max, 1, 0)
        attributes = qp.QPAttr(port_num=self.device.port.number)
        attributes.qp_access_flags = self._access
        try:
            init = qp.QPInitAttr(qp_type=_RELIABLE, scq=self._queue.raw, rcq=self._queue.raw, cap=cap, sq_sig_all=0)
            return qp.QP(self._domain.raw, init, attributes)
        except error_type as error:
            raise verbs.CapacityError(f"no queue pair on {self.device.name}: {error}") from error

    def connect(self, peer: verbs.Peer) -> None:
        """As ``Endpoint.connect``."""
        addr, port = self._modules.addr, self.device.port
        try:
            route = addr.GlobalRoute(
                dgid=addr.GID(verbs.port_gid_text(peer.gid)),
                sgid_index=self.device.gid.place,
                hop_limit=verbs.HOP_LIMIT,
            )
            attributes = self._modules.qp.QPAttr(port_num=port.number, path_mtu=min(port.mtu, peer.mtu))
            attributes.ah_attr = addr.AHAttr(gr=route, is_global=1, dlid=peer.lid, port_num=port.number)
            attributes.qp_access_flags = self._access
            attributes.dest_qp_num = peer.qpn
            attributes.rq_psn, attributes.sq_psn = peer.psn, self.local.psn
            attributes.max_rd_atomic = attributes.max_dest_rd_atomic = min(self.device.reads_max, peer.reads)
            attributes.min_rnr_timer = verbs.MIN_RNR_TIMER
            attributes.timeout, attributes.retry_cnt = verbs.ACK_TIMEOUT, verbs.RETRY_COUNT
            attributes.rnr_retry = verbs.RNR_RETRY_COUNT
            with self._lock:
                self._open().to_rts(attributes)
        except self._modules.error as error:
            raise verbs.VerbsError(f"queue pair {self.qpn} cannot be connected: {error}") from error

    def _open(self) -> Any:
        if self._raw is None:
            raise verbs.VerbsError(f"queue pair {self.qpn} is closed")
        return self._raw

    def post(self, kind: WorkKind, requests: Sequence[WorkRequest], wr_id: int, imm: int | None = None) -> None:
        """As ``Endpoint.post``."""
        with self._lock:
            raw = self._open()
            if len(requests) > self.send_depth:
                raise verbs.VerbsError(f"{len(requests)} work requests posted, {self.send_depth} at most")
            try:
                if all(len(request.parts) == 1 for request in requests):
                    raw.post_send(self._chained(kind, requests, wr_id, imm))
                else:
                    self._post_built(raw, kind, requests, wr_id, imm)
            except self._modules.error as error:
                # Those before the one that was refused may have been posted: none of them shall go on.
                self.to_error()
                raise verbs.VerbsError(f"work cannot be posted to queue pair {self.qpn}: {error}") from error

    def _chained(self, kind: WorkKind, requests: Sequence[WorkRequest], wr_id: int, imm: int | None) -> Any:
        """The last requests of the ring, filled in."""
        ring = self._ring.sends[-len(requests) :]
        for (work, part), request in zip(ring, requests):
            part.addr, part.length, part.lkey = request.parts[0]
            work.set_wr_rdma(request.rkey, request.remote)
            work.wr_id = wr_id
            work.opcode = kind
        if imm is not None:
            work.opcode = _WRITE_WITH_IMM
            work.imm_data = socket.htonl(imm)
        return ring[0][0]

    def _post_built(
        self, raw: Any, kind: WorkKind, requests: Sequence[WorkRequest], wr_id: int, imm: int | None
    ) -> None:
        """Requests of several parts, or of none: made for this call, and freed."""
        wr = self._modules.wr
        built: list[Any] = []
        try:
            for request in reversed(requests):
                parts = [wr.SGE(*part) for part in request.parts or [(0, 0, 0)]]
                work = wr.SendWR(
                    wr_id=wr_id,
                    opcode=int(kind) if built or imm is None else _WRITE_WITH_IMM,
                    num_sge=len(parts),
                    imm_data=0 if built or imm is None else socket.htonl(imm),
                    sg=parts,
                    send_flags=0 if built else _SIGNALLED,
                    next_wr=built[-1] if built else None,
                )
                for part in parts:
                    part.close()
                work.num_sge = len(request.parts)
                work.set_wr_rdma(request.rkey, request.remote)
                built.append(work)
            raw.post_send(built[-1])
        finally:
            for work in built:
                work.close()

    def post_receives(self, count: int, wr_id: int) -> None:
        """As ``Endpoint.post_receives``."""
        with self._lock:
            raw = self._open()
            if not 1 <= count <= self.receive_depth:
                raise verbs.VerbsError(f"{count} receives posted, {self.receive_depth} at most")
            ring = self._ring.receives[-count:]
            for work in ring:
                work.wr_id = wr_id
            try:
                raw.post_recv(ring[0])
            except self._modules.error as error:
                raise verbs.VerbsError(f"receives cannot be posted to queue pair {self.qpn}: {error}") from error

    def state(self) -> QueuePairState:
        """As ``Endpoint.state``."""
        with self._lock:
            if self._raw is None:
                return QueuePairState.ERR
            try:
                attributes, _ = self._raw.query(_STATE)
            except self._modules.error as error:
                raise verbs.VerbsError(f"queue pair {self.qpn} cannot be queried: {error}") from error
        return QueuePairState(attributes.qp_state)

    def to_error(self) -> None:
        """As ``Endpoint.to_error``."""
        with self._lock:
            if self._raw is None:
                return
            try:
                self._raw.modify(self._modules.qp.QPAttr(qp_state=int(QueuePairState.ERR)), _STATE)
            except self._modules.error as error:
                raise verbs.VerbsError(f"queue pair {self.qpn} cannot be moved to ERR: {error}") from error

    def close(self) -> None:
        """As ``Endpoint.close``."""
        with self._lock:
            if self._raw is None:
                return
            try:
                self._raw.close()
            except self._modules.error as error:
                raise verbs.VerbsError(f"queue pair {self.qpn} cannot be destroyed: {error}") from error
            self._raw = None
        _spare_rings[self.send_depth, self.receive_depth].append(self._ring)
        self._queue.retire(self.send_depth + self.receive_depth)
        self._queue.endpoints.discard(self)
        self._domain.endpoints.discard(self)

    def abandon(self) -> Any:
        """In the child of a fork: the object to keep. The lock may be held by a thread that is not there."""
        self._lock = threading.RLock()
        raw, self._raw = self._raw, None
        return raw
