# SPDX-License-Identifier: Apache-2.0
"""The RDMA devices of a lane: opened once, with their memory registered once, and an endpoint for each session.

All endpoints of a device share a completion queue, whose descriptor the lane's loop watches: completions are taken as
they come and nothing is ever waited for. What cannot be had (a device, direct registration, one more endpoint) is said
in one line, and the node serves without it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from memkv_core.places import Endpoint as EndpointRecord
from memkv_core.places import decode_endpoint, encode_endpoint
from memkv_core.regions import Regions, address_of
from memkv_core.staging import Staging
from memkv_core.transports import verbs
from memkv_core.transports.verbs import Access, DeviceSpec, Peer, VerbsError
from memkv_server import guarded_copy, limits
from memkv_server.guarded_copy import Addresses, Sizes
from memkv_server.movers import Mover, MoverUnavailableError
from memkv_server.rdma_mover import RdmaMover

_LOG: Final = logging.getLogger("memkv.server.rdma")
_POLL_MAX: Final = 256


class RdmaDevice:
    """One open device: what ``rdma_mover.Memory`` asks for, and the movers on it."""

    def __init__(
        self, context: verbs.Context, fixed: Sequence[memoryview], bounce_bytes: int, *, is_file: bool = True
    ) -> None:
        """``fixed`` is memory that stays where it is; ``is_file``: the rest is of files, whose pages may fail.

        Raises VerbsError; the context is closed then.
        """
        self._is_file = is_file
        self.context = context
        self.regions = Regions()
        self.bounce = Staging(bounce_bytes, min(limits.RDMA_STEP_BYTES, bounce_bytes))
        self.direct_bytes = 0
        self._keys = np.zeros(1, np.uint32)  # local keys, by the number of the region
        self._movers: dict[int, tuple[RdmaMover, str]] = {}
        self._clients: Counter[str] = Counter()
        try:
            self._domain = context.protection_domain()
            self.queue = context.completion_queue(min(context.device.entries_max, limits.RDMA_ENTRIES_MAX))
            self._register(memoryview(self.bounce.memory))
            self.bounce.open(self.bounce.slot_count)
            for view in fixed:
                self._register_fixed(view)
            self.queue.arm()
        except VerbsError:
            context.close()
            raise

    def _register(self, view: memoryview) -> None:
        region = self._domain.register(view, Access.LOCAL_WRITE)  # no rkey leaves this process
        known = self.regions.add(region.address, region.size_bytes)
        keys = np.zeros(known.number + 1, np.uint32)
        keys[: len(self._keys)] = self._keys
        keys[known.number] = region.lkey
        self._keys = keys

    def _register_fixed(self, view: memoryview) -> None:
        try:
            self._register(view)
        except VerbsError as error:
            _LOG.warning("rdma: %s: %s", self.name, error)
            _LOG.warning("rdma: %s: the store's memory is not registered; blocks go by the bounce slots", self.name)
            return
        self.direct_bytes += view.nbytes

    @property
    def name(self) -> str:
        return self.context.device.name

    def lkeys(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        return self._keys[numbers]

    def copy_out_of_store(self, sources: Addresses, targets: Addresses, sizes: Sizes) -> bool:
        if self._is_file:
            return guarded_copy.copy_from_file(sources, targets, sizes)
        guarded_copy.copy(sources, targets, sizes)
        return True

    def copy_into_store(self, sources: Addresses, targets: Addresses, sizes: Sizes) -> bool:
        if self._is_file:
            return guarded_copy.copy_to_file(sources, targets, sizes)
        guarded_copy.copy(sources, targets, sizes)
        return True

    # -- endpoints ----------------------------------------------------------------------------------------------------
    def connect(self, asked: EndpointRecord, client: str) -> tuple[RdmaMover, EndpointRecord]:
        """A mover for a client's endpoint, and what the client needs to know of this side's."""
        if not self.context.active():
            raise MoverUnavailableError(f"RDMA device {self.name} is not active")
        if len(self._movers) >= limits.RDMA_ENDPOINTS_MAX:
            raise MoverUnavailableError(f"{limits.RDMA_ENDPOINTS_MAX} endpoints are in use")
        if self._clients[client] >= limits.RDMA_ENDPOINTS_PER_CLIENT_MAX:
            raise MoverUnavailableError(f"{limits.RDMA_ENDPOINTS_PER_CLIENT_MAX} endpoints of this client are in use")
        depth = min(limits.RDMA_SEND_DEPTH, self.context.device.work_max)
        try:
            endpoint = self._domain.endpoint(self.queue, depth, access=Access(0))  # nobody reaches in from outside
        except VerbsError as error:
            raise MoverUnavailableError(str(error)) from error
        try:
            endpoint.connect(Peer(asked.qpn, asked.psn, asked.gid, asked.lid, asked.mtu, asked.reads))
        except VerbsError as error:
            endpoint.close()
            raise MoverUnavailableError(str(error)) from error
        mover = RdmaMover(endpoint, self)
        self._movers[endpoint.qpn] = mover, client
        self._clients[client] += 1
        local = endpoint.local
        answer = EndpointRecord(
            local.qpn, local.psn, local.gid, local.lid, local.mtu, self.context.device.port.number,
            min(asked.depth, limits.PENDING_MAX), max(1, local.reads), asked.device,
        )  # fmt: skip
        return mover, answer

    def forget(self, mover: RdmaMover) -> None:
        found = self._movers.pop(mover.endpoint.qpn, None)
        if found is not None:
            self._clients[found[1]] -= 1
            if not self._clients[found[1]]:
                del self._clients[found[1]]

    @property
    def endpoint_count(self) -> int:
        return len(self._movers)

    # -- completions --------------------------------------------------------------------------------------------------
    def on_readable(self) -> None:
        """The queue's descriptor is readable: asks for the next event, then takes what is there."""
        self.queue.arm()
        self.poll()

    def poll(self) -> None:
        while came := self.queue.poll(_POLL_MAX):
            for completion in came:
                found = self._movers.get(completion.qpn)
                if found is not None:
                    found[0].completed(completion)

    def close(self) -> None:
        for mover, _ in list(self._movers.values()):
            mover.close(lambda: None)
        self.context.close()


