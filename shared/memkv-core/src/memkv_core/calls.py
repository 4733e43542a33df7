# SPDX-License-Identifier: Apache-2.0
"""The calls of each operation: a request frame, where its response goes, and what it means (see ``transports.base``).

A call covers part of a batch: ``positions`` are the places of its keys in the caller's lists. It is made, run and read
by one thread.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from memkv_core import wire
from memkv_core.arguments import spread, taken
from memkv_core.buffers import prefix_parts, total_bytes
from memkv_core.digests import digest, digests
from memkv_core.errors import MemKVError, RemoteProtocolError
from memkv_core.limits import KIB, VALUE_BYTES_MAX
from memkv_core.wire import DIGEST_BYTES, DigestKind, Flag, Opcode, Status

Parts = list[memoryview]
_HOT_BYTES: Final = 256 * KIB  # of blocks that are in the cache still when they have been digested
_KINDS: Final = tuple(map(int, DigestKind))


class KeysCall:
    """EXISTS, DELETE, VERIFY: keys out, a status each back. Base of the others."""

    def __init__(self, opcode: Opcode, positions: Sequence[int], keys: Sequence[bytes]) -> None:
        self.opcode: int = opcode
        self.flags = 0
        self.kind = 0
        self.positions = positions
        self.keys = keys
        self.key_count = len(keys)
        self.sources: Parts = []
        self.blocks: Sequence[Parts] | None = None
        self.descriptor: int | None = None
        self.payload_bytes = 0
        self.expected_bytes = 0  # of payload at most, in whichever direction
        self.response_metadata_bytes = len(keys)
        self.started = False
        self.done = False
        self.error: MemKVError | None = None
        self.statuses = b""
        self.ended_s = 0.0  # time.monotonic() when all of the response was in place and verified

    @property
    def metadata(self) -> bytes:
        return wire.encode_keys(self.keys)

    def metadata_while(self, read: Callable[[int, int], None]) -> bytes:
        if self.blocks is not None:
            read(0, self.key_count)
        return self.metadata

    def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
        self._check_count(header)
        self.statuses = wire.decode_statuses(metadata, header)
        return []

    def _check_count(self, header: wire.Header) -> None:
        if header.key_count != self.key_count:
            raise RemoteProtocolError(f"{header.key_count} answers to {self.key_count} keys")

    def landed(self, received_bytes: int) -> None:
        self.ended_s = time.monotonic()  # nothing lands but for a GET


class LookupCall(KeysCall):
    """LOOKUP: the length of the leading run of this call's keys that exist, in ``run``."""

    def __init__(self, positions: Sequence[int], keys: Sequence[bytes]) -> None:
        super().__init__(Opcode.LOOKUP, positions, keys)
        self.response_metadata_bytes = 4
        self.run = 0

    def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
        self._check_count(header)
        self.run = wire.decode_lookup_response(metadata, header)
        if self.run > self.key_count:
            raise RemoteProtocolError(f"a run of {self.run} in {self.key_count} keys")
        return []


class PutCall(KeysCall):
    """PUT: the values follow the metadata, which holds their digests.

    The digests are computed when the frame is about to be sent: while one frame is under way, the next is prepared.
    """

    def __init__(
        self,
        positions: Sequence[int],
        keys: Sequence[bytes],
        values: Sequence[Parts],
        metas: Sequence[bytes] | None,
        kind: int,
    ) -> None:
        super().__init__(Opcode.PUT, positions, keys)
        self.kind = kind
        self.blocks = self._values = values
        self._metas = metas
        self._lengths = [len(parts[0]) if len(parts) == 1 else total_bytes(parts) for parts in values]
        self.flags = Flag.META if metas is not None else 0
        self.sources = [part for parts in values for part in parts]
        self.payload_bytes = self.expected_bytes = sum(self._lengths)

    @property
    def metadata(self) -> bytes:
        return wire.encode_put(self.keys, self._lengths, digests(self._values, self.kind), self._metas)

    def metadata_while(self, read: Callable[[int, int], None]) -> bytes:
        found: list[bytes] = []
        pending_bytes = 0
        for end, length in enumerate(self._lengths, 1):
            pending_bytes += length
            if pending_bytes >= _HOT_BYTES or end == self.key_count:
                first, pending_bytes = len(found), 0
                found += digests(self._values[first:end], self.kind)
                read(first, end)
        return wire.encode_put(self.keys, self._lengths, found, self._metas)


