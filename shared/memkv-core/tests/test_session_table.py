# SPDX-License-Identifier: Apache-2.0
"""Every (role, state, event) of a session, sent and received; the table was written from the text, not the code."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from memkv_core import auth, handshake, wire
from memkv_core.errors import AuthError, LocalProtocolError, RefusedError, RemoteProtocolError
from memkv_core.session import Event, Role, Session, State
from memkv_core.wire import Flag, Opcode

KEY = bytes(range(32))

# (state, event) -> (who may send it, the state after it, on both sides)
ALLOWED: dict[tuple[State, Event], tuple[set[Role], State]] = {
    (State.START, Event.HELLO): ({Role.CLIENT}, State.HELLO),
    (State.HELLO, Event.CHALLENGE): ({Role.SERVER}, State.CHALLENGED),
    (State.HELLO, Event.REFUSAL): ({Role.SERVER}, State.CLOSED),
    (State.CHALLENGED, Event.PROOF): ({Role.CLIENT}, State.PROVEN),
    (State.PROVEN, Event.WELCOME): ({Role.SERVER}, State.OPEN),
    (State.OPEN, Event.FRAME): ({Role.CLIENT, Role.SERVER}, State.OPEN),
}


def other(role: Role) -> Role:
    return Role.SERVER if role is Role.CLIENT else Role.CLIENT


def send(session: Session, event: Event) -> bytes:
    senders: dict[Event, Callable[[], bytes]] = {
        Event.HELLO: session.send_hello,
        Event.CHALLENGE: lambda: session.send_challenge(0),
        Event.PROOF: session.send_proof,
        Event.REFUSAL: lambda: session.send_refusal(7, "too many connections"),
        Event.WELCOME: lambda: session.seal(Opcode.WELCOME, metadata=b"{}", flags=Flag.RESPONSE),
        Event.FRAME: lambda: session.seal(Opcode.PING),
    }
    return senders[event]()


def receive(session: Session, event: Event, message: bytes) -> None:
    if event in (Event.WELCOME, Event.FRAME):
        session.open(wire.decode_header(message), message[: -wire.TAG_BYTES], message[-wire.TAG_BYTES :])
        return
    session.receive_message(message)
    if event is Event.HELLO and session.role is Role.SERVER:
        assert session.refusal_of_hello() is None


def pair_in(state: State) -> dict[Role, Session]:
    """A client and a server that have come as far as ``state`` together."""
    pair = {
        Role.CLIENT: Session.client(KEY, namespace="default"),
        Role.SERVER: Session.server(auth.Keyring([KEY])),
    }
    way = [
        (State.HELLO, Role.CLIENT, Event.HELLO),
        (State.CHALLENGED, Role.SERVER, Event.CHALLENGE),
        (State.PROVEN, Role.CLIENT, Event.PROOF),
        (State.OPEN, Role.SERVER, Event.WELCOME),
    ]
    if state is State.CLOSED:
        for session in pair.values():
            session.close()
    for reached, sender, event in way:
        if pair[Role.CLIENT].state is state:
            break
        receive(pair[other(sender)], event, send(pair[sender], event))
        assert {session.state for session in pair.values()} == {reached}
    assert {session.state for session in pair.values()} == {state}
    return pair


def some_message(event: Event) -> bytes:
    """A message of the kind, well-formed, from no session in particular."""
    if event in (Event.WELCOME, Event.FRAME):
        opcode = Opcode.WELCOME if event is Event.WELCOME else Opcode.PING
        return wire.encode_header(opcode, 0, 0, 0, 0, 0, 0) + bytes(wire.TAG_BYTES)
    if event is Event.HELLO:
        return Session.client(KEY, namespace="default").send_hello()
    return {
        Event.CHALLENGE: handshake.encode_challenge(1, 0, bytes(32), bytes(32)),
        Event.PROOF: handshake.encode_proof(1, bytes(32)),
        Event.REFUSAL: handshake.encode_refusal(1, 1, 7, "too many connections"),
    }[event]


EVERY = list(product(Role, State, Event))


def name(value: object) -> str:
    return value.name if isinstance(value, Role | State | Event) else str(value)


def test_the_table_is_whole() -> None:
    assert len(EVERY) == 2 * 6 * 6


@pytest.mark.parametrize(("role", "state", "event"), EVERY, ids=name)
def test_sent(role: Role, state: State, event: Event) -> None:
    pair = pair_in(state)
    senders, following = ALLOWED.get((state, event), (set(), state))
    if role not in senders:
        with pytest.raises(LocalProtocolError):
            send(pair[role], event)
        assert pair[role].state is State.CLOSED
        return
    message = send(pair[role], event)
    assert pair[role].state is following
    if event is Event.REFUSAL:
        with pytest.raises(RefusedError) as caught:
            receive(pair[other(role)], event, message)
        assert caught.value.code == 7
    else:
        receive(pair[other(role)], event, message)
    assert pair[other(role)].state is following


@pytest.mark.parametrize(("role", "state", "event"), EVERY, ids=name)
def test_received_out_of_place(role: Role, state: State, event: Event) -> None:
    """What the peer may not send here is refused for that alone; what it may, for not being authentic."""
    pair = pair_in(state)
    senders, _ = ALLOWED.get((state, event), (set(), state))
    if other(role) in senders and event in (Event.HELLO, Event.REFUSAL):
        return  # needs no authentication: test_sent has it
    with pytest.raises(RemoteProtocolError) as caught:
        receive(pair[role], event, some_message(event))
    assert isinstance(caught.value, AuthError) == (other(role) in senders)
    assert pair[role].state is State.CLOSED


@pytest.mark.parametrize("role", Role, ids=name)
@pytest.mark.parametrize("event", Event, ids=name)
def test_nothing_revives_a_closed_session(role: Role, event: Event) -> None:
    pair = pair_in(State.OPEN)
    with pytest.raises(LocalProtocolError):
        send(pair[role], Event.HELLO)
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            send(pair[role], event)
        with pytest.raises(RemoteProtocolError):
            receive(pair[role], event, some_message(event))
        assert pair[role].state is State.CLOSED
