# SPDX-License-Identifier: Apache-2.0
"""Frames whose payload the lane moves itself: from places to pieces to a move, and to an answer when it has settled.

What a PUT or GET means stays in ``handler``; what moves the bytes is a ``Mover``. One ``Placements`` belongs to one
connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from memkv_core import wire
from memkv_core.places import Access, decode_region
from memkv_core.wire import ErrorCode, Flag, Header
from memkv_server.engine.base import Namespace, ReadBatch, Reservation
from memkv_server.handler import Handler, OpCounters, Response, refuse
from memkv_server.movers import MOVED, Move, Mover, PlaceError, Regions, Settled, pair


@dataclass(slots=True)
class PlacedPut:
    """A PUT whose values are on their way into its reservation."""

    reservation: Reservation | None
    header: Header  # with the bytes of its values for the payload it has not
    move: Move
    begun_s: float
    refusal: Response | None = None  # its answer, where nothing of it is moved


class Placements:
    """A connection's regions and its mover."""

    def __init__(self, handler: Handler, mover: Mover, transport: str) -> None:
        self.mover = mover
        self.transport = transport
        self._handler = handler
        self._regions = Regions()
        self._closed = False

    def register(self, metadata: bytes, claim: Callable[[], int | None] = lambda: None) -> Response:
        """REGISTER_REGION. RemoteProtocolError where the frame breaks a rule. ``claim`` gives what came with it."""
        request = decode_region(metadata)
        try:
            if request.region in self._regions:
                self._regions.remove(request.region)
                self.mover.deregister(request.region)
            if not request.size_bytes:
                return Response()
            address, key, answer = self.mover.register(request, claim())
            self._regions.add(request, address, key)
        except PlaceError as error:
            self.mover.deregister(request.region)
            return refuse(ErrorCode.LIMIT_EXCEEDED, str(error))
        return Response(answer)

    def get(
        self, handler: Handler, namespace: Namespace, header: Header, metadata: bytes, counters: OpCounters
    ) -> Response:
        """GET, as an ``Operation``. The answer waits for its move."""
        keys, capacities, places = wire.decode_placed_get(metadata, header.key_count)
        try:
            remote, rkeys = self._regions.resolve(places.parts, Access.WRITE)
        except PlaceError as error:
            counters.refused["places"] += 1
            return refuse(ErrorCode.LIMIT_EXCEEDED, str(error))

        def place(response: Response, read: ReadBatch) -> None:
            if self._closed:
                response.move = Settled("the session's means to move it was replaced")
            else:
                response.move = self.mover.write(pair(places, remote, rkeys, read.views), header.request_id)
            response.flags |= Flag.PLACED
            response.views, response.payload_bytes = [], 0

        return handler.get_placed(namespace, header, keys, capacities, place, counters)

    def begin_put(self, namespace: Namespace, header: Header, metadata: bytes) -> PlacedPut:
        """PUT: space, and the move into it; ``end_put`` when that has settled."""
        begun_s = time.perf_counter()
        request, places = wire.decode_placed_put(metadata, header)
        try:
            remote, rkeys = self._regions.resolve(places.parts, Access.READ)
        except PlaceError as error:
            return PlacedPut(None, header, MOVED, begun_s, refuse(ErrorCode.LIMIT_EXCEEDED, str(error)))
        reservation = self._handler.reserve(namespace, header, request, self.transport)
        if reservation is None:
            return PlacedPut(None, header, MOVED, begun_s, self._handler.end_put(None, header))
        pieces = pair(places, remote, rkeys, reservation.extents)
        move: Move = MOVED
        if len(pieces.sizes):
            values_are_pieces = len(pieces.sizes) == header.key_count and places.one_each
            move = self.mover.read(pieces, reservation.landed if values_are_pieces else None)
        return PlacedPut(reservation, header._replace(payload_bytes=sum(request.lengths)), move, begun_s)

    def end_put(self, put: PlacedPut) -> Response:
        """Publishes what was moved, or gives the space up."""
        if put.refusal is not None:
            return put.refusal
        reservation, put.reservation = put.reservation, None
        if put.move.failure is not None:
            if reservation is not None:
                self._handler.engine.abort(reservation)
            return refuse(ErrorCode.MOVE_FAILED, put.move.failure)
        return self._handler.end_put(reservation, put.header, put.begun_s, self.transport)

    def close(self, done: Callable[[], None]) -> None:
        """See ``Mover.close``."""
        self._closed = True
        self.mover.close(done)
