# SPDX-License-Identifier: Apache-2.0
"""A real lane in a thread of this process, with a listener of its own: for tests that reach into the lane's memory."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from memkv_core.places import decode_endpoint
from memkv_core.testing.memory_path import Link, Links
from memkv_server.engine import DriveSet
from memkv_server.engine.durability import Level
from memkv_server.lane import Lane
from memkv_server.movers import MemoryMover, Mover, MoverSource, MoverUnavailableError

_CAPACITY_BYTES: Final = 256 << 20
_SEGMENT_BYTES: Final = 32 << 20


class HeldLane(Lane):
    """A lane that does nothing while ``going`` is not set, like a stopped process."""

    def __init__(self, control: socket.socket, engine: DriveSet, start: dict[str, Any]) -> None:
        super().__init__(control, engine, start)
        self.going = threading.Event()
        self.going.set()

    def _serve(self, events: list[tuple[int, int]], now_s: float) -> None:
        self.going.wait()
        super()._serve(events, now_s)


class LocalLane:
    """Start and stop it as often as you like: it keeps its folder and its port."""

    def __init__(
        self,
        folder: Path,
        key: bytes,
        *,
        rdma: Callable[[DriveSet], MoverSource] | None = None,
        mode: str = "file",
        port: int = 0,
    ) -> None:
        self._folder = folder
        self._key = key
        self._mode = mode
        self._rdma = rdma
        self.port = port
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        drives = [] if self._mode == "memory" else [{"path": str(self._folder), "capacity_bytes": _CAPACITY_BYTES}]
        engine = DriveSet.over(self._mode, drives, _CAPACITY_BYTES, _SEGMENT_BYTES, Level.RELAXED)
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        start = {"auth_keys": [self._key.hex()], "lane": 0, "lane_count": 1, "limits": {}}
        self.engine = engine
        self.lane = HeldLane(self._theirs, engine, start)
        if self._rdma is not None:
            self.lane.use_rdma(self._rdma(engine))
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self.lane.run, self._accept)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was stopped
            while True:
                sock, _ = self._listener.accept()
                with sock:
                    message = json.dumps({"op": "adopt", "prefix": ""}).encode()
                    socket.send_fds(self._control, [message], [sock.fileno()])

    def freeze(self) -> None:
        self.lane.going.clear()

    def thaw(self) -> None:
        self.lane.going.set()

    def stop(self) -> None:
        """Its connections are cut. Idempotent."""
        if not self._threads:
            return
        self.thaw()
        with contextlib.suppress(OSError):  # not connected: it still wakes accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._control.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                raise AssertionError("the lane does not end")
        self._threads = []
        self._control.close()
        self._theirs.close()


class LinkedMover(MemoryMover):
    """A ``MemoryMover`` whose client can fence it, and a test break it."""

    def __init__(self, link: Link, *, turn_bytes: int) -> None:
        super().__init__(turn_bytes=turn_bytes)
        self._link = link

    def turn(self) -> bool:
        with self._link.lock:
            if self._link.fenced or self._link.broken:
                self.fail_all("the link is down")
                return False
            return super().turn()


class MemorySource:
    """Makes movers for ``memkv_core.testing.memory_path``. ``available`` is False: it has none for now."""

    def __init__(self, links: Links, *, turn_bytes: int = 1 << 20) -> None:
        self._links = links
        self._turn_bytes = turn_bytes
        self.offered = True
        self.available = True
        self.connects = 0

    def offer(self) -> Any:
        return [{"device": "memory", "port": 1, "gid": "00" * 16}] if self.offered else None

    def active(self) -> bool:
        return self.available

    def connect(self, metadata: bytes, client: str) -> tuple[Mover, bytes]:
        endpoint = decode_endpoint(metadata)
        self.connects += 1
        if not self.available:
            raise MoverUnavailableError("there is no mover now")
        return LinkedMover(self._links.by_number[endpoint.qpn], turn_bytes=self._turn_bytes), metadata

    def watch(self, watch: Callable[[int, Callable[[], None]], None]) -> None:
        """It has no descriptor."""

    def close(self) -> None:
        """It holds nothing."""
