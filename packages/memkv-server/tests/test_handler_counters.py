# SPDX-License-Identifier: Apache-2.0
"""What a lane counts of its frames: by transport and operation, misses by cause, durations once they are sent."""

from __future__ import annotations

from memkv_core import wire
from memkv_core.digests import digest
from memkv_core.wire import Header, Opcode
from memkv_server.engine import DriveSet, Namespace
from memkv_server.handler import Handler, Response


def opened(handler: Handler) -> Namespace:
    namespace = handler.engine.open_namespace("n", b"{}")
    assert namespace is not None
    return namespace


def put(handler: Handler, key: bytes, value: bytes, received: bytes, transport: str) -> Response:
    metadata = wire.encode_put([key], [len(value)], [digest([memoryview(value)], 0)], None)
    header = Header(Opcode.PUT, 0, 0, 0, 1, len(metadata), len(value))
    reservation, _lengths = handler.begin_put(opened(handler), header, metadata, transport)
    assert reservation is not None
    extent = reservation.extents[0]
    assert extent is not None
    extent[:] = received
    return handler.end_put(reservation, header, transport=transport)


def test_counts_are_by_transport_operation_and_cause() -> None:
    handler = Handler(DriveSet.over("memory", [], 8 << 20, 256 << 10))
    put(handler, b"k", b"value", b"value", "tcp").sent()
    put(handler, b"bad", b"value", b"other", "tcp").sent()
    keys, capacities = [b"k", b"absent", b"away", b"k"], [5, 5, 5, 4]
    metadata = wire.encode_get(keys, capacities)
    got = handler.handle(opened(handler), Header(Opcode.GET, 0, 0, 0, 4, len(metadata), 0), metadata, "shm")
    counts = handler.counts()
    assert counts["tcp"]["put"]["misses"] == {"absent": 0, "corrupt": 1}
    assert (counts["tcp"]["put"]["requests"], counts["tcp"]["put"]["hits"]) == (2, 1)
    assert counts["tcp"]["put"]["bytes_in"] == 10
    assert sum(counts["tcp"]["put"]["duration"]["buckets"].values()) == 2
    assert counts["tcp"]["get"]["requests"] == 0
    shm = counts["shm"]["get"]
    assert (shm["keys"], shm["hits"], shm["bytes_out"]) == (4, 1, 5)
    assert shm["misses"] == {"absent": 2, "too_long": 1}
    assert shm["duration"]["buckets"] == {}, "it is not sent yet"
    got.sent()
    after = handler.counts()["shm"]["get"]["duration"]
    assert sum(after["buckets"].values()) == 1
    assert after["sum"] > 0
