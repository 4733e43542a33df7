# SPDX-License-Identifier: Apache-2.0
"""Verbs over the memory of one process, with faults to order: what is slow or rare on a device takes microseconds.

Both sides are in one process: each has a ``FakeVerbs`` of the same ``Fabric``. Behaviour is that of Soft-RoCE and of
the specification where it says more, as the conformance tests (``verbs_tests``) hold it for both: work is done in the
post, in order; an unarmed queue gives no event; what fails moves the queue pair to ERR and flushes the rest, whether
signalled or not; a peer that is gone is RETRY_EXC_ERR after ``Fabric.retry_s``.

Faults are methods of a ``FakeDevice``: ``port_down``, ``freeze``, ``hold_completions``, ``thaw``, ``fail_next``; a
process that died is an endpoint that was closed. Thread-safe: one lock for the whole fabric.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from memkv_core.transports import verbs
from memkv_core.transports.verbs import Access, Completion, QueuePairState, WorkKind, WorkRequest, WorkStatus

_CONNECTED = (QueuePairState.RTR, QueuePairState.RTS)


@dataclass
class Fabric:
    """The network: finds queue pairs by GID and number. ``retry_s`` is how long a peer that is gone is tried."""

    retry_s: float = 0.0
    delay_s: float = 0.0  # of each chain: a slow network
    responder_fails: bool = False  # some devices move the peer's queue pair to ERR as well where an access was wrong
    lock: threading.RLock = field(default_factory=threading.RLock)
    endpoints: dict[tuple[bytes, int], FakeEndpoint] = field(default_factory=dict)
    regions: dict[int, FakeRegion] = field(default_factory=dict)  # by key; lkey and rkey are the same
    numbers: int = 16  # of the next queue pair or key

    def number(self) -> int:
        """A new one."""
        self.numbers += 1
        return self.numbers

    def later(self, seconds: float, action: Any) -> None:
        """``action()`` with the lock held: at once where ``seconds`` is 0, else by a thread of its own."""
        if not seconds:
            action()
            return
        timer = threading.Timer(seconds, self._locked, [action])
        timer.daemon = True
        timer.start()

    def _locked(self, action: Any) -> None:
        with self.lock:
            action()


class FakeDevice:
    """A device and its faults. ``info`` is what a context says of it; alter it before ``open``."""

    def __init__(self, fabric: Fabric, name: str, address: int) -> None:
        self.fabric = fabric
        gid = verbs.Gid(0, bytes(10) + b"\xff\xff" + bytes([10, 0, address >> 8, address & 255]), "RoCE v2")
        port = verbs.Port(1, verbs.PortState.ACTIVE, 5, 0, "Ethernet", (gid,))
        self.info = verbs.Device(name, port, gid, 30, 8 << 20, 16, 1024, 4096, 256)
        self.endpoints: list[FakeEndpoint] = []
        self.frozen = self.held = False
        self.to_fail: deque[WorkStatus] = deque()

    def _set_port(self, state: verbs.PortState) -> None:
        self.info = self.info._replace(port=self.info.port._replace(state=state))

    @property
    def is_active(self) -> bool:
        """Whether the port is up."""
        return self.info.port.state is verbs.PortState.ACTIVE

    def port_down(self) -> None:
        """What is posted from now on fails at once, here; work of peers to here is not acknowledged."""
        with self.fabric.lock:
            self._set_port(verbs.PortState.DOWN)

    def port_up(self) -> None:
        """New queue pairs work again."""
        with self.fabric.lock:
            self._set_port(verbs.PortState.ACTIVE)

    def freeze(self) -> None:
        """What is posted here is not done, until ``thaw``: a host that stopped in the middle."""
        with self.fabric.lock:
            self.frozen = True

    def hold_completions(self) -> None:
        """What is posted here is done, but nobody is told until ``thaw``."""
        with self.fabric.lock:
            self.held = True

    def thaw(self) -> None:
        """Does and tells all that was held back, in its order; to peers as they are now."""
        with self.fabric.lock:
            self.frozen = self.held = False
            for endpoint in list(self.endpoints):
                endpoint.run()

    def fail_next(self, status: WorkStatus) -> None:
        """The next work request here ends with ``status`` and moves nothing."""
        with self.fabric.lock:
            self.to_fail.append(status)


class FakeVerbs:
    """One host's devices."""

    name = "fake"

    def __init__(self, fabric: Fabric, names: Sequence[str] = ("fake0",)) -> None:
        self.devices = {name: FakeDevice(fabric, name, fabric.number()) for name in names}

    def device_names(self) -> list[str]:
        """As ``Verbs.device_names``."""
        return sorted(self.devices)

    def open(self, spec: verbs.DeviceSpec) -> FakeContext:
        """As ``Verbs.open``."""
        if spec.name not in self.devices:
            raise verbs.unknown_device(spec.name, self.device_names())
        device = self.devices[spec.name]
        port = verbs.choose_port(spec, [device.info.port])
        return FakeContext(device, device.info._replace(port=port, gid=verbs.choose_gid(spec, port)))


