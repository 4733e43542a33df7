# SPDX-License-Identifier: Apache-2.0
"""An agent of the real NIXL as the tests want it: every handle in the test's own hands."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memkv_nixl._compat import NixlBuild, require_builds
from memkv_nixl.agents import Agent

Bytes = npt.NDArray[np.uint8]
BACKEND = "MEMKV"
_IDS = itertools.count(1)  # a device id of its own for each object: what NIXL asks of its callers


def build() -> NixlBuild:
    return require_builds()[0]


def random_blocks(count: int, size: int) -> Bytes:
    return np.random.default_rng().integers(0, 256, (count, size), dtype=np.uint8)


class Rig(Agent):
    """``name`` is the agent's; errors are NIXL's own exceptions."""

    def __init__(self, namespace: str, *, backend: str = BACKEND, kind: str = "OBJ", **params: str) -> None:
        # A time-out that a busy machine does not reach; the tests of outages set their own.
        given = {"namespace": namespace, "timeout_ms": "30000", **params}
        super().__init__(build(), backend, given, kind=kind)
        self._ids = _IDS

    def register(self, keys: Sequence[str], size: int) -> tuple[Any, list[int]]:
        """(the registration, the device id of each object)."""
        ids = [next(self._ids) for _ in keys]
        described = [(0, size, number, key) for number, key in zip(ids, keys)]
        return self.agent.register_memory(described, self.kind, backends=[self.backend]), ids

    def register_buffer(self, buffer: Bytes) -> Any:
        described = [(buffer.ctypes.data, buffer.nbytes, 0, "")]
        return self.agent.register_memory(described, "DRAM", backends=[self.backend])

    def deregister(self, *registrations: Any) -> None:
        for registration in registrations:
            self.agent.deregister_memory(registration, backends=[self.backend])

    def prepare(
        self, operation: str, memory: Sequence[tuple[int, int]], objects: Sequence[tuple[int, int, int]]
    ) -> Any:
        """A handle. ``memory``: address and size of each part; ``objects``: offset, size and device id of each."""
        local = self.agent.get_xfer_descs([(address, size, 0) for address, size in memory], "DRAM")
        remote = self.agent.get_xfer_descs(list(objects), self.kind)
        return self.agent.initialize_xfer(operation, local, remote, self.name, backends=[self.backend])

    def finish(self, handle: Any, state: str, *, timeout_s: float = 30.0) -> str:
        """The state in which a posted transfer ends; raises what NIXL raises."""
        until_s = time.monotonic() + timeout_s
        while state == "PROC":
            assert time.monotonic() < until_s, "the transfer never ended"
            time.sleep(0.0002)
            state = self.agent.check_xfer_state(handle)
        return state

    def run(self, operation: str, memory: Sequence[tuple[int, int]], objects: Sequence[tuple[int, int, int]]) -> str:
        """One transfer from beginning to end; buffers and objects are registered by the caller."""
        handle = self.prepare(operation, memory, objects)
        try:
            return self.finish(handle, self.agent.transfer(handle))
        finally:
            self.agent.release_xfer_handle(handle)


def rows(blocks: Bytes) -> list[tuple[int, int]]:
    """Address and size of each block."""
    return [(block.ctypes.data, block.nbytes) for block in blocks]


def whole(ids: Sequence[int], size: int) -> list[tuple[int, int, int]]:
    """The objects' descriptors, each from its beginning to its end."""
    return [(0, size, number) for number in ids]
