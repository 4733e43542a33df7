# SPDX-License-Identifier: Apache-2.0
"""The storage engine that is obviously right: dicts. The model others are compared with, and the loopback's store.

It has the shape of the server's engine (see ``memkv_server.engine.base``), which core does not import. Capacity is
bounded; the values stored longest ago go first. ``blocks`` is what is stored: tests look there, and damage it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from memkv_core.digests import digest
from memkv_core.namespaces import identity_digest
from memkv_core.router import namespace_seed
from memkv_core.wire import Status

_EMPTY_DIGEST = bytes(16)


@dataclass(frozen=True)
class DictNamespace:
    """The shape of ``engine.base.Namespace``."""

    name: str
    hash: int
    identity_digest: bytes
    identity: bytes


@dataclass(frozen=True)
class StoredBlock:
    """One value as it is stored."""

    value: bytes
    digest: bytes
    digest_kind: int
    meta: bytes


@dataclass
class DictReservation:
    """The shape of ``engine.base.Reservation``, with what ``commit`` needs."""

    namespace: str
    keys: Sequence[bytes]
    digests: Sequence[bytes]
    digest_kind: int
    metas: Sequence[bytes]
    statuses: list[int | None]  # None: decided at commit
    extents: list[memoryview | None]
    open: bool = True

    def landed(self, count: int) -> None:
        """Everything is verified at commit."""


@dataclass
class DictReadBatch:
    """The shape of ``engine.base.ReadBatch``."""

    statuses: bytearray
    lengths: list[int]
    digests: list[bytes]
    digest_kinds: bytearray
    metas: list[bytes]
    views: list[memoryview | None]
    released: bool = False


@dataclass(frozen=True)
class DictReading:
    """A read that has ended."""

    engine: DictEngine
    batch: DictReadBatch
    settled: bool = True

    def finish(self) -> DictReadBatch:
        """What was read."""
        return self.batch

    def abandon(self) -> None:
        """Nobody wants it."""
        self.engine.release(self.batch)


@dataclass
class Store:
    """What survives a ``reopen``."""

    blocks: dict[tuple[str, bytes], StoredBlock] = field(default_factory=dict)
    identities: dict[str, bytes] = field(default_factory=dict)


class DictEngine:
    """See the module. Used by one thread at a time."""

    def __init__(self, *, capacity_bytes: int = 256 * 2**20, store: Store | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.wake_fd: int | None = None
        self.store = store or Store()
        self.open_reads = 0
        self.open_reservations = 0

    @property
    def blocks(self) -> dict[tuple[str, bytes], StoredBlock]:
        return self.store.blocks

    def reopened(self) -> DictEngine:
        """A new engine on what this one stored, as after a restart."""
        return DictEngine(capacity_bytes=self.capacity_bytes, store=self.store)

    def damage(self, namespace: str, key: bytes) -> None:
        """Flips one bit of the stored value, beneath the engine."""
        block = self.blocks[namespace, key]
        self.blocks[namespace, key] = replace(block, value=bytes([block.value[0] ^ 1]) + block.value[1:])

    # -- the engine's interface -----------------------------------------------------------------------------------
    def open_namespace(self, name: str, identity: bytes) -> DictNamespace | None:
        if self.store.identities.setdefault(name, identity) != identity:
            return None
        return DictNamespace(name, namespace_seed(name), identity_digest(identity), identity)

    def reserve(
        self,
        namespace: DictNamespace,
        keys: Sequence[bytes],
        lengths: Sequence[int],
        digests: Sequence[bytes],
        digest_kind: int,
        metas: Sequence[bytes] | None,
    ) -> DictReservation:
        filled = metas if metas is not None else [b""] * len(keys)
        statuses = [
            self._decided((namespace.name, key), length, StoredBlock(b"", announced, digest_kind, meta))
            for key, length, announced, meta in zip(keys, lengths, digests, filled, strict=True)
        ]
        extents = [
            memoryview(bytearray(length)) if status is None else None
            for status, length in zip(statuses, lengths, strict=True)
        ]
        self.open_reservations += 1
        return DictReservation(namespace.name, keys, digests, digest_kind, filled, statuses, extents)

    def _decided(self, at: tuple[str, bytes], length: int, wanted: StoredBlock) -> int | None:
        """The status that is known without the value (``wanted`` lacks it), or None."""
        if length > self.capacity_bytes:
            return Status.TOO_LONG
        block = self.blocks.get(at)
        if block is None or len(block.value) != length or replace(block, value=b"") != wanted:
            return None
        # "Present" is said of bytes that were read again, not of what an index remembers.
        return Status.PRESENT if digest([memoryview(block.value)], block.digest_kind) == block.digest else None

    def commit(self, reservation: DictReservation) -> bytes:
        self._end(reservation)
        statuses = bytearray(len(reservation.keys))
        for place, (key, decided, extent) in enumerate(
            zip(reservation.keys, reservation.statuses, reservation.extents, strict=True)
        ):
            if decided is not None or extent is None:
                statuses[place] = decided or Status.NO_SPACE
                continue
            announced = reservation.digests[place]
            if digest([extent], reservation.digest_kind) != announced:
                statuses[place] = Status.BAD_DIGEST
                continue
            block = StoredBlock(bytes(extent), announced, reservation.digest_kind, reservation.metas[place])
            self._store((reservation.namespace, key), block)
            statuses[place] = Status.HIT
        return bytes(statuses)

    def _store(self, at: tuple[str, bytes], block: StoredBlock) -> None:
        self.blocks.pop(at, None)  # stored anew: youngest again
        self.blocks[at] = block
        used = sum(len(stored.value) for stored in self.blocks.values())
        while used > self.capacity_bytes:
            oldest = next(iter(self.blocks))
            used -= len(self.blocks.pop(oldest).value)

    def barrier(self) -> None:
        """Nothing is to be waited for."""

    def abort(self, reservation: DictReservation) -> None:
        self._end(reservation)

    def _end(self, reservation: DictReservation) -> None:
        if not reservation.open:
            raise AssertionError("a reservation ended twice")
        reservation.open = False
        self.open_reservations -= 1

    def read(self, namespace: DictNamespace, keys: Sequence[bytes], capacities: Sequence[int]) -> DictReadBatch:
        count = len(keys)
        batch = DictReadBatch(
            bytearray(count), [0] * count, [_EMPTY_DIGEST] * count, bytearray(count), [b""] * count, [None] * count
        )
        for place, (key, capacity) in enumerate(zip(keys, capacities, strict=True)):
            block = self.blocks.get((namespace.name, key))
            if block is None:
                continue
            if len(block.value) > capacity:
                batch.statuses[place] = Status.TOO_LONG
                continue
            batch.statuses[place] = Status.HIT
            batch.lengths[place] = len(block.value)
            batch.digests[place] = block.digest
            batch.digest_kinds[place] = block.digest_kind
            batch.metas[place] = block.meta
            batch.views[place] = memoryview(block.value)
        self.open_reads += 1
        return batch

    def begin_read(self, namespace: DictNamespace, keys: Sequence[bytes], capacities: Sequence[int]) -> DictReading:
        """``read``: there is no drive to wait for."""
        return DictReading(self, self.read(namespace, keys, capacities))

    def release(self, batch: DictReadBatch) -> None:
        if batch.released:
            raise AssertionError("a read batch released twice")
        batch.released = True
        self.open_reads -= 1

    def exists(self, namespace: DictNamespace, keys: Sequence[bytes]) -> bytes:
        return bytes(Status.HIT if (namespace.name, key) in self.blocks else Status.MISS for key in keys)

    def lookup(self, namespace: DictNamespace, keys: Sequence[bytes]) -> int:
        found = self.exists(namespace, keys)
        at = found.find(Status.MISS)
        return len(found) if at < 0 else at

    def delete(self, namespace: DictNamespace, keys: Sequence[bytes]) -> bytes:
        gone = [self.blocks.pop((namespace.name, key), None) for key in keys]
        return bytes(Status.MISS if block is None else Status.HIT for block in gone)

    def verify(self, namespace: DictNamespace, keys: Sequence[bytes]) -> bytes:
        return bytes(self._verified((namespace.name, key)) for key in keys)

    def _verified(self, at: tuple[str, bytes]) -> int:
        block = self.blocks.get(at)
        if block is None:
            return Status.MISS
        if digest([memoryview(block.value)], block.digest_kind) == block.digest:
            return Status.HIT
        del self.blocks[at]
        return Status.BAD_DIGEST

    def tick(self) -> bool:
        return False

    def fixed_memory(self) -> Sequence[memoryview]:
        return []

    def usage(self) -> dict[str, Any]:
        used = sum(len(block.value) for block in self.blocks.values())
        return {
            "capacity_bytes": self.capacity_bytes,
            "used_bytes": used,
            "live_bytes": used,
            "records": len(self.blocks),
        }

    def close(self) -> None:
        """Nothing to give back."""
