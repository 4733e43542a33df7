# SPDX-License-Identifier: Apache-2.0
"""The verbs seam over pyverbs: devices, domains, memory and completions. Queue pairs are in ``pyverbs_endpoint.py``.

pyverbs holds the GIL in every call, so none of them may block: the channel's descriptor is non-blocking, and whoever
waits does so in epoll. Constants are those of the ABI (``verbs.py``), since the module that has them was renamed.

A child of a fork lets go of everything without destroying it: it would be the parent's that is destroyed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import threading
from typing import Any, Final

from memkv_core import forks
from memkv_core.transports import memlock, verbs
from memkv_core.transports.ports import choose_gid, choose_port, unknown_device
from memkv_core.transports.pyverbs_endpoint import PyverbsEndpoint
from memkv_core.transports.pyverbs_load import Modules, load_modules
from memkv_core.transports.verbs import Access, Completion

_WITH_IMM: Final = 2  # IBV_WC_WITH_IMM
_LINK_LAYERS: Final = {1: "InfiniBand", 2: "Ethernet"}
_GID_KINDS: Final = {1: "RoCE v1", 2: "RoCE v2"}
_MESSAGE_BYTES_MAX: Final = 1 << 30

_lock = threading.Lock()  # of what looks at all descriptors of the process
_loaded: PyverbsVerbs | None = None


def load() -> PyverbsVerbs:
    """pyverbs, imported at the first call. DeviceUnavailableError says in one line why it cannot be had."""
    global _loaded
    if _loaded is None:
        _loaded = PyverbsVerbs(load_modules())
    return _loaded


class PyverbsVerbs:
    """The devices of this host."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self.name = f"pyverbs on rdma-core {modules.version}"

    def device_names(self) -> list[str]:
        """As ``Verbs.device_names``."""
        try:
            return sorted(device.name.decode() for device in self.modules.device.get_device_list())
        except self.modules.error:  # what a host without the kernel's RDMA modules answers
            return []

    def open(self, spec: verbs.DeviceSpec) -> PyverbsContext:
        """As ``Verbs.open``."""
        names = self.device_names()
        if spec.name not in names:
            raise unknown_device(spec.name, names)
        try:
            raw = self.modules.device.Context(name=spec.name)
        except self.modules.error as error:
            raise verbs.DeviceUnavailableError(
                f"RDMA device {spec.name} cannot be opened: {error}",
                remedy="see that /dev/infiniband can be read and written (docker: --device=/dev/infiniband)",
            ) from error
        try:
            return PyverbsContext(self.modules, raw, _device_of(raw, spec))
        except self.modules.error as error:
            raw.close()
            raise verbs.DeviceUnavailableError(f"RDMA device {spec.name} cannot be queried: {error}") from error
        except verbs.VerbsError:
            raw.close()
            raise


def close_raw(modules: Modules, raw: Any, name: str) -> None:
    """VerbsError where the device refuses."""
    try:
        raw.close()
    except modules.error as error:
        raise verbs.VerbsError(f"{name} cannot be closed: {error}") from error


def _device_of(raw: Any, spec: verbs.DeviceSpec) -> verbs.Device:
    attributes = raw.query_device()
    found = [raw.query_port(number) for number in range(1, attributes.phys_port_cnt + 1)]
    ports = [_port_of(number, port, ()) for number, port in enumerate(found, 1)]
    port = choose_port(spec, ports)
    told = found[port.number - 1]
    length = sum(port.gid_tbl_len for port in found)
    port = _port_of(port.number, told, _gids_of(raw, port, length))
    reads = [count for count in (attributes.max_qp_rd_atom, attributes.max_qp_init_rd_atom) if count > 0]
    parts = [count for count in (attributes.max_sge, attributes.max_sge_rd) if count > 0]
    return verbs.Device(
        name=spec.name,
        port=port,
        gid=choose_gid(spec, port),
        sge_max=min([*parts, verbs.PARTS_MAX]),
        message_bytes_max=min(told.max_msg_sz, _MESSAGE_BYTES_MAX),
        reads_max=min([*reads, verbs.READS_MAX]),
        work_max=attributes.max_qp_wr,
        entries_max=attributes.max_cqe,
        queue_pairs_max=attributes.max_qp,
    )


