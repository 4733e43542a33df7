# SPDX-License-Identifier: Apache-2.0
"""How a lane receives a client: what it is refused for, and the WELCOME it gets otherwise.

The states of a session and its socket are ``connection``'s; here is what is looked at, counted and logged in them.
"""

from __future__ import annotations

import json
import logging
from typing import Final

from memkv_core import wire
from memkv_core._version import __version__
from memkv_core.errors import StorageError
from memkv_core.handshake import Hello
from memkv_core.limits import VALUE_BYTES_MAX
from memkv_core.log import RateLimitedLog
from memkv_core.same_host import host_digest
from memkv_core.session import Session
from memkv_core.wire import ErrorCode, Flag
from memkv_server.engine.base import Namespace
from memkv_server.events import limited_event
from memkv_server.handler import Response
from memkv_server.lane_context import LaneContext

_LOG: Final = RateLimitedLog(logging.getLogger("memkv.server.connection"))  # whose sessions these are


def refusal_of_hello(session: Session, context: LaneContext, peer: str) -> bytes | None:
    """The message that refuses a client after its HELLO; None: it is to be challenged."""
    refusal = session.refusal_of_hello()
    if refusal is None and context.draining:
        refusal = ErrorCode.DRAINING, "the node is going down"
    if refusal is None and context.crowded():
        refusal = ErrorCode.BUSY, "too many connections"
    if refusal is None:
        return None
    if refusal[0] == ErrorCode.AUTH_FAILED:
        context.errors["auth"] += 1
    words, cause = f"session of {peer} refused: {refusal[1]}", ErrorCode(refusal[0]).name.lower()
    limited_event(_LOG, refusal[1], "session_refused", words, cause=cause, peer=peer)
    return session.send_refusal(*refusal)


def open_namespace(hello: Hello, context: LaneContext) -> tuple[Namespace | None, Response]:
    """The namespace of a client that has proved to hold the key, and its WELCOME; None: the answer says why not."""
    try:
        namespace = context.engine.open_namespace(hello.namespace, hello.identity)
    except StorageError as error:
        _LOG.error("storage", "storage: %s", error)
        return None, _refuse(hello, ErrorCode.STORAGE, "the namespace could not be recorded")
    if namespace is None:
        context.errors["identity"] += 1
        return None, _refuse(hello, ErrorCode.IDENTITY_MISMATCH, "another identity is recorded")
    return namespace, Response(json.dumps(_welcome(hello, context), separators=(",", ":")).encode())


def _refuse(hello: Hello, code: ErrorCode, why: str) -> Response:
    text = f"namespace {hello.namespace!r}: {why}"
    words, cause = f"session of {hello.agent} refused: {text}", code.name.lower()
    limited_event(_LOG, hello.namespace, "session_refused", words, cause=cause, peer=hello.agent)
    return Response(wire.encode_error(code, text), Flag.RESPONSE | Flag.ERROR)


def _welcome(hello: Hello, context: LaneContext) -> dict[str, object]:
    welcome: dict[str, object] = {
        "version": __version__,
        "lane": context.lane,
        "lanes": context.lane_count,
        "value_bytes_max": VALUE_BYTES_MAX,
    }
    if context.shm is not None:
        welcome["shm"] = {**context.shm, "host": host_digest(hello.key_id)}
    if context.rdma is not None and (offer := context.rdma.offer()) is not None:
        welcome["rdma"] = offer
    return welcome
