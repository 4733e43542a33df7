# SPDX-License-Identifier: Apache-2.0
"""Calls that are about no keys of anyone's: how a path is opened, told of regions, and probed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from memkv_core import wire
from memkv_core.errors import MemKVError
from memkv_core.places import PART, Places, encode_places
from memkv_core.wire import Flag, Opcode


class ControlCall:
    """A request that is about no keys: CONNECT_RDMA, REGISTER_REGION. ``answer`` is the response's metadata.

    ``descriptor`` goes along with it (Unix socket), and is the call's own: ``close`` closes it.
    """

    def __init__(self, opcode: Opcode, metadata: bytes, descriptor: int | None = None) -> None:
        self.opcode: int = opcode
        self.descriptor = descriptor
        self.flags = self.kind = self.key_count = self.payload_bytes = 0
        self.sources: list[memoryview] = []
        self.blocks: Sequence[list[memoryview]] | None = None
        self.response_metadata_bytes = 32
        self.metadata = metadata
        self.started = self.done = False
        self.error: MemKVError | None = None
        self.answer = b""

    def metadata_while(self, read: Callable[[int, int], None]) -> bytes:
        return self.metadata

    def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
        self.answer = metadata
        return []

    def landed(self, received_bytes: int) -> None:
        """Nothing comes after the metadata."""

    def close(self) -> None:
        """Idempotent."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class ProbeCall(ControlCall):
    """A GET of a key that nobody has, into no memory: done when the server has moved nothing, over the path."""

    def __init__(self) -> None:
        places = Places(np.zeros(1, np.uint16), np.zeros(0, PART))
        super().__init__(Opcode.GET, wire.encode_get([b"\0probe"], [0]) + encode_places(places))
        self.flags, self.key_count = Flag.PLACED, 1