def _port_of(number: int, told: Any, gids: tuple[verbs.Gid, ...]) -> verbs.Port:
    layer = _LINK_LAYERS.get(told.link_layer, "InfiniBand")  # 0, unspecified, is InfiniBand's
    return verbs.Port(number, verbs.PortState(told.state), told.active_mtu, told.lid, layer, gids)


def _gids_of(raw: Any, port: verbs.Port, length: int) -> tuple[verbs.Gid, ...]:
    """Those of the table that are not empty: one call, since the table may have a thousand entries."""
    gids = []
    for entry in raw.query_gid_table(length):
        if entry.port_num == port.number:
            value = bytes.fromhex(entry.gid_str().replace(":", ""))
            kind = _GID_KINDS.get(entry.gid_type, "") if port.link_layer == "Ethernet" else "IB"
            gids.append(verbs.Gid(entry.gid_index, value, kind))
    return tuple(sorted(gids))


class PyverbsContext:
    """An open device."""

    def __init__(self, modules: Modules, raw: Any, device: verbs.Device) -> None:
        self.modules, self.raw, self.device = modules, raw, device
        self.domains: set[PyverbsDomain] = set()
        self.queues: set[PyverbsQueue] = set()
        forks.watch(self)

    def protection_domain(self) -> PyverbsDomain:
        """As ``Context.protection_domain``."""
        try:
            return PyverbsDomain(self, self.modules.pd.PD(self.raw))
        except self.modules.error as error:
            raise verbs.VerbsError(f"no protection domain on {self.device.name}: {error}") from error

    def completion_queue(self, depth: int) -> PyverbsQueue:
        """As ``Context.completion_queue``."""
        if depth > self.device.entries_max:
            raise verbs.CapacityError(f"a completion queue of {depth} entries, {self.device.entries_max} at most")
        try:
            return PyverbsQueue(self, depth)
        except self.modules.error as error:
            raise verbs.VerbsError(f"no completion queue on {self.device.name}: {error}") from error

    def active(self) -> bool:
        """As ``Context.active``."""
        try:
            return bool(self.raw.query_port(self.device.port.number).state == verbs.PortState.ACTIVE)
        except self.modules.error:  # the device is gone
            return False

    def close(self) -> None:
        """As ``Context.close``."""
        for domain in list(self.domains):
            domain.close()
        for queue in list(self.queues):
            queue.close()
        close_raw(self.modules, self.raw, self.device.name)

    def after_fork(self) -> None:
        """Nothing of it is ever destroyed here: each object gets a reference that nobody gives back."""
        kept: list[Any] = [self.raw]
        for queue in self.queues:
            kept += queue.abandon()
        for domain in self.domains:
            kept += domain.abandon()
        for raw in kept:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(raw))
        self.queues, self.domains = set(), set()


class PyverbsQueue:
    """A completion queue and its channel."""

    def __init__(self, context: PyverbsContext, depth: int) -> None:
        self._context, self._error = context, context.modules.error
        with _lock:
            before = _channels()
            self._channel = context.modules.cq.CompChannel(context.raw)
            # The property came after rdma-core 44.
            self.fd: int = getattr(self._channel, "fd", None) or (_channels() - before).pop()
        fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) | os.O_NONBLOCK)
        self.raw: Any = context.modules.cq.CQ(context.raw, depth, channel=self._channel)
        self.depth = self.free = depth
        self.endpoints: set[PyverbsEndpoint] = set()
        self._retired = 0  # reserved for endpoints that were closed, whose completions may be there still
        self._events = select.poll()
        self._events.register(self.fd, select.POLLIN)
        context.queues.add(self)

    def retire(self, entries: int) -> None:
        """An endpoint is gone; its room is free as soon as the queue was seen empty."""
        self._retired += entries

    def poll(self, limit: int = 64) -> list[Completion]:
        """As ``CompletionQueue.poll``."""
        try:
            count, told = self.raw.poll(limit)
        except self._error as error:
            raise verbs.VerbsError(f"the completion queue failed: {error}") from error
        if count < limit:
            self.free, self._retired = self.free + self._retired, 0
        return [
            Completion(
                work.wr_id,
                work.status,
                work.qp_num,
                socket.ntohl(work.imm_data) if not work.status and work.wc_flags & _WITH_IMM else None,
            )
            for work in told
        ]

    def arm(self) -> None:
        """As ``CompletionQueue.arm``."""
        try:
            while self._events.poll(0):
                self._channel.get_cq_event(self.raw)
                self.raw.ack_events(1)
        except self._error as error:
            if getattr(error, "error_code", None) != errno.EAGAIN:
                raise verbs.VerbsError(f"the completion channel failed: {error}") from error
        self.raw.req_notify()

    def close(self) -> None:
        """As ``CompletionQueue.close``."""
        if self in self._context.queues:
            self._context.queues.discard(self)
            for endpoint in list(self.endpoints):
                endpoint.close()
            for raw in (self.raw, self._channel):
                close_raw(self._context.modules, raw, "a completion queue")

    def abandon(self) -> list[Any]:
        """In the child of a fork: the objects to keep."""
        self.endpoints = set()
        return [self._channel, self.raw]