class GetCall(KeysCall):
    """GET: hits are scattered into the targets and verified as they land.

    ``lengths[i]`` is the size of value i once its bytes are in place and match their digest, else None. ``corrupt``
    lists the places (in this call) of values whose bytes did not match.

    What is done for each key is done by comprehensions over the whole batch where it is what one expects (every key
    a hit of the size of its target, digests of one kind), and one by one otherwise.
    """

    def __init__(
        self,
        positions: Sequence[int],
        keys: Sequence[bytes],
        targets: Sequence[Parts],
        capacities: Sequence[int],
        *,
        with_meta: bool,
        kind_min: int,
    ) -> None:
        super().__init__(Opcode.GET, positions, keys)
        self.blocks = self._targets = targets
        self._capacities = capacities
        self.expected_bytes = sum(capacities)
        self._kind_min = kind_min
        self.flags = Flag.META if with_meta else 0
        self.response_metadata_bytes = (2 + 4 + DIGEST_BYTES) * len(keys)
        self.lengths: list[int | None] = [None] * len(keys)
        self.metas: list[bytes] | None = None
        self.corrupt: list[int] = []
        self.too_long_count = 0
        self.received_bytes = 0
        self._hits: Sequence[int] = ()  # the place of hit i in this call
        self._landing: list[Parts] = []  # where it lands
        self._digests: Sequence[bytes] = ()
        self._kinds = b""
        self._sizes: Sequence[int] = ()
        self._ends: list[int] = []  # payload offset at which it is complete
        self._verified = 0

    @property
    def metadata(self) -> bytes:
        capacities = self._capacities
        if max(capacities, default=0) > VALUE_BYTES_MAX:  # a larger target has room for any value
            capacities = [min(capacity, VALUE_BYTES_MAX) for capacity in capacities]
        return wire.encode_get(self.keys, capacities)

    def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
        self._check_count(header)
        if (header.flags ^ self.flags) & (Flag.META | Flag.PLACED):
            raise RemoteProtocolError("meta or placed values that were not asked for, or none where they were")
        response = wire.decode_get_response(metadata, header)
        self.statuses = response.statuses
        self.metas = response.metas
        self.too_long_count = response.statuses.count(Status.TOO_LONG)
        hits: Sequence[int] = range(self.key_count)
        if response.statuses.count(Status.HIT) != self.key_count:
            hits = [place for place, status in enumerate(response.statuses) if status == Status.HIT]
        sizes, capacities = list(taken(response.lengths, hits)), list(taken(self._capacities, hits))
        landing = list(taken(self._targets, hits))
        if sizes != capacities:
            for at, (size, capacity) in enumerate(zip(sizes, capacities)):
                if size > capacity:
                    raise RemoteProtocolError(f"a value of {size} bytes for a target of {capacity}")
                if size < capacity:
                    landing[at] = prefix_parts(landing[at], size)
        self._hits, self._landing, self._sizes = hits, landing, sizes
        self._digests, self._kinds = taken(response.digests, hits), bytes(taken(response.kinds, hits))
        self._ends = list(accumulate(sizes))
        return [part for parts in landing for part in parts]

    def landed(self, received_bytes: int) -> None:
        self.received_bytes = received_bytes
        at = self._verified
        self._verified = until = bisect_right(self._ends, received_bytes, at)
        if at < until and not self._verify_all(at, until):
            for hit in range(at, until):
                self._verify(hit)
        self.ended_s = time.monotonic()

    def _verify_all(self, at: int, until: int) -> bool:
        """Whether these hits, with digests of one kind, all match: then they are accepted together."""
        kinds = set(self._kinds[at:until])
        kind = kinds.pop()
        if kinds or kind not in _KINDS or kind < self._kind_min:
            return False
        if digests(self._landing[at:until], kind) != self._digests[at:until]:
            return False
        spread(self._sizes[at:until], self._hits[at:until], self.lengths)
        return True

    def _verify(self, hit: int) -> None:
        kind = self._kinds[hit]
        if kind < self._kind_min:
            return  # a weaker digest than this client asks for proves nothing to it
        if kind in _KINDS and digest(self._landing[hit], kind) == self._digests[hit]:
            self.lengths[self._hits[hit]] = self._sizes[hit]
        else:
            self.corrupt.append(self._hits[hit])
