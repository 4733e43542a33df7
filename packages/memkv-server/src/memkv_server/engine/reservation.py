# SPDX-License-Identifier: Apache-2.0
"""Space taken for one put batch, from its reservation to its commit."""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq

from memkv_server.engine.base import Namespace
from memkv_server.engine.pool import Segment
from memkv_server.engine.segment import DIGESTS, STAMP_SHIFT

# Position in the batch, key hash, segment, offset in the segment, record bytes, header check.
Record = tuple[int, bytes, Segment, int, int, int]


class PutReservation:
    """See ``base.Reservation``. ``statuses[i]`` is final where ``extents[i]`` is None."""

    __slots__ = (
        "_landed", "digest_kind", "digests", "extents", "kind_and_stamp", "namespace", "namespace_hash", "records",
        "runs", "statuses", "verified",
    )  # fmt: skip

    def __init__(
        self, namespace: Namespace, digests: Sequence[bytes], digest_kind: int, count: int, stamp: int = 0
    ) -> None:
        self.namespace = namespace
        self.namespace_hash = namespace.hash  # as it was then: a drop gives it another
        self.digests = digests
        self.digest_kind = digest_kind
        self.kind_and_stamp = digest_kind | stamp << STAMP_SHIFT
        self.extents: list[memoryview | None] = [None] * count
        self.statuses = bytearray(count)
        self.records: list[Record] = []
        # the segments it writes to, with the tail and the entry count that each had before
        self.runs: list[tuple[Segment, int, int]] = []
        self.verified = bytearray(count)  # 1 where the value has landed and matches its digest
        self._landed = 0

    def landed(self, count: int) -> None:
        """See ``base.Reservation``."""
        digest_of, start = DIGESTS[self.digest_kind], self._landed
        if start < count:
            found = [digest_of(extent) if extent is not None else b"" for extent in self.extents[start:count]]
            self.verified[start:count] = bytes(map(eq, found, self.digests[start:count]))
            self._landed = count

    def writes_to(self, segment: Segment) -> None:
        """From now on, until the reservation is done with it, the segment is not sealed."""
        if not self.runs or self.runs[-1][0] is not segment:
            self.runs.append((segment, segment.tail, segment.entry_count))
            segment.writers += 1