def _channels() -> set[int]:
    """The descriptors of completion channels of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if "infinibandevent" in os.readlink(f"/proc/self/fd/{name}"):
                found.add(int(name))
        except OSError:  # closed meanwhile
            continue
    return found


class PyverbsDomain:
    """A protection domain."""

    def __init__(self, context: PyverbsContext, raw: Any) -> None:
        self.context, self.raw = context, raw
        self.regions: set[PyverbsRegion] = set()
        self.endpoints: set[PyverbsEndpoint] = set()
        context.domains.add(self)

    def register(self, buffer: Any, access: Access) -> PyverbsRegion:
        """As ``ProtectionDomain.register``."""
        memory = verbs.memory_of(buffer)
        if not memory.writable and access & (Access.LOCAL_WRITE | Access.REMOTE_WRITE):
            raise verbs.RegistrationError(f"{memory.size_bytes} bytes of read-only memory cannot be registered")
        error_type = self.context.modules.error
        try:
            raw = self.context.modules.mr.MR(self.raw, memory.size_bytes, int(access), address=memory.address)
        except error_type as error:
            text = memlock.shortfall(memory.size_bytes) or str(error)
            raise verbs.RegistrationError(f"{memory.size_bytes} bytes cannot be registered: {text}") from error
        return PyverbsRegion(self, raw, memory, access)

    def endpoint(
        self,
        queue: verbs.CompletionQueue,
        send_depth: int,
        receive_depth: int = 1,
        access: Access = verbs.ALL_ACCESS,
    ) -> PyverbsEndpoint:
        """As ``ProtectionDomain.endpoint``."""
        assert isinstance(queue, PyverbsQueue)
        device = self.context.device
        if max(send_depth, receive_depth) > device.work_max:
            raise verbs.CapacityError(f"a queue pair of {send_depth} and {receive_depth}, {device.work_max} at most")
        if send_depth + receive_depth > queue.free:
            raise verbs.CapacityError(f"a completion queue has {queue.free} entries left, and would need more")
        return PyverbsEndpoint(self, queue, (send_depth, receive_depth), access)

    def close(self) -> None:
        """As ``ProtectionDomain.close``."""
        for endpoint in list(self.endpoints):
            endpoint.close()
        for region in list(self.regions):
            region.close()
        self.context.domains.discard(self)
        close_raw(self.context.modules, self.raw, "a protection domain")

    def abandon(self) -> list[Any]:
        """In the child of a fork: the objects to keep."""
        kept = [self.raw, *(region.raw for region in self.regions)]
        kept += [endpoint.abandon() for endpoint in self.endpoints]
        self.regions, self.endpoints = set(), set()
        return kept


class PyverbsRegion:
    """Registered memory."""

    def __init__(self, domain: PyverbsDomain, raw: Any, memory: verbs.Memory, access: Access) -> None:
        self.address, self.size_bytes, self.access = memory.address, memory.size_bytes, access
        self.lkey: int = raw.lkey
        self.rkey: int = raw.rkey
        self.raw = raw
        self._domain = domain
        self._kept: Any = memory.kept  # pyverbs holds no reference to it
        domain.regions.add(self)

    def close(self) -> None:
        """As ``MemoryRegion.close``."""
        if self in self._domain.regions:
            close_raw(self._domain.context.modules, self.raw, f"a region of {self.size_bytes} bytes")
            self._domain.regions.discard(self)
            self._kept = None
