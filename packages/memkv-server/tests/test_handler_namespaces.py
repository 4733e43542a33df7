# SPDX-License-Identifier: Apache-2.0
"""Sessions whose namespace is dropped beneath them, and what they ask for is counted."""

from __future__ import annotations

import pytest

from memkv_core import wire
from memkv_core.digests import digest
from memkv_core.errors import RemoteProtocolError
from memkv_core.wire import Header, Opcode, Status
from memkv_server.engine import DriveSet, Namespace
from memkv_server.handler import Handler, Response


@pytest.fixture
def handler() -> Handler:
    return Handler(DriveSet.over("memory", [], 8 << 20, 256 << 10))


def opened(handler: Handler, identity: bytes = b"{}") -> Namespace:
    namespace = handler.engine.open_namespace("n", identity)
    assert namespace is not None
    return namespace


def ask(handler: Handler, namespace: Namespace, keys: list[bytes]) -> list[int]:
    """GET; its statuses."""
    metadata = wire.encode_get(keys, [100] * len(keys))
    response = handler.handle(namespace, Header(Opcode.GET, 0, 0, 0, len(keys), len(metadata), 0), metadata)
    assert response.read is not None
    handler.engine.release(response.read)
    return list(response.metadata[: len(keys)])


def begin_put(handler: Handler, namespace: Namespace, key: bytes, value: bytes) -> Response:
    """PUT; its response."""
    metadata = wire.encode_put([key], [len(value)], [digest([memoryview(value)], 0)], None)
    header = Header(Opcode.PUT, 0, 0, 0, 1, len(metadata), len(value))
    reservation, _lengths = handler.begin_put(namespace, header, metadata)
    assert reservation is not None
    extent = reservation.extents[0]
    assert extent is not None
    extent[:] = value
    return handler.end_put(reservation, header)


def test_a_session_goes_on_with_the_empty_namespace(handler: Handler) -> None:
    namespace, other_session = opened(handler), opened(handler)
    begin_put(handler, namespace, b"k", b"value")
    assert ask(handler, namespace, [b"k", b"absent"]) == [Status.HIT, Status.MISS]
    for _ in range(3):
        assert handler.engine.drop_namespace("n") is not None
        assert ask(handler, namespace, [b"k"]) == [Status.MISS]
        assert begin_put(handler, other_session, b"k", b"value").metadata == bytes([Status.HIT])
        assert handler.engine.drop_namespace("n") is not None
        assert begin_put(handler, other_session, b"k", b"value").metadata == bytes([Status.HIT])
        assert ask(handler, namespace, [b"k"]) == [Status.HIT]


def test_a_session_of_another_identity_than_the_name_has_now_ends(handler: Handler) -> None:
    namespace = opened(handler, b"bf16")
    begin_put(handler, namespace, b"k", b"bf16")
    handler.engine.drop_namespace("n")
    begin_put(handler, opened(handler, b"fp16"), b"k", b"fp16")
    with pytest.raises(RemoteProtocolError, match="'n' was dropped, and has another identity now"):
        ask(handler, namespace, [b"k"])
    with pytest.raises(RemoteProtocolError, match="has another identity now"):
        begin_put(handler, namespace, b"k", b"bf16")


def test_gets_are_counted_by_namespace(handler: Handler) -> None:
    namespace = opened(handler)
    begin_put(handler, namespace, b"k", b"value")
    ask(handler, namespace, [b"k", b"absent", b"k"])
    ask(handler, namespace, [b"absent"])
    (row,) = handler.engine.usage()["namespaces"]
    assert (row["name"], row["hits"], row["misses"]) == ("n", 2, 2)
    assert handler.engine.list_namespaces("", 10) == [row]
