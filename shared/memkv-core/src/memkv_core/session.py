# SPDX-License-Identifier: Apache-2.0
"""The session: a sans-IO state machine, one table for both roles. It speaks to no socket and sees no payload.

States and events (``c`` sent by the client, ``s`` by the server)::

    START ──hello c──► HELLO ──challenge s──► CHALLENGED ──proof c──► PROVEN ──welcome s──► OPEN ──┐
                         │                                                              ▲ frame c, s
                         └──refusal s──► CLOSED ◄──failure, close── (any state)         └──────────┘

A WELCOME may carry an error (another identity is recorded): the session opens, and the server closes it.

The table does not know which role it serves: an event is *sent* by one side and *received* by the other, and moves
both to the same state. Any exception of this module but LocalProtocolError (this side's bug), RemoteProtocolError and
AuthError (the peer's fault), RefusedError (the server said no) is a bug. After one of them the session is CLOSED.

A session is used by one thread at a time.
"""

from __future__ import annotations

import hmac
import struct
from enum import Enum, auto
from typing import Final, NoReturn

from memkv_core import auth, handshake, wire
from memkv_core.errors import AuthError, LocalProtocolError, RefusedError, RemoteProtocolError

_DIRECTION_CLIENT_TO_SERVER: Final = 0
_DIRECTION_SERVER_TO_CLIENT: Final = 1
_SEALED: Final = struct.Struct("<BQ")


class Role(Enum):
    """Which side of a session this is."""

    CLIENT = auto()
    SERVER = auto()


class State(Enum):
    """Where a session is; the same for both sides once a message has passed."""

    START = auto()
    HELLO = auto()
    CHALLENGED = auto()
    PROVEN = auto()
    OPEN = auto()
    CLOSED = auto()


class Event(Enum):
    """A message that passes, in whichever direction."""

    HELLO = auto()
    CHALLENGE = auto()
    PROOF = auto()
    REFUSAL = auto()
    WELCOME = auto()
    FRAME = auto()


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.START, Event.HELLO): State.HELLO,
    (State.HELLO, Event.CHALLENGE): State.CHALLENGED,
    (State.HELLO, Event.REFUSAL): State.CLOSED,
    (State.CHALLENGED, Event.PROOF): State.PROVEN,
    (State.PROVEN, Event.WELCOME): State.OPEN,
    (State.OPEN, Event.FRAME): State.OPEN,
}

SENDERS: Final[dict[Event, frozenset[Role]]] = {
    Event.HELLO: frozenset({Role.CLIENT}),
    Event.CHALLENGE: frozenset({Role.SERVER}),
    Event.PROOF: frozenset({Role.CLIENT}),
    Event.REFUSAL: frozenset({Role.SERVER}),
    Event.WELCOME: frozenset({Role.SERVER}),
    Event.FRAME: frozenset({Role.CLIENT, Role.SERVER}),
}


