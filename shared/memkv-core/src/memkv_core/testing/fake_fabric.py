# SPDX-License-Identifier: Apache-2.0
"""What the fake verbs go over: a network that finds queue pairs, and devices with faults to order."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memkv_core.transports import verbs
from memkv_core.transports.verbs import WorkStatus

if TYPE_CHECKING:
    from memkv_core.testing.fake_endpoint import FakeEndpoint
    from memkv_core.testing.fake_verbs import FakeRegion


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
