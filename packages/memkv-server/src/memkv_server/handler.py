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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from memkv_core import wire
from memkv_core.errors import RemoteProtocolError, StorageError
from memkv_core.log import RateLimitedLog
from memkv_core.wire import ErrorCode, Flag, Header, Opcode
from memkv_server.engine.base import Barrier, Engine, Namespace, ReadBatch, Reading, Reservation, Status

_LOG: Final = RateLimitedLog(logging.getLogger("memkv.server.handler"))
_RUN: Final = struct.Struct("<I")
# What is said instead of a status that would rest on bytes which did not become durable.
_NOT_DURABLE: Final = bytes(
    Status.READ_ONLY if status in (Status.HIT, Status.PRESENT, Status.MISS) else status for status in range(256)
)


@dataclass(slots=True)
class Response:
    """What goes back: the frame's fields, the payload's views, and the read that pins them.

    One with a ``barrier`` or a ``reading`` must not go before that has settled, and then as ``settled`` gives it.
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

    @property
    def may_go(self) -> bool:
        """Whether nothing is left to be waited for."""
        return (self.barrier is None or self.barrier.settled) and (self.reading is None or self.reading.settled)

    def settled(self) -> Response:
        """Itself, or what came of its ``reading``.

        Where the drive failed before the barrier settled it says instead that nothing was stored or deleted.
        """
        if self.reading is not None and self.finish is not None:
            return self.finish(self.reading.finish())
        if self.barrier is not None and self.barrier.failure is not None:
            self.metadata = self.metadata.translate(_NOT_DURABLE)
        return self


@dataclass(slots=True)
class OpCounters:
    """Since the lane's start. ``seconds`` is the lane's own time, without the network."""

    requests: int = 0
    keys: int = 0
    hits: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0


class Handler:
    """One lane's operations. Used by the lane's thread only."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.counters = {name: OpCounters() for name in _NAMES.values()}

    def handle(self, namespace: Namespace, header: Header, metadata: bytes) -> Response:
        """Every operation but PUT. RemoteProtocolError where the frame breaks a rule."""
        if header.payload_bytes:
            raise RemoteProtocolError(f"operation 0x{header.opcode:02x} with a payload")
        operation = _OPERATIONS.get(header.opcode)
        if operation is None:
            return refuse(ErrorCode.UNSUPPORTED_OPCODE, f"this server does not know operation 0x{header.opcode:02x}")
        started_s = time.perf_counter()
        try:
            if namespace.dropped:
                self._reopen(namespace)
            response, hits = operation(self, namespace, header, metadata)
        except StorageError as error:
            return self._storage_failed(error)
        counters = self.counters[_NAMES[header.opcode]]
        counters.requests += 1
        counters.keys += header.key_count
        counters.hits += hits
        counters.bytes_out += response.payload_bytes
        counters.seconds += time.perf_counter() - started_s
        return response

    # -- PUT: space before the payload, publication after it
    def begin_put(
        self, namespace: Namespace, header: Header, metadata: bytes
    ) -> tuple[Reservation | None, Sequence[int]]:
        """(the reservation, the values' lengths). No reservation when the drive fails: the payload is drained."""
        started_s = time.perf_counter()
        request = wire.decode_put(metadata, header)
        try:
            if namespace.dropped:
                self._reopen(namespace)
            reservation = self.engine.reserve(
                namespace, request.keys, request.lengths, request.digests, header.kind, request.metas
            )
        except StorageError as error:
            self._storage_failed(error)
            return None, request.lengths
        self.counters["put"].seconds += time.perf_counter() - started_s
        return reservation, request.lengths

    def end_put(self, reservation: Reservation | None, header: Header) -> Response:
        if reservation is None:
            return refuse(ErrorCode.STORAGE, "the drive takes no writes")
        started_s = time.perf_counter()
        try:
            statuses = self.engine.commit(reservation)
        except StorageError as error:
            return self._storage_failed(error)
        counters = self.counters["put"]
        counters.requests += 1
        counters.keys += header.key_count
        counters.hits += statuses.count(Status.HIT) + statuses.count(Status.PRESENT)
        counters.bytes_in += header.payload_bytes
        counters.seconds += time.perf_counter() - started_s
        return Response(statuses, count=header.key_count, barrier=self.engine.barrier())

    def _reopen(self, namespace: Namespace) -> None:
        """A session outlives the drop of its namespace, unless somebody with another identity came first."""
        if self.engine.open_namespace(namespace.name, namespace.identity) is not namespace:
            raise RemoteProtocolError(f"namespace {namespace.name!r} was dropped, and has another identity now")

    # -- the others: (response, hits)
    def _get(self, namespace: Namespace, header: Header, metadata: bytes) -> tuple[Response, int]:
        keys, capacities = wire.decode_get(metadata, header.key_count)
        reading = self.engine.begin_read(namespace, keys, capacities)
        wants_meta = header.flags & Flag.META
        if reading.settled:
            response = self._read(namespace, wants_meta, reading.finish())
            return response, len(response.views)

        def finish(read: ReadBatch) -> Response:
            response = self._read(namespace, wants_meta, read)
            self.counters["get"].hits += len(response.views)
            self.counters["get"].bytes_out += response.payload_bytes
            return response

        return Response(count=header.key_count, reading=reading, finish=finish), 0

    def _read(self, namespace: Namespace, wants_meta: int, read: ReadBatch) -> Response:
        views = [view for view in read.views if view is not None]
        namespace.hits += len(views)
        namespace.misses += len(read.views) - len(views)
        return Response(
            wire.encode_get_response(
                read.statuses, read.digest_kinds, read.lengths, read.digests, read.metas if wants_meta else None
            ),
            flags=Flag.RESPONSE | wants_meta,
            count=len(read.views),
            views=views,
            payload_bytes=sum(map(len, views)),
            read=read,
        )

    def _exists(self, namespace: Namespace, header: Header, metadata: bytes) -> tuple[Response, int]:
        statuses = self.engine.exists(namespace, wire.decode_keys(metadata, header.key_count))
        return Response(statuses, count=header.key_count), statuses.count(Status.HIT)

    def _lookup(self, namespace: Namespace, header: Header, metadata: bytes) -> tuple[Response, int]:
        run = self.engine.lookup(namespace, wire.decode_keys(metadata, header.key_count))
        return Response(_RUN.pack(run), count=header.key_count), run

    def _delete(self, namespace: Namespace, header: Header, metadata: bytes) -> tuple[Response, int]:
        statuses = self.engine.delete(namespace, wire.decode_keys(metadata, header.key_count))
        response = Response(statuses, count=header.key_count, barrier=self.engine.barrier())
        return response, statuses.count(Status.HIT)

    def _verify(self, namespace: Namespace, header: Header, metadata: bytes) -> tuple[Response, int]:
        statuses = self.engine.verify(namespace, wire.decode_keys(metadata, header.key_count))
        return Response(statuses, count=header.key_count), statuses.count(Status.HIT)

    def _ping(self, namespace: Namespace, header: Header, metadata: bytes) -> tuple[Response, int]:
        return Response(), 0

    def _stat(self, namespace: Namespace, header: Header, metadata: bytes) -> tuple[Response, int]:
        usage = {name: value for name, value in self.engine.usage().items() if name not in ("drives", "namespaces")}
        return Response(json.dumps(usage, separators=(",", ":")).encode()), 0

    def _storage_failed(self, error: StorageError) -> Response:
        _LOG.error("storage", "storage: %s", error)
        return refuse(ErrorCode.STORAGE, "the drive failed; see the server's log")


def refuse(code: ErrorCode, text: str) -> Response:
    """An error frame."""
    return Response(wire.encode_error(code, text), flags=Flag.RESPONSE | Flag.ERROR)


_Operation = Callable[[Handler, Namespace, Header, bytes], tuple[Response, int]]
_OPERATIONS: Final[dict[int, _Operation]] = {
    Opcode.PING: Handler._ping,
    Opcode.STAT: Handler._stat,
    Opcode.GET: Handler._get,
    Opcode.EXISTS: Handler._exists,
    Opcode.LOOKUP: Handler._lookup,
    Opcode.DELETE: Handler._delete,
    Opcode.VERIFY: Handler._verify,
}
_NAMES: Final = {int(opcode): opcode.name.lower() for opcode in Opcode if opcode in _OPERATIONS or opcode == Opcode.PUT}
