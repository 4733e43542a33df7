# SPDX-License-Identifier: Apache-2.0
"""One client's connection to a lane: bytes in, frames to the handler, bytes out; resumed by the lane's loop.

    HELLO ──► PROOF ──► FRAMES ◄──► PAYLOAD          (any) ──► closed
                          │ ▲
                          └─┘ while output is pending nothing more is read: a slow reader slows itself, not the lane

An answer may have to wait for the drive (``Response.barrier``, ``reading``) or for what moves its payload (``move``).
It keeps its place: answers to later frames, up to PENDING_MAX in all, wait behind it, and ``settle`` sends what may go.
While the values of a PUT are being moved here no further frame is taken but one more such PUT, as during a payload.

On the node's Unix socket a frame may bring descriptors along (REGISTER_REGION). What no region has claimed is closed
with the connection.

Payload bytes of a PUT go by ``recvmsg_into`` into the reservation's extents, those of a GET by ``sendmsg`` from the
engine's views. What came along with a frame's head (at most READ_AHEAD_BYTES) is copied over.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from memkv_core import wire
from memkv_core.errors import AuthError, RemoteProtocolError
from memkv_core.log import RateLimitedLog
from memkv_core.session import Session
from memkv_core.wakeups import Wakeups
from memkv_core.wire import ErrorCode, Flag, Header, Opcode
from memkv_server import limits
from memkv_server.engine.base import Namespace, ReadBatch, Reservation
from memkv_server.events import limited_event
from memkv_server.handler import Response, refuse
from memkv_server.inbound import Inbound
from memkv_server.intake import Intake
from memkv_server.lane_context import LaneContext
from memkv_server.movers import MoverSource, MoverUnavailableError
from memkv_server.outbox import Outbox
from memkv_server.placed import PlacedPut, Placements
from memkv_server.reception import open_namespace, refusal_of_hello
from memkv_server.shm import ShmMover

_LOG: Final = RateLimitedLog(logging.getLogger("memkv.server.connection"))
_MOVING: Final = (Opcode.GET, Opcode.PUT)


class Phase(Enum):
    """Where a connection is; see the drawing above."""

    HELLO = auto()
    PROOF = auto()
    FRAMES = auto()
    PAYLOAD = auto()
    CLOSED = auto()


class Connection:
    """Used by the lane's thread only. ``mask`` is what to poll for; ``closed`` ends it.

    ``transport`` is what its frames are counted under.
    """

    def __init__(self, sock: socket.socket, prefix: bytes, context: LaneContext, now_s: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.phase = Phase.HELLO
        self.agent = ""
        self.namespace: Namespace | None = None
        self.progress_s = now_s
        self._local = context.shm is not None and sock.family == socket.AF_UNIX
        self.transport = "shm" if self._local else "tcp"
        self._context = context
        self._session = Session.server(context.keyring)
        self._inbound = Inbound(sock, prefix, local=self._local)
        self._wakeups = Wakeups(sock)
        self._header: Header | None = None  # of the PUT whose payload comes
        self._payload: Intake | None = None
        self._reservation: Reservation | None = None
        self._put_begun_s = 0.0
        self._moves = False  # its last frame did
        self._placements: Placements | None = None
        self._puts: deque[PlacedPut] = deque()  # whose values are on their way here
        self._outbox = Outbox(sock, context.engine.release)
        self._pending: deque[tuple[int, int, Response]] = deque()  # opcode, request id, answer: what waits
        self._closing = False  # once the outputs are sent

    # -- for the loop -------------------------------------------------------------------------------------------------
    @property
    def closed(self) -> bool:
        return self.phase is Phase.CLOSED

    @property
    def mask(self) -> int:
        if self._outbox:
            return select.EPOLLOUT
        return 0 if self._crowded else select.EPOLLIN

    @property
    def bulk(self) -> bool:
        """In the middle of a payload, in or out, or between two of them: served after those that ask for little."""
        return self._moves or bool(self._outbox) or self._payload is not None

    @property
    def idle(self) -> bool:
        return self.phase is Phase.FRAMES and not (self._outbox or self._pending or self._puts) and self._inbound.empty

    @property
    def moves_by(self) -> str:
        """What its payload goes by: a value of the metrics."""
        return self.transport if self._placements is None else self._placements.transport

    @property
    def pending_count(self) -> int:
        """Answers that wait for the drive."""
        return len(self._pending)

    @property
    def activity(self) -> str:
        """What it is doing, in one word: a value of the metrics."""
        if self._outbox:
            return "sending"
        if self._payload is not None or self._puts:
            return "receiving"
        return "waiting" if self._pending else "idle"

    @property
    def _crowded(self) -> bool:
        """As many answers wait as may, or the next frame must wait for a PUT before it: no further one is taken."""
        if self._puts and (len(self._puts) >= limits.PUTS_MOVING_MAX or not self._is_next_a_placed_put):
            return True
        return len(self._pending) >= limits.PENDING_MAX and self.phase is not Phase.PAYLOAD

    @property
    def _is_next_a_placed_put(self) -> bool:
        """As far as is known."""
        header = self._inbound.header
        return header is None or (header.opcode == Opcode.PUT and bool(header.flags & Flag.PLACED))

    def on_event(self, now_s: float) -> None:
        """Does one turn of work. Never raises for what a peer does; closes instead."""
        self.progress_s = now_s
        self._guarded(self._turn)

    def settle(self, now_s: float) -> bool:
        """Sends the answers that need not wait any longer; whether there were any."""
        if self._placements is not None:
            self._move()
        moved = self._puts and self._puts[0].move.settled
        if not moved and not (self._pending and self._pending[0][2].may_go):
            return False
        self.progress_s = now_s
        self._guarded(self._answer_pending)
        return True

    def _turn(self) -> None:
        if self._outbox:
            self._send()
            self._consume()
        elif self.phase is Phase.PAYLOAD:
            self._receive_payload()
        elif self._crowded:
            raise ConnectionResetError("closed while its answers waited")  # only an end is told of then
        else:
            self._receive()

    def _move(self) -> None:
        """A turn of the mover's; what was read meanwhile is moved, also where its answer is not the next."""
        assert self._placements is not None
        for place, (opcode, request_id, response) in enumerate(self._pending):
            if response.is_placed and response.reading is not None and response.reading.settled:
                self._pending[place] = opcode, request_id, response.settled()
        if self._placements.mover.turn():
            self._context.moving = True

    def _answer_pending(self) -> None:
        while self._puts and self._puts[0].move.settled:
            self._end_placed_put(self._puts.popleft())
        while self._pending and self._pending[0][2].may_go:
            opcode, request_id, response = self._pending.popleft()
            response = response.settled()
            if not response.may_go:  # it was read, and now has to be moved
                self._pending.appendleft((opcode, request_id, response))
                continue
            self._answer(opcode, request_id, response)
        if not self._pending and not self._puts:
            self._context.waiting.discard(self)
        self._consume()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (AuthError, RemoteProtocolError) as error:
            cause = "auth" if isinstance(error, AuthError) else "protocol"
            self._context.errors[cause] += 1
            peer = self._peer()
            words = f"connection of {peer} closed: {error}"
            limited_event(_LOG, cause, "session_error", words, cause=cause, peer=peer)
            self.close()
        except OSError as error:
            self._context.errors["lost"] += 1
            _LOG.log(logging.DEBUG, "lost", "connection of %s lost: %s", self._peer(), error)
            self.close()
        except Exception:  # noqa: BLE001
            # A bug here must not take the lane, and with it every other client, down.
            self._context.errors["internal"] += 1
            _LOG.error("internal", "internal error; connection of %s closed", self._peer(), exc_info=True)
            self.close()

    def check(self, now_s: float) -> None:
        """Closes a peer that left a handshake or a frame unfinished for too long."""
        if (self._pending or self._puts) and not self._outbox:
            return  # it is the drive that is waited for, or what moves
        bound_s = limits.HANDSHAKE_S if self.phase in (Phase.HELLO, Phase.PROOF) else limits.STALL_S
        if not self.idle and now_s - self.progress_s > bound_s:
            self._context.errors["stalled"] += 1
            words = f"connection of {self._peer()} closed: nothing moved for {bound_s:.0f} s"
            limited_event(_LOG, "stalled", "session_error", words, cause="stalled", peer=self._peer())
            self.close()

    def close(self) -> None:
        """Gives back what the connection held. Idempotent."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        reservations = [self._reservation, *(put.reservation for put in self._puts)]
        reads = [*self._outbox.clear(), *(response.read for _, _, response in self._pending)]
        for _, _, response in self._pending:
            if response.reading is not None:
                response.reading.abandon()
        engine = self._context.engine

        def give_back() -> None:
            for reservation in reservations:
                if reservation is not None:
                    engine.abort(reservation)
            for read in reads:
                if read is not None:
                    engine.release(read)

        self._reservation = None
        self._puts.clear()
        if self._placements is None:
            give_back()
        else:
            self._placements.close(give_back)  # not before nothing moves to or from it any more
        self._pending.clear()
        self._context.waiting.discard(self)
        self._payload = None
        self._inbound.close()
        self._session.close()
        self.sock.close()

    def _peer(self) -> str:
        """For log lines: what the client said of itself, once it has proved that it holds the key."""
        if self.agent:
            return self.agent
        with contextlib.suppress(OSError):
            address = self.sock.getpeername()
            if isinstance(address, tuple):
                return f"a client at {address[0]}"
        return "an unknown client"

    # -- in -----------------------------------------------------------------------------------------------------------
    def _receive(self) -> None:
        need = self._need()
        if not self._inbound.has(need):
            try:
                size = self._inbound.receive(need)
            except BlockingIOError:
                return
            if not size:
                if not self._inbound.empty:
                    raise ConnectionResetError("closed in the middle of a frame")
                self.close()
                return
        self._consume()

    def _need(self) -> int:
        return self._inbound.frame_need() if self.phase is Phase.FRAMES else self._inbound.handshake_need()

    def _consume(self) -> None:
        """Handles every frame that is whole, until output is pending or a payload begins."""
        while not self.closed and not self._outbox and not self._crowded and self.phase is not Phase.PAYLOAD:
            need = self._need()
            if not self._inbound.has(need) or self._crowded:  # it is known only now what the next frame is
                return
            message = self._inbound.take(need)
            if self.phase is Phase.HELLO:
                self._hello(message)
            elif self.phase is Phase.PROOF:
                self._proof(message)
            else:
                header, self._inbound.header = self._inbound.header, None
                assert header is not None
                self._frame(header, message)

    # -- handshake ----------------------------------------------------------------------------------------------------
    def _hello(self, message: bytes) -> None:
        self._session.receive_message(message)
        refusal = refusal_of_hello(self._session, self._context, self._peer())
        if refusal is not None:
            self._closing = True
            self._queue([memoryview(refusal)], None)
            return
        self.phase = Phase.PROOF
        self._queue([memoryview(self._session.send_challenge(self._context.lane))], None)

    def _proof(self, message: bytes) -> None:
        session, context = self._session, self._context
        session.receive_message(message)
        assert session.hello is not None
        self.agent = session.hello.agent
        self.phase = Phase.FRAMES
        self.namespace, answer = open_namespace(session.hello, context)
        if self.namespace is None:
            self._closing = True
        elif self._local:
            mover = ShmMover(
                turn_bytes=limits.TURN_BYTES,
                regions_max=limits.SHM_REGIONS_MAX,
                guarded=context.shm_guarded,
            )
            self._placements = Placements(context.handler, mover, self.transport)
        self._respond(Opcode.WELCOME, 0, answer)

    # -- frames -------------------------------------------------------------------------------------------------------
    def _frame(self, header: Header, message: bytes) -> None:
        tag_at = len(message) - wire.TAG_BYTES
        self._session.open(header, memoryview(message)[:tag_at], message[tag_at:])
        metadata = message[wire.HEADER_BYTES : tag_at]
        assert self.namespace is not None
        if header.flags & Flag.RESPONSE:
            raise RemoteProtocolError("a response from a client")
        self._moves = header.opcode in _MOVING
        if header.flags & Flag.PLACED or header.opcode >= Opcode.REGISTER_REGION:
            self._placed_frame(header, metadata)
            return
        if header.opcode != Opcode.PUT:
            response = self._context.handler.handle(self.namespace, header, metadata, self.transport)
            self._respond(header.opcode, header.request_id, response)
            return
        self._put_begun_s = time.perf_counter()
        self._reservation, lengths = self._context.handler.begin_put(self.namespace, header, metadata, self.transport)
        self._header = header
        self._payload = Intake(self._reservation, lengths, self._context.drain)
        self.phase = Phase.PAYLOAD
        self._inbound.pour(self._payload)
        if self._payload.left:
            self._wakeups.expect(self._payload.left)
        else:
            self._end_put()

    def _placed_frame(self, header: Header, metadata: bytes) -> None:
        """A frame without a payload that is about moving one."""
        if header.payload_bytes:
            raise RemoteProtocolError(f"operation 0x{header.opcode:02x} with a payload that the server is to move")
        placements, response = self._placements, None
        if header.opcode == Opcode.CONNECT_RDMA and not self._local:
            response = self._connect(self._context.rdma, "rdma", metadata)
        elif placements is not None and header.opcode == Opcode.REGISTER_REGION:
            response = placements.register(metadata, self._inbound.claim)
        elif placements is not None and header.opcode == Opcode.GET:
            assert self.namespace is not None
            response = self._context.handler.handle(
                self.namespace, header, metadata, placements.transport, placements.get
            )
        elif placements is not None and header.opcode == Opcode.PUT:
            self._begin_placed_put(placements, header, metadata)
            return
        if response is None:
            text = f"this session moves nothing for operation 0x{header.opcode:02x}"
            response = refuse(ErrorCode.UNSUPPORTED_OPCODE, text)
        self._respond(header.opcode, header.request_id, response)

    def _connect(self, source: MoverSource | None, transport: str, metadata: bytes) -> Response | None:
        if source is None:
            return None
        try:
            mover, answer = source.connect(metadata, self.agent)
        except MoverUnavailableError as error:
            return refuse(ErrorCode.LIMIT_EXCEEDED, str(error))
        replaced, self._placements = self._placements, Placements(self._context.handler, mover, transport)
        if replaced is not None:
            replaced.close(lambda: None)  # what it was moving fails when nothing of it moves any more
        return Response(answer)

    def _begin_placed_put(self, placements: Placements, header: Header, metadata: bytes) -> None:
        assert self.namespace is not None
        begun = placements.begin_put(self.namespace, header, metadata)
        self._puts.append(begun)
        if begun.move.settled and len(self._puts) == 1:
            self._end_placed_put(self._puts.popleft())
        else:
            self._context.waiting.add(self)
            self._context.moving = True

    def _end_placed_put(self, put: PlacedPut) -> None:
        assert self._placements is not None
        self._respond(put.header.opcode, put.header.request_id, self._placements.end_put(put))

    def _receive_payload(self) -> None:
        payload = self._payload
        assert payload is not None
        try:
            size = self.sock.recvmsg_into(payload.window(self._context.turn_bytes))[0]
        except BlockingIOError:
            return
        if not size:
            raise ConnectionResetError("closed in the middle of a payload")
        payload.advance(size)
        self._wakeups.expect(payload.left)
        if payload.left:
            payload.verify()
        else:
            self._end_put()

    def _end_put(self) -> None:
        header, self._header = self._header, None
        reservation, self._reservation = self._reservation, None
        self._payload = None
        self.phase = Phase.FRAMES
        assert header is not None
        response = self._context.handler.end_put(reservation, header, self._put_begun_s, self.transport)
        self._respond(header.opcode, header.request_id, response)

    # -- out ----------------------------------------------------------------------------------------------------------
    def _respond(self, opcode: int, request_id: int, response: Response) -> None:
        if self._pending or not response.may_go:
            self._pending.append((opcode, request_id, response))
            self._context.waiting.add(self)
            if response.move is not None:
                self._context.moving = True
        else:
            self._answer(opcode, request_id, response.settled())

    def _answer(self, opcode: int, request_id: int, response: Response) -> None:
        sealed = self._session.seal(
            opcode,
            count=response.count,
            metadata=response.metadata,
            payload_bytes=response.payload_bytes,
            flags=response.flags,
            request_id=request_id,
        )
        sent = 0
        if response.read is None and not self._outbox:
            sent = self._outbox.send_whole(sealed)
            if sent == len(sealed) and not self._closing:
                response.sent()
                return
        self._queue([memoryview(sealed)[sent:], *response.views], response.read, response)

    def _queue(self, views: list[memoryview], read: ReadBatch | None, response: Response | None = None) -> None:
        self._outbox.add(views, read, response)
        self._send()

    def _send(self) -> None:
        self._outbox.send(self._context.turn_bytes)
        if not self._outbox and self._closing:
            self.close()
