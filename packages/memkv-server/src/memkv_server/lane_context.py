# SPDX-License-Identifier: Apache-2.0
"""What the connections of a lane share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memkv_core.auth import Keyring
from memkv_core.limits import WINDOW_BYTES
from memkv_server import limits
from memkv_server.engine.base import Engine
from memkv_server.handler import Handler
from memkv_server.movers import MoverSource

if TYPE_CHECKING:
    from memkv_server.connection import Connection


@dataclass(slots=True)
class LaneContext:
    """Used by the lane's thread only."""

    handler: Handler
    keyring: Keyring
    lane: int
    lane_count: int
    shm: Mapping[str, str] | None = None  # the node's Unix socket and name; None: it has no such socket
    shm_guarded: bool = True  # the engine's memory is a mapping of drives, which may not give a page of it back
    drain: memoryview = field(default_factory=lambda: memoryview(bytearray(limits.DRAIN_BYTES)))
    draining: bool = False
    # Moved by one system call; less while others have something to do as well, or have asked a moment ago.
    turn_bytes: int = WINDOW_BYTES
    crowded: Callable[[], bool] = lambda: False
    waiting: set[Connection] = field(default_factory=set)  # those with answers that wait for the drive or for a move
    rdma: MoverSource | None = None
    moving: bool = False  # a connection has more to move itself: the loop must not sleep
    errors: dict[str, int] = field(
        default_factory=lambda: {"auth": 0, "protocol": 0, "identity": 0, "stalled": 0, "lost": 0, "internal": 0}
    )

    @property
    def engine(self) -> Engine:
        return self.handler.engine