class Session:
    """One side of one session. Make it with ``Session.client`` or ``Session.server``."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.START
        self.hello: handshake.Hello | None = None
        self.version = 0
        self._keyring: auth.Keyring | None = None
        self._key = b""
        self._nonce = b""
        self._hello_bytes = b""
        self._challenge_bytes = b""
        self._send_mac: hmac.HMAC | None = None  # keyed; copied for each frame, which saves the key schedule
        self._receive_mac: hmac.HMAC | None = None
        self._send_sequence = 0
        self._receive_sequence = 0
        client = role is Role.CLIENT
        self._send_direction = _DIRECTION_CLIENT_TO_SERVER if client else _DIRECTION_SERVER_TO_CLIENT
        self._receive_direction = 1 - self._send_direction

    @classmethod
    def client(
        cls,
        key: bytes,
        *,
        namespace: str,
        identity: bytes = b"",
        lane: int = handshake.LANE_ANY,
        agent: str = "",
        nonce: bytes | None = None,
    ) -> Session:
        """The client's side. ``nonce`` is given by tests only."""
        session = cls(Role.CLIENT)
        session._key = key
        session.hello = handshake.Hello(
            wire.PROTOCOL_MIN,
            wire.PROTOCOL_MAX,
            lane,
            auth.key_id(key),
            nonce or auth.nonce(),
            namespace,
            agent,
            identity,
        )
        return session

    @classmethod
    def server(cls, keyring: auth.Keyring, *, nonce: bytes | None = None) -> Session:
        """The server's side. ``nonce`` is given by tests only."""
        session = cls(Role.SERVER)
        session._keyring = keyring
        session._nonce = nonce or auth.nonce()
        return session

    # -- the table ----------------------------------------------------------------------------------------------------
    def _sent(self, event: Event) -> None:
        following = TRANSITIONS.get((self.state, event))
        if following is None or self.role not in SENDERS[event]:
            self._fail(LocalProtocolError(f"{self.role.name} cannot send {event.name} in {self.state.name}"))
        self.state = following

    def _received(self, event: Event) -> None:
        following = TRANSITIONS.get((self.state, event))
        peer = Role.SERVER if self.role is Role.CLIENT else Role.CLIENT
        if following is None or peer not in SENDERS[event]:
            self._fail(RemoteProtocolError(f"{event.name} received in {self.state.name}"))
        self.state = following

    def _fail(self, error: Exception) -> NoReturn:
        self.state = State.CLOSED
        raise error

    def close(self) -> None:
        self.state = State.CLOSED

    # -- handshake ----------------------------------------------------------------------------------------------------
    def send_hello(self) -> bytes:
        self._sent(Event.HELLO)
        assert self.hello is not None
        self._hello_bytes = handshake.encode_hello(self.hello)
        return self._hello_bytes

    def receive_message(self, data: bytes) -> None:
        """Takes one whole handshake message (prefix and body)."""
        try:
            self._receive_message(data)
        except RemoteProtocolError:
            self.state = State.CLOSED
            raise

    def _receive_message(self, data: bytes) -> None:
        prefix = handshake.decode_prefix(data)
        body = data[handshake.PREFIX_BYTES :]
        if len(body) != prefix.body_bytes:
            self._fail(RemoteProtocolError("a handshake message of the wrong length"))
        if prefix.magic == handshake.HELLO:
            self._received(Event.HELLO)
            self._receive_hello(prefix, data, body)
        elif prefix.magic == handshake.CHALLENGE:
            self._received(Event.CHALLENGE)
            self._receive_challenge(prefix, data, body)
        elif prefix.magic == handshake.PROOF:
            self._received(Event.PROOF)
            self._receive_proof(prefix, body)
        else:
            self._received(Event.REFUSAL)
            text = body.decode("utf-8", "replace")
            self._fail(RefusedError(prefix.c, f"the server refused the session: {text}", remedy=remedy_of(prefix.c)))

    def _receive_hello(self, prefix: handshake.Prefix, data: bytes, body: bytes) -> None:
        self.hello = handshake.decode_hello(prefix, body)
        self._hello_bytes = data

    def refusal_of_hello(self) -> tuple[int, str] | None:
        """The server's check of a received HELLO: (code, text) where it must be refused, else None."""
        assert self.hello is not None
        assert self._keyring is not None
        version = min(self.hello.version_max, wire.PROTOCOL_MAX)
        if version < max(self.hello.version_min, wire.PROTOCOL_MIN):
            said = f"{self.hello.version_min} to {self.hello.version_max}"
            spoken = f"{wire.PROTOCOL_MIN} to {wire.PROTOCOL_MAX}"
            return wire.ErrorCode.UNSUPPORTED_VERSION, f"the client speaks protocol {said}, this server {spoken}"
        key = self._keyring.find(self.hello.key_id)
        if key is None:
            return wire.ErrorCode.AUTH_FAILED, "unknown auth key"
        self.version, self._key = version, key
        return None

    def send_challenge(self, lane: int) -> bytes:
        """The server's nonce and proof; ``refusal_of_hello`` has returned None."""
        if not self._key:
            self._fail(LocalProtocolError("a CHALLENGE before the HELLO was found good"))
        self._sent(Event.CHALLENGE)
        proof = auth.server_proof(self._key, self._hello_bytes, self.version, lane, self._nonce)
        self._challenge_bytes = handshake.encode_challenge(self.version, lane, self._nonce, proof)
        return self._challenge_bytes

    def send_refusal(self, code: int, text: str) -> bytes:
        self._sent(Event.REFUSAL)
        return handshake.encode_refusal(wire.PROTOCOL_MIN, wire.PROTOCOL_MAX, code, text)

    def _receive_challenge(self, prefix: handshake.Prefix, data: bytes, body: bytes) -> None:
        nonce, proof = handshake.decode_challenge(body)
        if not wire.PROTOCOL_MIN <= prefix.a <= wire.PROTOCOL_MAX or prefix.b:
            self._fail(RemoteProtocolError(f"the server chose protocol {prefix.a}"))
        expected = auth.server_proof(self._key, self._hello_bytes, prefix.a, prefix.c, nonce)
        if not hmac.compare_digest(proof, expected):
            self._fail(AuthError("the server's proof does not verify", remedy=remedy_of(wire.ErrorCode.AUTH_FAILED)))
        self.version = prefix.a
        self._challenge_bytes = data

    def send_proof(self) -> bytes:
        self._sent(Event.PROOF)
        self._derive()
        return handshake.encode_proof(
            self.version, auth.client_proof(self._key, self._hello_bytes, self._challenge_bytes)
        )

    def _receive_proof(self, prefix: handshake.Prefix, body: bytes) -> None:
        if prefix.b or prefix.c:
            self._fail(RemoteProtocolError("reserved bits of PROOF are set"))
        expected = auth.client_proof(self._key, self._hello_bytes, self._challenge_bytes)
        if not hmac.compare_digest(body, expected) or prefix.a != self.version:
            self._fail(AuthError("the client's proof does not verify"))
        self._derive()

    def _derive(self) -> None:
        keys = auth.session_keys(self._key, self._hello_bytes, self._challenge_bytes)
        mine, theirs = keys if self.role is Role.CLIENT else reversed(keys)
        self._send_mac = hmac.new(mine, digestmod="sha256")
        self._receive_mac = hmac.new(theirs, digestmod="sha256")

    # -- frames -------------------------------------------------------------------------------------------------------
    def seal(
        self,
        opcode: int,
        *,
        count: int = 0,
        metadata: bytes = b"",
        payload_bytes: int = 0,
        flags: int = 0,
        kind: int = 0,
        request_id: int = 0,
    ) -> bytes:
        """The next frame to send, up to its payload: header, metadata and tag."""
        if self.state is not State.OPEN or opcode == wire.Opcode.WELCOME:
            self._sent(Event.WELCOME if opcode == wire.Opcode.WELCOME else Event.FRAME)
        header = wire.encode_header(opcode, flags, kind, request_id, count, len(metadata), payload_bytes)
        sealed = header + metadata
        tag = _tag(self._send_mac, self._send_direction, self._send_sequence, sealed)
        self._send_sequence += 1
        return sealed + tag

    def open(self, header: wire.Header, sealed: bytes | memoryview, tag: bytes | memoryview) -> None:
        """Accepts a received frame: ``sealed`` is its header and metadata, ``tag`` what followed them.

        AuthError when it was altered, replayed, reordered or cut: the sequence number is counted, never read.
        """
        if self.state is not State.OPEN or header.opcode == wire.Opcode.WELCOME:
            self._received(Event.WELCOME if header.opcode == wire.Opcode.WELCOME else Event.FRAME)
        expected = _tag(self._receive_mac, self._receive_direction, self._receive_sequence, sealed)
        if not hmac.compare_digest(expected, tag):
            self._fail(AuthError("a frame's authentication code does not verify"))
        self._receive_sequence += 1


def _tag(mac: hmac.HMAC | None, direction: int, sequence: int, sealed: bytes | memoryview) -> bytes:
    assert mac is not None  # OPEN is reached through _derive only
    keyed = mac.copy()
    keyed.update(_SEALED.pack(direction, sequence) + sealed)
    return keyed.digest()


_REMEDIES: Final[dict[int, str]] = {
    wire.ErrorCode.AUTH_FAILED: "give client and server the same MEMKV_AUTH_KEY (64 hex characters)",
    wire.ErrorCode.UNSUPPORTED_VERSION: "upgrade the servers first, then the clients",
    wire.ErrorCode.IDENTITY_MISMATCH: "the namespace holds blocks of another model, dtype or layout: "
    "unset `namespace` so that it is derived, or choose another",
    wire.ErrorCode.BUSY: "raise limits.connections_max on the server or lower `connections` on the clients",
}


def remedy_of(code: int) -> str | None:
    """What an operator can do about a server's refusal, or None."""
    return _REMEDIES.get(code)
