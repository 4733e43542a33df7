# SPDX-License-Identifier: Apache-2.0
"""The last hour of the whole cluster: every node's samples laid over one another by their time.

Samples of a peer come later than one's own, so a moment's point may change; each change has a revision, and a page
that has seen everything up to one is sent only what is newer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from memkv_server.dashboard.history import Sample, point
from memkv_server.limits import HISTORY_SAMPLES_MAX, HISTORY_STEP_S
from memkv_server.rates import together


class Series:
    """Used by the supervisor's loop only. Bounded: a moment is kept as one sum, whatever the number of nodes."""

    def __init__(self, count_max: int = HISTORY_SAMPLES_MAX, step_s: int = HISTORY_STEP_S) -> None:
        self._span_s = count_max * step_s
        self._sums: dict[int, Sample] = {}
        self._nodes: dict[int, int] = {}
        self._changed: dict[int, int] = {}  # time -> revision
        self._last: dict[str, int] = {}  # node -> time of its last sample here
        self.revision = 0

    def last_of(self, node: str) -> int:
        """The time of the last sample that came of a node; 0 where none did."""
        return self._last.get(node, 0)

    def add(self, node: str, samples: Iterable[Sample]) -> None:
        """Adds the samples of a node that are later than its last one, in their order."""
        for sample in samples:
            at_s = sample.at_s
            if at_s <= self.last_of(node):
                continue
            self._last[node] = at_s
            known = self._sums.get(at_s)
            self._sums[at_s] = sample if known is None else _sum(known, sample)
            self._nodes[at_s] = self._nodes.get(at_s, 0) + 1
            self.revision += 1
            self._changed[at_s] = self.revision
        newest = max(self._sums, default=0)
        for at_s in [at_s for at_s in self._sums if at_s <= newest - self._span_s]:
            del self._sums[at_s], self._nodes[at_s], self._changed[at_s]

    def points(self, after_revision: int = 0) -> list[dict[str, Any]]:
        """What has changed since, in the order of time."""
        return [
            {**point([self._sums[at_s]]), "nodes": self._nodes[at_s]}
            for at_s in sorted(self._sums)
            if self._changed[at_s] > after_revision
        ]


def _sum(one: Sample, other: Sample) -> Sample:
    return replace(
        one,
        rates=together([one.rates, other.rates]),
        evicted_bytes=one.evicted_bytes + other.evicted_bytes,
        used_bytes=one.used_bytes + other.used_bytes,
    )
