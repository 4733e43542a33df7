# SPDX-License-Identifier: Apache-2.0
"""Runs of one trace against policies and capacities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ByteSize, TypeAdapter

from memkv_core.errors import ConfigError
from memkv_server.simulate import limits
from memkv_server.simulate.policies import BlockPolicy, Fifo, Lru, Policy, S3Fifo, Sieve
from memkv_server.simulate.segments import Segments, plan_layout
from memkv_server.simulate.trace import Trace

OURS: Final = "memkv"
_BLOCK_POLICIES: Final[dict[str, Callable[[int, int], BlockPolicy]]] = {
    "fifo": Fifo,
    "lru": Lru,
    "s3-fifo": S3Fifo,
    "sieve": Sieve,
}
POLICIES: Final[tuple[str, ...]] = (*_BLOCK_POLICIES, OURS)
_SIZE: Final = TypeAdapter(ByteSize)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one replay. Hits are in blocks; bytes are of whole records where there are records."""

    policy: str
    capacity_blocks: int
    reference_count: int
    leading_hits: int
    block_hits: int
    user_bytes: int
    reinserted_bytes: int

    @property
    def leading_hit_ratio(self) -> float:
        """The share of the references that a prefix cache answers."""
        return self.leading_hits / self.reference_count

    @property
    def block_hit_ratio(self) -> float:
        """The share of the references whose block was there."""
        return self.block_hits / self.reference_count

    @property
    def write_amplification(self) -> float:
        """Bytes written for each byte that users wrote."""
        return 1 + self.reinserted_bytes / self.user_bytes if self.user_bytes else 1.0

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "policy": self.policy,
            "capacity_blocks": self.capacity_blocks,
            "leading_hit_ratio": round(self.leading_hit_ratio, 6),
            "block_hit_ratio": round(self.block_hit_ratio, 6),
            "leading_hits": self.leading_hits,
            "block_hits": self.block_hits,
            "write_amplification": round(self.write_amplification, 4),
            "user_bytes": self.user_bytes,
            "reinserted_bytes": self.reinserted_bytes,
        }


def parse_capacities(texts: Sequence[str], distinct_count: int, block_bytes: int) -> list[int]:
    """Capacities in blocks: ``9000`` of them, ``64GiB`` of them, or ``5%`` of the distinct ones. ConfigError else."""
    if len(texts) > limits.CAPACITIES_MAX:
        raise ConfigError(f"{len(texts)} capacities", remedy=f"use at most {limits.CAPACITIES_MAX} in one run")
    return sorted({_capacity(text, distinct_count, block_bytes) for text in texts})


def _capacity(text: str, distinct_count: int, block_bytes: int) -> int:
    try:
        if text.endswith("%"):
            percent = float(text[:-1])
            if not 0 < percent <= 100:
                raise ValueError
            blocks = int(distinct_count * percent / 100)
        elif text.isdecimal():
            blocks = int(text)
        else:
            blocks = int(_SIZE.validate_python(text)) // block_bytes
    except ValueError:  # pydantic's is one
        raise ConfigError(
            f"--capacity {text!r}", remedy="give blocks (9000), bytes (64GiB) or a share of the distinct blocks (5%)"
        ) from None
    if blocks < 1:
        raise ConfigError(f"--capacity {text!r} is less than a block", remedy="use a larger one")
    return blocks


def make_policy(
    name: str, capacity_blocks: int, block_bytes: int = limits.BLOCK_BYTES_DEFAULT, segment_count: int | None = None
) -> Policy:
    """An empty cache of so many blocks. ConfigError for an unknown name, or where segments cannot be laid out."""
    if name == OURS:
        return Segments(plan_layout(capacity_blocks, block_bytes, segment_count))
    if name not in _BLOCK_POLICIES:
        raise ConfigError(f"--policy {name!r} is unknown", remedy=f"use {', '.join(POLICIES)}")
    return _BLOCK_POLICIES[name](capacity_blocks, block_bytes)


def replay(
    trace: Trace, name: str, capacity_blocks: int, policy: Policy, progress: Callable[[int], None] | None = None
) -> Outcome:
    """Replays all requests against ``policy``, which is empty. ``progress`` is told how many more were replayed."""
    leading = hits = 0
    step = max(1, len(trace.requests) // limits.PROGRESS_STEPS)
    for start in range(0, len(trace.requests), step):
        part = trace.requests[start : start + step]
        for request in part:
            request_leading, request_hits = policy.request(request)
            leading += request_leading
            hits += request_hits
        if progress is not None:
            progress(len(part))
    return Outcome(
        name, capacity_blocks, trace.reference_count, leading, hits, policy.user_bytes, policy.reinserted_bytes
    )


def sweep(
    trace: Trace,
    names: Sequence[str],
    capacities: Sequence[int],
    *,
    block_bytes: int = limits.BLOCK_BYTES_DEFAULT,
    segment_count: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Outcome]:
    """Every policy at every capacity, one after the other. ``progress``: policy, capacity, requests replayed."""
    planned = [  # all of them first: what cannot be laid out is refused before anything runs
        (name, capacity, make_policy(name, capacity, block_bytes, segment_count))
        for capacity in capacities
        for name in names
    ]
    while planned:
        name, capacity, policy = planned.pop(0)

        def say(count: int, name: str = name, capacity: int = capacity) -> None:
            if progress is not None:
                progress(name, capacity, count)

        yield replay(trace, name, capacity, policy, say)
