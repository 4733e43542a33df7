# SPDX-License-Identifier: Apache-2.0
"""What is measured, and what came out: plain values that travel between processes and into JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from memkv_core.errors import ConfigError
from memkv_core.limits import VALUE_BYTES_MAX

OPERATIONS: Final = ("put", "get", "exists", "lookup", "mixed")
MOVING: Final = ("put", "get", "mixed")  # those whose speed is in bytes
MIX: Final = {"get": 6, "put": 2, "exists": 1, "lookup": 1}  # of ten calls of "mixed", in a random order
CLIENTS_MAX: Final = 64
KEY_BYTES: Final = 64  # about what an engine's page keys have


@dataclass(frozen=True)
class Plan:
    """One run. Times in seconds, sizes in bytes."""

    operations: tuple[str, ...] = OPERATIONS
    block_bytes: int = 1024 * 1024
    batch: int = 64  # blocks of a put or get call
    batches: int = 4  # distinct batches that gets go through, for each client
    exists_keys: int = 1
    lookup_keys: int = 2000
    clients: int = 1
    seconds: float = 6.0  # of each operation, all slices together
    slices: int = 3  # an operation and what it is compared with take turns so often: they see the same weather
    fill_bytes: int = 0  # written first by all clients together: memory and files that were never touched are slow
    rounds: int | None = None  # calls of each client and slice, in place of ``seconds``
    namespace: str = "memkv-bench"
    transport: str | None = None  # None: as the client's settings say
    run: str = "0"  # makes the keys of one run its own

    @property
    def slice_seconds(self) -> float:
        return self.seconds / self.slices

    def check(self) -> None:
        """Raises ConfigError where the plan cannot be run."""
        bounds = (
            ("--block-size", self.block_bytes, 1, VALUE_BYTES_MAX),
            ("--batch", self.batch, 1, 65_536),
            ("--batches", self.batches, 1, 65_536),
            ("--exists-keys", self.exists_keys, 1, 65_536),
            ("--lookup-keys", self.lookup_keys, 1, 1_000_000),
            ("--clients", self.clients, 1, CLIENTS_MAX),
            ("--slices", self.slices, 1, 1000),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise ConfigError(f"{name} {value}", remedy=f"use {low} to {high}")
        if self.seconds <= 0 or (self.rounds is not None and self.rounds < 1):
            raise ConfigError("nothing would be measured", remedy="use a positive --duration or --rounds")
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise ConfigError(f"--op {operation!r}", remedy=f"use {', '.join(OPERATIONS)}")


@dataclass
class Moves:
    """Payload that servers moved themselves (shm, rdma), of all clients and their whole run; nothing over tcp."""

    registered_bytes: int = 0
    staged_bytes: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)  # calls whose payload went by TCP, by cause

    def add(self, other: Moves) -> None:
        """Another client's."""
        self.registered_bytes += other.registered_bytes
        self.staged_bytes += other.staged_bytes
        for cause, count in other.fallbacks.items():
            self.fallbacks[cause] = self.fallbacks.get(cause, 0) + count

    def __bool__(self) -> bool:
        return bool(self.registered_bytes or self.staged_bytes or self.fallbacks)


@dataclass
class Sample:
    """One client's part of one slice. ``latencies_s`` has one entry a call."""

    seconds: float
    keys: int
    moved_bytes: int
    verified_bytes: int  # compared with what was put, byte by byte, besides the client's own digests
    failures: int  # keys that should have been hits
    latencies_s: list[float] = field(default_factory=list)
    mixed_s: dict[str, list[float]] = field(default_factory=dict)  # of a mixed slice: by the kind of call


@dataclass
class Outcome:
    """An operation's samples over all clients and slices."""

    name: str
    samples: list[list[Sample]] = field(default_factory=list)  # [slice][client]

    @property
    def seconds(self) -> float:
        return sum(max(sample.seconds for sample in group) for group in self.samples)

    @property
    def bytes_per_second(self) -> float:
        return self._total("moved_bytes") / self.seconds if self.seconds else 0.0

    @property
    def keys_per_second(self) -> float:
        return self._total("keys") / self.seconds if self.seconds else 0.0

    def slice_rates(self) -> list[float]:
        """Bytes a second of each slice."""
        return [
            sum(sample.moved_bytes for sample in group) / max(sample.seconds for sample in group)
            for group in self.samples
        ]

    @property
    def last_to_first(self) -> float | None:
        """The speed of the last slice beside the first one's: whether a store that turns over stays as fast."""
        rates = self.slice_rates()
        return rates[-1] / rates[0] if len(rates) > 1 and rates[0] else None

    def quantile_s(self, q: float) -> float:
        """The latency that a share ``q`` of the calls did not exceed."""
        return quantile(self.latencies_s(), q)

    def latencies_s(self, kind: str | None = None) -> list[float]:
        """Of every call, or of those of one kind in a mixed outcome."""
        samples = [sample for group in self.samples for sample in group]
        if kind is not None:
            return [latency for sample in samples for latency in sample.mixed_s.get(kind, ())]
        return [latency for sample in samples for latency in sample.latencies_s]

    def kinds(self) -> list[str]:
        """The kinds of call of a mixed outcome; empty for any other."""
        return [kind for kind in MIX if self.latencies_s(kind)]

    def as_json(self) -> dict[str, object]:
        described: dict[str, object] = {
            "calls": sum(len(sample.latencies_s) for group in self.samples for sample in group),
            "keys": self._total("keys"),
            "bytes": self._total("moved_bytes"),
            "verified_bytes": self._total("verified_bytes"),
            "failures": self._total("failures"),
            "seconds": self.seconds,
            "bytes_per_second": self.bytes_per_second,
            "keys_per_second": self.keys_per_second,
            **quantiles_us(self.latencies_s()),
            "slice_bytes_per_second": self.slice_rates(),
            "last_to_first": self.last_to_first,
        }
        if kinds := self.kinds():
            described["calls_by_kind"] = {
                kind: {"calls": len(self.latencies_s(kind)), **quantiles_us(self.latencies_s(kind))} for kind in kinds
            }
        return described

    def _total(self, name: str) -> int:
        return sum(getattr(sample, name) for group in self.samples for sample in group)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share ``q`` of ``values`` does not exceed; 0.0 where there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, int(q * len(ordered) + 0.5) - 1))]


def quantiles_us(latencies_s: Sequence[float]) -> dict[str, float]:
    """What is said of latencies everywhere, in microseconds."""
    return {name: quantile(latencies_s, q) * 1e6 for name, q in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999))}


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios slice by slice: two figures of one slice saw the same load of the machine."""
    return quantile([mine / other for mine, other in zip(ours, theirs, strict=True) if other], 0.5)
