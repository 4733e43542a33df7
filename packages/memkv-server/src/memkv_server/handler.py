# SPDX-License-Identifier: Apache-2.0
"""From a verified frame to one engine call and back to a response: no socket, no payload byte.

``Handler`` belongs to a lane and serves all of its connections; a PUT has two halves, since its payload comes between
them. Storage errors become error frames: the session goes on.
"""

from __future__ import annotations

import json
import logging
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from memkv_core import wire
from memkv_core.errors import RemoteProtocolError, StorageError
from memkv_core.log import RateLimitedLog
from memkv_core.metrics.histogram import BUCKETS, sparse
from memkv_core.wire import ErrorCode, Flag, Header, Opcode
from memkv_server.engine.base import Barrier, Engine, Namespace, ReadBatch, Reading, Reservation, Status
from memkv_server.movers import Move

_LOG: Final = RateLimitedLog(logging.getLogger("memkv.server.handler"))
_RUN: Final = struct.Struct("<I")
# What is said instead of a status that would rest on bytes which did not become durable.
_NOT_DURABLE: Final = bytes(
    Status.READ_ONLY if status in (Status.HIT, Status.PRESENT, Status.MISS) else status for status in range(256)
)


_MISSES: Final = {
    Status.TOO_LONG: "too_long",
    Status.NO_SPACE: "no_space",
    Status.BAD_DIGEST: "corrupt",
    Status.READ_ONLY: "read_only",
}


@dataclass(slots=True)
class OpCounters:
    """Of one operation, since the lane's start. ``seconds`` is the lane's own time, without the network.

    ``buckets`` and ``duration_s`` are of whole frames, from the head read to the last byte of the answer given to the
    kernel: see ``memkv_core.metrics.histogram``.
    """

    requests: int = 0
    keys: int = 0
    hits: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    duration_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    misses: Counter[str] = field(default_factory=Counter)  # by cause
    refused: Counter[str] = field(default_factory=Counter)  # frames, by error code

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; numbers that can be added up."""
        return {
            "requests": self.requests,
            "keys": self.keys,
            "hits": self.hits,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "seconds": round(self.seconds, 6),
            "misses": dict(self.misses),
            "refused": dict(self.refused),
            "duration": {"sum": round(self.duration_s, 6), "buckets": sparse(self.buckets)},
        }

    def count_misses(self, statuses: bytes | bytearray, misses: int) -> None:
        """By what each key's status says, where some were no hits: mostly all of these are simply not there."""
        absent = statuses.count(Status.MISS)
        self.misses["absent"] += absent
        if absent < misses:
            for status, cause in _MISSES.items():
                if found := statuses.count(status):
                    self.misses[cause] += found


@dataclass(slots=True)
class Response:
    """What goes back: the frame's fields, the payload's views, and the read that pins them.

    One with a ``barrier``, a ``reading`` or a ``move`` must not go before that has settled, and then as ``settled``
    gives it.
    Whoever sends it calls ``sent`` once all of it is with the kernel.
    """

    metadata: bytes = b""
    flags: int = Flag.RESPONSE
    count: int = 0
    views: list[memoryview] = field(default_factory=list)
    payload_bytes: int = 0
    read: ReadBatch | None = None
    barrier: Barrier | None = None
    reading: Reading | None = None
    finish: Callable[[ReadBatch], Response] | None = None
    move: Move | None = None
    is_placed: bool = False  # what its ``reading`` brings is to be moved
    counters: OpCounters | None = None  # that ``sent`` counts in
    started_s: float = 0.0

    def sent(self) -> None:
        """The whole answer is with the kernel: its duration is counted."""
        if (counters := self.counters) is not None:
            elapsed_s = time.perf_counter() - self.started_s
            counters.duration_s += elapsed_s
            counters.buckets[int(elapsed_s * 1e6).bit_length()] += 1

    @property
    def may_go(self) -> bool:
        """Whether nothing is left to be waited for."""
        return (
            (self.barrier is None or self.barrier.settled)
            and (self.reading is None or self.reading.settled)
            and (self.move is None or self.move.settled)
        )

    def settled(self) -> Response:
        """Itself, or what came of its ``reading``, which may have to wait again: for its move.

        Where the drive failed before the barrier settled it says instead that nothing was stored or deleted, and where
        the move failed, that it did.
        """
        if self.reading is not None and self.finish is not None:
            response = self.finish(self.reading.finish())
            response.counters, response.started_s = self.counters, self.started_s
            return response.settled() if response.may_go else response
        if self.barrier is not None and self.barrier.failure is not None:
            self.metadata = self.metadata.translate(_NOT_DURABLE)
        if self.move is not None and self.move.failure is not None:
            refusal = refuse(ErrorCode.MOVE_FAILED, self.move.failure)
            refusal.read = self.read  # to be released
            return refusal
        return self


