# SPDX-License-Identifier: Apache-2.0
"""The seam between a lane and its storage engine.

One thread (the lane's loop) calls an engine; nothing here is thread-safe. The batch is the unit: a frame's keys are
handled in one call. Payload bytes are moved by the lane (``recvmsg_into`` the extents of a reservation, ``sendmsg``
from the views of a read); the engine hands out memory and keeps the index.

Life of a put::

    reserve ──► extents ──► the lane receives the payload into them ──► commit ──► statuses
                                             │
                                     connection lost ──► abort

The put is acknowledged when the ``barrier`` that is asked for right after its commit has settled; so is a delete.

Life of a get: ``read`` pins the segments it hands out; ``release`` unpins them when the last byte is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol


class Status(IntEnum):
    """What became of one key of a batch; the value is what travels on the wire (one byte)."""

    MISS = 0  # get, exists, delete, verify: not there
    HIT = 1  # get, exists, verify: there; delete: was there and is gone; put: stored
    PRESENT = 2  # put: the same bytes were stored already; counts as stored
    TOO_LONG = 3  # get: the stored value is longer than the target; put: longer than a segment can hold
    NO_SPACE = 4  # put: every segment is pinned or being written; try again
    BAD_DIGEST = 5  # put: the received bytes do not match the announced digest; verify: the stored bytes do not
    READ_ONLY = 6  # put, delete: the drive takes no writes


@dataclass(slots=True)
class Namespace:
    """An isolation boundary with its recorded identity. Sessions hold it, and a drop reaches them through it.

    ``hash`` is of the name and the epoch: it seeds the hashes of every key in the namespace, and stands in every
    record, so that no key of one namespace can be found under another, nor one from before a drop after it.
    """

    name: str
    hash: int
    identity_digest: bytes  # 32 bytes, sha256 of the canonical identity JSON; zeros where none was presented
    identity: bytes  # the canonical JSON itself, at most IDENTITY_BYTES_MAX
    epoch: int = 0  # of the last drop before it was opened, in the whole lane; 0: there was none
    dropped: bool = field(default=False, compare=False)  # to be opened again before it is used
    hits: int = field(default=0, compare=False)  # keys of gets, since the lane's start
    misses: int = field(default=0, compare=False)

    def __hash__(self) -> int:
        return hash(self.name)


class Reservation(Protocol):
    """Space taken for the payload of one put batch.

    ``extents[i]`` is the writable memory for value i, exactly as long as announced, or None where nothing must be
    stored (the status is decided already: PRESENT after the stored bytes were verified again, TOO_LONG, NO_SPACE,
    READ_ONLY). The lane drains the bytes of such a value elsewhere.
    """

    extents: list[memoryview | None]

    def landed(self, count: int) -> None:
        """The first ``count`` values are complete: they may be verified now, while they are still in the core's cache.

        A lane that receives in several steps says so after each; ``commit`` verifies what has not been, so nothing
        depends on it.
        """


@dataclass(slots=True)
class ReadBatch:
    """The outcome of a get batch, in the order of its keys.

    ``views[i]`` holds value i, in place, or None where ``statuses[i]`` is not HIT. ``lengths``, ``digests``
    (16 bytes each), ``digest_kinds`` and ``metas`` are of the hits; zeros and empty elsewhere. Call
    ``Engine.release(batch)`` exactly once when the last byte has been sent or the connection is gone.
    """

    statuses: bytearray
    lengths: list[int]
    digests: list[bytes]
    digest_kinds: bytearray
    metas: list[bytes]
    views: list[memoryview | None]
    pins: list[Any] = field(default_factory=list)  # the engine's own: what release() unpins


class Barrier(Protocol):
    """What an acknowledgement waits for. It settles in a ``tick``."""

    @property
    def settled(self) -> bool: ...

    @property
    def failure(self) -> str | None:
        """Once settled: why it is not known what is durable; None: all of it is."""


class Reading(Protocol):
    """A read that was begun. Either ``finish`` or ``abandon`` is called, once."""

    @property
    def settled(self) -> bool:
        """Whether ``finish`` may be called."""

    def finish(self) -> ReadBatch:
        """The outcome; ``Engine.release`` follows as after ``Engine.read``."""

    def abandon(self) -> None:
        """Nobody waits for it any more: what it holds is given back, at the latest when it settles."""


class Engine(Protocol):
    """What a lane asks of its storage. Statuses are ``bytes`` of ``Status`` values, one per key."""

    def open_namespace(self, name: str, identity: bytes) -> Namespace | None:
        """The namespace, recorded durably at first use; None when it is recorded with another identity.

        ``identity`` is canonical JSON or empty. An empty identity is an identity of its own: it does not match a
        recorded one. Raises StorageError where the record cannot be written.
        """

    def drop_namespace(self, name: str) -> Mapping[str, Any] | None:
        """Ends the life of every record of the namespace, at once and durably; its name and identity are forgotten.

        None where there is no such namespace; else what went: records, bytes, and the drives that are ``away`` and
        will hear of it when they are back. Raises StorageError, and has dropped nothing, where no drive can record
        it. A put that is under way is refused with NO_SPACE, a read that is under way is sent.
        """

    def list_namespaces(self, after: str, count: int) -> list[dict[str, Any]]:
        """Up to ``count`` namespaces whose names come after this one, in the order of names; fields as in usage."""

    def reserve(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        lengths: Sequence[int],
        digests: Sequence[bytes],
        digest_kind: int,
        metas: Sequence[bytes] | None,
    ) -> Reservation:
        """Takes space for a put batch. Nothing is visible before ``commit``. Duplicate keys in one batch: last wins."""

    def commit(self, reservation: Reservation) -> bytes:
        """Verifies each received value against its digest, unless it was as it landed; publishes those that match."""

    def abort(self, reservation: Reservation) -> None:
        """Gives the space up; what was there under the keys before is still there."""

    def read(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> ReadBatch:
        """Finds values and pins them. ``capacities[i]`` is the size of target i in bytes."""

    def begin_read(self, namespace: Namespace, keys: Sequence[bytes], capacities: Sequence[int]) -> Reading:
        """The same without waiting for a drive; what has to settles in a ``tick`` of which ``wake_fd`` tells."""

    def release(self, batch: ReadBatch) -> None: ...

    def exists(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """HIT or MISS per key; reads no payload."""

    def lookup(self, namespace: Namespace, keys: Sequence[bytes]) -> int:
        """The length of the leading run of keys that exist."""

    def delete(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """HIT where a value was there and is gone, durably as a put would be; else MISS."""

    def verify(self, namespace: Namespace, keys: Sequence[bytes]) -> bytes:
        """Reads the stored bytes again: HIT where they match their digest, BAD_DIGEST where they did not and the
        value was dropped, MISS where there is none."""

    def tick(self) -> bool:
        """A bounded piece (about 0.3 ms) of background work: cleaning ahead, sealing. True while there is more.

        Called once in each round of the loop: barriers settle here, and the next group's commit begins.
        """

    def barrier(self) -> Barrier | None:
        """What the ``commit`` or ``delete`` that was made last must wait for before it is answered; None: nothing.

        A put that was PRESENT already and a delete that was a MISS wait as well: what they rest on may be another
        client's write that is not durable yet.
        """

    @property
    def wake_fd(self) -> int | None:
        """An eventfd, readable when a ``tick`` will settle barriers; the lane reads it. None: there are never any."""

    def fixed_memory(self) -> Sequence[memoryview]:
        """Memory of its extents and views that is all there and stays where it is: worth registering with a device."""

    def usage(self) -> Mapping[str, Any]:
        """Numbers for status and metrics, JSON-able, cheap: capacity_bytes, used_bytes, live_bytes, records,
        segments {total, free, sealed, quarantined}, evicted_segments, evicted_records, evicted_bytes,
        reinserted_records, corrupt_records, recovery_seconds, index_bytes, drives [{path, mode, state,
        capacity_bytes, used_bytes}], namespaces [{name, identity_digest, records, bytes, hits, misses, ...}]."""

    def close(self) -> None:
        """Seals or syncs what must be, and gives the memory back. Idempotent."""
