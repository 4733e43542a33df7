# SPDX-License-Identifier: Apache-2.0
"""One local RDMA device of a client: opened when it can be, and all registered memory with it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from memkv_core.log import RateLimitedLog
from memkv_core.transports import verbs
from memkv_core.transports.verbs import Access, DeviceSpec, DeviceUnavailableError, VerbsError

_LIMITED: Final = RateLimitedLog(logging.getLogger("memkv_core.transport"))
T = TypeVar("T")

_RETRY_S: Final = 1.0  # before a device that could not be opened is tried again
_ACCESS: Final = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ


class OpenRail(NamedTuple):
    """A device that is open."""

    context: verbs.Context
    domain: verbs.ProtectionDomain


class Rail:
    """Thread-safe. ``problem`` says in one line why the device is not used at the moment, or is None.

    What is made of the device (``attach``) is given back with ``release``; the device is closed when the last is, for
    a library may not survive the use of what was closed.
    """

    def __init__(self, library: verbs.Verbs, spec: DeviceSpec) -> None:
        self.spec = spec
        self.problem: str | None = None
        self._library = library
        self._lock = threading.Lock()
        self._open: OpenRail | None = None
        self._retry_at_s = 0.0
        self._attached = 0
        self._closing = False
        self._gone = threading.Event()
        self._buffers: dict[int, memoryview] = {}
        self._regions: dict[int, verbs.MemoryRegion] = {}

    @property
    def name(self) -> str:
        return self.spec.name

    def usable(self) -> bool:
        """Whether the device is open and active. Tries to open it again from time to time."""
        with self._lock:
            return self._usable() is not None

    def attach(self, make: Callable[[OpenRail], T]) -> T | None:
        """What ``make`` makes of the device; None where it cannot be used now. Raises what ``make`` does."""
        with self._lock:
            opened = self._usable()
            if opened is None:
                return None
            made = make(opened)
            self._attached += 1
            return made

    def release(self) -> None:
        """Something that was attached was destroyed."""
        with self._lock:
            self._attached -= 1
            self._close_if_unused()

    def _usable(self) -> OpenRail | None:
        if self._closing:
            self.problem = f"RDMA device {self.name} was closed"
            return None
        if self._open is None and time.monotonic() >= self._retry_at_s:
            self._retry_at_s = time.monotonic() + _RETRY_S
            self._try_to_open()
        if self._open is None:
            return None
        if not self._open.context.active():
            self.problem = f"RDMA device {self.name} is not active"
            return None
        self.problem = None
        return self._open

    def _try_to_open(self) -> None:
        context: verbs.Context | None = None
        try:
            context = self._library.open(self.spec)
            opened = OpenRail(context, context.protection_domain())
            for number, view in self._buffers.items():
                self._regions[number] = opened.domain.register(view, access_of(view))
        except VerbsError as error:
            self.problem = str(error)
            self._regions.clear()
            if context is not None:
                context.close()
            return
        self._open, self.problem = opened, None

    def register(self, number: int, view: memoryview) -> None:
        """Registers memory, now if the device is open and else with it. Raises RegistrationError."""
        with self._lock:
            if self._open is not None:
                self._regions[number] = self._open.domain.register(view, access_of(view))
            self._buffers[number] = view

    def deregister(self, number: int) -> None:
        """No server reaches it any more when this returns. Idempotent."""
        with self._lock:
            self._buffers.pop(number, None)
            region = self._regions.pop(number, None)
            if region is None:
                return
            try:
                region.close()
            except VerbsError as error:
                _LIMITED.warning(self.name, "RDMA device %s: %s", self.name, error)

    def region(self, number: int) -> verbs.MemoryRegion | None:
        return self._regions.get(number)

    def renewed(self) -> Rail:
        """The same device, not open yet and with no memory: for the child of a fork."""
        return Rail(self._library, self.spec)

    def close(self) -> None:
        """Ends all that is on it, once what is attached was released. Idempotent."""
        with self._lock:
            self._closing = True
            self._close_if_unused()

    def wait_closed(self, timeout_s: float) -> bool:
        """Whether the device was given back within that time, after ``close``."""
        return self._gone.wait(timeout_s)

    def _close_if_unused(self) -> None:
        if not self._closing or self._attached:
            return
        opened, self._open = self._open, None
        self._regions.clear()
        self._buffers.clear()
        if opened is not None:
            with contextlib.suppress(VerbsError):  # it is being left anyway
                opened.context.close()
        self._gone.set()


def access_of(view: memoryview) -> Access:
    """What a server may do with it."""
    return Access.REMOTE_READ if view.readonly else _ACCESS


def opened_rails(library: verbs.Verbs, names: tuple[str, ...]) -> list[Rail]:
    """A rail for each device of MEMKV_RDMA_DEVICES. ConfigError for a text that names none."""
    return [Rail(library, DeviceSpec.parse(name)) for name in names]


def require_one(rails: list[Rail]) -> None:
    """DeviceUnavailableError where none of them can be used now: every device's own reason, in one line."""
    if not any(rail.usable() for rail in rails):
        raise DeviceUnavailableError(
            "no RDMA device can be used: " + ", ".join(rail.problem or f"{rail.name} is busy" for rail in rails),
            remedy="set MEMKV_RDMA_DEVICES to an active one (`memkv net topo`), or MEMKV_TRANSPORT to auto or tcp",
        )