class RdmaSource:
    """See ``movers.MoverSource``. ``devices`` may be empty: then nothing is offered."""

    def __init__(self, devices: Sequence[RdmaDevice]) -> None:
        self.devices = list(devices)

    @classmethod
    def open(
        cls,
        names: Sequence[str],
        fixed: Sequence[memoryview],
        bounce_bytes: int,
        load: Callable[[], verbs.Verbs],
        *,
        is_file: bool = True,
    ) -> RdmaSource:
        """Opens those of the devices that can be used, and says of each others why it cannot."""
        devices: list[RdmaDevice] = []
        try:
            library = load()
        except VerbsError as error:
            _LOG.warning("rdma is not used: %s", error)
            return cls(devices)
        for name in names:
            try:
                device = RdmaDevice(library.open(DeviceSpec.parse(name)), fixed, bounce_bytes, is_file=is_file)
            except VerbsError as error:
                _LOG.warning("rdma: %s is not used: %s", name, error)
                continue
            devices.append(device)
            about = device.context.device
            _LOG.info(
                "rdma device=%s port=%d gid=%s bounce=%dMiB direct=%dMiB",
                about.name, about.port.number, verbs.port_gid_text(about.gid.value),
                device.bounce.size_bytes >> 20, device.direct_bytes >> 20,
            )  # fmt: skip
        return cls(devices)

    def offer(self) -> Any:
        return [
            {"device": about.name, "port": about.port.number, "gid": about.gid.value.hex()}
            for about in (device.context.device for device in self.devices)
        ] or None

    def active(self) -> bool:
        return any(device.context.active() for device in self.devices)

    def connect(self, metadata: bytes, client: str) -> tuple[Mover, bytes]:
        asked = decode_endpoint(metadata)
        if asked.device >= len(self.devices):
            raise MoverUnavailableError(f"there is no RDMA device {asked.device}")
        mover, answer = self.devices[asked.device].connect(asked, client)
        return mover, encode_endpoint(answer)

    def watch(self, watch: Callable[[int, Callable[[], None]], None]) -> None:
        """Has a loop call each device when completions have come."""
        for device in self.devices:
            watch(device.queue.fd, device.on_readable)

    def close(self) -> None:
        """Ends every endpoint and gives the devices back."""
        for device in self.devices:
            device.close()
        self.devices.clear()


def fixed_memory_of(views: Sequence[memoryview]) -> list[memoryview]:
    """Those of the views that are there once: a device needs no memory registered twice."""
    return list({address_of(view): view for view in views if view.nbytes}.values())