class FakeContext:
    """An open device."""

    def __init__(self, device: FakeDevice, info: verbs.Device) -> None:
        self.device, self.hardware = info, device
        self._children: list[FakeDomain | FakeQueue] = []

    def protection_domain(self) -> FakeDomain:
        """As ``Context.protection_domain``."""
        domain = FakeDomain(self)
        self._children.append(domain)
        return domain

    def completion_queue(self, depth: int) -> FakeQueue:
        """As ``Context.completion_queue``."""
        if depth > self.device.entries_max:
            raise verbs.CapacityError(f"a completion queue of {depth} entries, {self.device.entries_max} at most")
        queue = FakeQueue(self.hardware.fabric, depth)
        self._children.append(queue)
        return queue

    def active(self) -> bool:
        """As ``Context.active``."""
        return self.hardware.is_active

    def close(self) -> None:
        """As ``Context.close``."""
        for child in sorted(self._children, key=lambda child: isinstance(child, FakeQueue)):
            child.close()


class FakeQueue:
    """A completion queue with an eventfd."""

    def __init__(self, fabric: Fabric, depth: int) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.depth = self.free = depth
        self.endpoints: dict[int, FakeEndpoint] = {}
        self._lock = fabric.lock
        self._came: deque[tuple[Completion, FakeEndpoint, int]] = deque()
        self._armed = False
        self._closed = False

    def push(self, completion: Completion, endpoint: FakeEndpoint, slots: int) -> None:
        """A completion that gives back ``slots`` of its endpoint's send queue."""
        if self._closed:
            return
        assert len(self._came) < self.depth, "the completion queue overflows"
        self._came.append((completion, endpoint, slots))
        if self._armed:
            self._armed = False
            os.eventfd_write(self.fd, 1)

    def poll(self, limit: int = 64) -> list[Completion]:
        """As ``CompletionQueue.poll``."""
        with self._lock:
            taken = [self._came.popleft() for _ in range(min(limit, len(self._came)))]
            for _, endpoint, slots in taken:
                endpoint.sends_free += slots
            return [completion for completion, _, _ in taken]

    def arm(self) -> None:
        """As ``CompletionQueue.arm``."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):  # nothing came since the last time
                os.eventfd_read(self.fd)
            self._armed = True

    def close(self) -> None:
        """As ``CompletionQueue.close``."""
        with self._lock:
            if not self._closed:
                for endpoint in list(self.endpoints.values()):
                    endpoint.close()
                self._closed = True
                os.close(self.fd)


class FakeRegion:
    """Registered memory."""

    def __init__(self, domain: FakeDomain, memory: verbs.Memory, access: Access) -> None:
        self.address, self.size_bytes, self.access = memory.address, memory.size_bytes, access
        self.domain = domain
        self._kept: Any = memory.kept
        self._regions = domain.fabric.regions
        self.lkey = self.rkey = domain.fabric.number() << 8
        self._regions[self.lkey] = self

    def covers(self, address: int, size: int) -> bool:
        """Whether all of that is in it."""
        return self.address <= address and address + size <= self.address + self.size_bytes

    def close(self) -> None:
        """As ``MemoryRegion.close``."""
        with self.domain.fabric.lock:
            self._regions.pop(self.lkey, None)
            self._kept = None


class FakeDomain:
    """A protection domain."""

    def __init__(self, context: FakeContext) -> None:
        self.context, self.fabric = context, context.hardware.fabric
        self._regions: list[FakeRegion] = []
        self._endpoints: list[FakeEndpoint] = []

    def register(self, buffer: Any, access: Access) -> FakeRegion:
        """As ``ProtectionDomain.register``."""
        memory = verbs.memory_of(buffer)
        if not memory.writable and access & (Access.LOCAL_WRITE | Access.REMOTE_WRITE):
            raise verbs.RegistrationError(f"{memory.size_bytes} bytes of read-only memory cannot be registered")
        with self.fabric.lock:
            region = FakeRegion(self, memory, access)
        self._regions.append(region)
        return region

    def endpoint(
        self,
        queue: verbs.CompletionQueue,
        send_depth: int,
        receive_depth: int = 1,
        access: Access = verbs.ALL_ACCESS,
    ) -> FakeEndpoint:
        """As ``ProtectionDomain.endpoint``."""
        assert isinstance(queue, FakeQueue)
        device = self.context.device
        if max(send_depth, receive_depth) > device.work_max:
            raise verbs.CapacityError(f"a queue pair of {send_depth} and {receive_depth}, {device.work_max} at most")
        with self.fabric.lock:
            if send_depth + receive_depth > queue.free:
                raise verbs.CapacityError(f"a completion queue has {queue.free} entries left, and would need more")
            if len(self.context.hardware.endpoints) >= device.queue_pairs_max:
                raise verbs.CapacityError(f"RDMA device {device.name} has no queue pair left")
            endpoint = FakeEndpoint(self, queue, (send_depth, receive_depth), access)
        self._endpoints.append(endpoint)
        return endpoint

    def close(self) -> None:
        """As ``ProtectionDomain.close``."""
        for endpoint in self._endpoints:
            endpoint.close()
        for region in self._regions:
            region.close()


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