class Handler:
    """One lane's operations. Used by the lane's thread only."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # By transport and operation.
        self.counters: dict[str, dict[int, OpCounters]] = defaultdict(
            lambda: {operation: OpCounters() for operation in _NAMES}
        )

    def counts(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By transport and name of the operation; JSON-able."""
        return {
            transport: {_NAMES[operation]: each.as_dict() for operation, each in operations.items()}
            for transport, operations in self.counters.items()
        }

    def handle(
        self,
        namespace: Namespace,
        header: Header,
        metadata: bytes,
        transport: str = "tcp",
        operation: Operation | None = None,
    ) -> Response:
        """Every operation but PUT. RemoteProtocolError where the frame breaks a rule.

        ``operation`` is done in place of the one that the opcode names.
        """
        if header.payload_bytes:
            raise RemoteProtocolError(f"operation 0x{header.opcode:02x} with a payload")
        operation = operation or _OPERATIONS.get(header.opcode)
        if operation is None:
            return refuse(ErrorCode.UNSUPPORTED_OPCODE, f"this server does not know operation 0x{header.opcode:02x}")
        started_s = time.perf_counter()
        counters = self.counters[transport][header.opcode]
        try:
            if namespace.dropped:
                self._reopen(namespace)
            response = operation(self, namespace, header, metadata, counters)
        except StorageError as error:
            return self._storage_failed(error, counters)
        response.counters, response.started_s = counters, started_s
        counters.requests += 1
        counters.keys += header.key_count
        counters.seconds += time.perf_counter() - started_s
        return response

    # -- PUT: space before the payload, publication after it
    def begin_put(
        self, namespace: Namespace, header: Header, metadata: bytes, transport: str = "tcp"
    ) -> tuple[Reservation | None, Sequence[int]]:
        """(the reservation, the values' lengths). No reservation when the drive fails: the payload is drained."""
        request = wire.decode_put(metadata, header)
        return self.reserve(namespace, header, request, transport), request.lengths

    def reserve(
        self, namespace: Namespace, header: Header, request: wire.PutRequest, transport: str
    ) -> Reservation | None:
        """Space for a PUT's values; None when the drive fails."""
        started_s = time.perf_counter()
        counters = self.counters[transport][Opcode.PUT]
        try:
            if namespace.dropped:
                self._reopen(namespace)
            reservation = self.engine.reserve(
                namespace, request.keys, request.lengths, request.digests, header.kind, request.metas
            )
        except StorageError as error:
            self._storage_failed(error, counters)
            return None
        counters.seconds += time.perf_counter() - started_s
        return reservation

    def end_put(
        self, reservation: Reservation | None, header: Header, begun_s: float | None = None, transport: str = "tcp"
    ) -> Response:
        """``begun_s``: the time (perf_counter) at which the frame's head was there."""
        if reservation is None:
            return refuse(ErrorCode.STORAGE, "the drive takes no writes")
        started_s = time.perf_counter()
        counters = self.counters[transport][Opcode.PUT]
        try:
            statuses = self.engine.commit(reservation)
        except StorageError as error:
            return self._storage_failed(error, counters)
        hits = statuses.count(Status.HIT) + statuses.count(Status.PRESENT)
        if misses := len(statuses) - hits:
            counters.count_misses(statuses, misses)
        counters.requests += 1
        counters.keys += header.key_count
        counters.hits += hits
        counters.bytes_in += header.payload_bytes
        response = Response(statuses, count=header.key_count, barrier=self.engine.barrier())
        response.counters, response.started_s = counters, started_s if begun_s is None else begun_s
        counters.seconds += time.perf_counter() - started_s
        return response

    def _reopen(self, namespace: Namespace) -> None:
        """A session outlives the drop of its namespace, unless somebody with another identity came first."""
        if self.engine.open_namespace(namespace.name, namespace.identity) is not namespace:
            raise RemoteProtocolError(f"namespace {namespace.name!r} was dropped, and has another identity now")

    # -- the others
    def _get(self, namespace: Namespace, header: Header, metadata: bytes, counters: OpCounters) -> Response:
        keys, capacities = wire.decode_get(metadata, header.key_count)
        reading = self.engine.begin_read(namespace, keys, capacities)
        wants_meta = header.flags & Flag.META
        if reading.settled:
            return self._read(namespace, wants_meta, reading.finish(), counters)

        def finish(read: ReadBatch) -> Response:
            return self._read(namespace, wants_meta, read, counters)

        return Response(count=header.key_count, reading=reading, finish=finish)

    def get_placed(
        self,
        namespace: Namespace,
        header: Header,
        keys: Sequence[bytes],
        capacities: Sequence[int],
        place: Place,
        counters: OpCounters,
    ) -> Response:
        """GET whose values ``place`` moves when they are there, in place of a payload."""
        reading = self.engine.begin_read(namespace, keys, capacities)
        wants_meta = header.flags & Flag.META

        def finish(read: ReadBatch) -> Response:
            response = self._read(namespace, wants_meta, read, counters)
            place(response, read)
            return response

        if reading.settled:
            return finish(reading.finish())
        return Response(count=header.key_count, reading=reading, finish=finish, is_placed=True)

    def _read(self, namespace: Namespace, wants_meta: int, read: ReadBatch, counters: OpCounters) -> Response:
        views = [view for view in read.views if view is not None]
        if misses := len(read.views) - len(views):
            counters.count_misses(read.statuses, misses)
        payload_bytes = sum(map(len, views))
        counters.hits += len(views)
        counters.bytes_out += payload_bytes
        namespace.hits += len(views)
        namespace.misses += misses
        return Response(
            wire.encode_get_response(
                read.statuses, read.digest_kinds, read.lengths, read.digests, read.metas if wants_meta else None
            ),
            flags=Flag.RESPONSE | wants_meta,
            count=len(read.views),
            views=views,
            payload_bytes=payload_bytes,
            read=read,
        )

    def _said(self, statuses: bytes, counters: OpCounters) -> Response:
        """An answer that is one status for each key."""
        hits = statuses.count(Status.HIT)
        counters.hits += hits
        if misses := len(statuses) - hits:
            counters.count_misses(statuses, misses)
        return Response(statuses, count=len(statuses))

    def _exists(self, namespace: Namespace, header: Header, metadata: bytes, counters: OpCounters) -> Response:
        return self._said(self.engine.exists(namespace, wire.decode_keys(metadata, header.key_count)), counters)

    def _lookup(self, namespace: Namespace, header: Header, metadata: bytes, counters: OpCounters) -> Response:
        run = self.engine.lookup(namespace, wire.decode_keys(metadata, header.key_count))
        counters.hits += run
        return Response(_RUN.pack(run), count=header.key_count)

    def _delete(self, namespace: Namespace, header: Header, metadata: bytes, counters: OpCounters) -> Response:
        keys = wire.decode_keys(metadata, header.key_count)
        response = self._said(self.engine.delete(namespace, keys), counters)
        response.barrier = self.engine.barrier()
        return response

    def _verify(self, namespace: Namespace, header: Header, metadata: bytes, counters: OpCounters) -> Response:
        return self._said(self.engine.verify(namespace, wire.decode_keys(metadata, header.key_count)), counters)

    def _ping(self, namespace: Namespace, header: Header, metadata: bytes, counters: OpCounters) -> Response:
        return Response()

    def _stat(self, namespace: Namespace, header: Header, metadata: bytes, counters: OpCounters) -> Response:
        usage = {name: value for name, value in self.engine.usage().items() if name not in ("drives", "namespaces")}
        return Response(json.dumps(usage, separators=(",", ":")).encode())

    def _storage_failed(self, error: StorageError, counters: OpCounters) -> Response:
        _LOG.error("storage", "storage: %s", error)
        counters.refused["storage"] += 1
        return refuse(ErrorCode.STORAGE, "the drive failed; see the server's log")


Place = Callable[[Response, ReadBatch], None]  # has the values moved: the response waits for it and has no payload


def refuse(code: ErrorCode, text: str) -> Response:
    """An error frame."""
    return Response(wire.encode_error(code, text), flags=Flag.RESPONSE | Flag.ERROR)


Operation = Callable[[Handler, Namespace, Header, bytes, OpCounters], Response]
_OPERATIONS: Final[dict[int, Operation]] = {
    Opcode.PING: Handler._ping,
    Opcode.STAT: Handler._stat,
    Opcode.GET: Handler._get,
    Opcode.EXISTS: Handler._exists,
    Opcode.LOOKUP: Handler._lookup,
    Opcode.DELETE: Handler._delete,
    Opcode.VERIFY: Handler._verify,
}
_NAMES: Final = {int(opcode): opcode.name.lower() for opcode in Opcode if opcode in _OPERATIONS or opcode == Opcode.PUT}
