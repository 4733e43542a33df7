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
import os
from collections import deque
from collections.abc import Sequence
from typing import Any

from memkv_core.testing.fake_endpoint import FakeEndpoint
from memkv_core.testing.fake_fabric import Fabric, FakeDevice
from memkv_core.transports import verbs
from memkv_core.transports.ports import choose_gid, choose_port, unknown_device
from memkv_core.transports.verbs import Access, Completion

__all__ = ["Fabric", "FakeContext", "FakeDevice", "FakeDomain", "FakeEndpoint", "FakeQueue", "FakeRegion", "FakeVerbs"]


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
            raise unknown_device(spec.name, self.device_names())
        device = self.devices[spec.name]
        port = choose_port(spec, [device.info.port])
        return FakeContext(device, device.info._replace(port=port, gid=choose_gid(spec, port)))


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
