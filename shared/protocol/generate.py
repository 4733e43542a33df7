# SPDX-License-Identifier: Apache-2.0
"""Writes the golden vectors: ``python shared/protocol/generate.py`` (``--check`` compares and changes nothing).

The vectors are the contract between the implementations of the protocol. A change of their bytes is a change of the
protocol: it needs a new version, not a new run of this script. Everything random is fixed here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from memkv_core import auth, digests, handshake, places, router, wire
from memkv_core.session import Session
from memkv_core.wire import Flag, Opcode, Status

VECTORS = Path(__file__).parent / "vectors"
KEY = bytes(range(32))
CLIENT_NONCE = bytes(range(100, 132))
SERVER_NONCE = bytes(range(200, 232))
NAMESPACE = "auto-00112233445566778899aabbccddeeff"
IDENTITY = b'{"dtype":"bfloat16","model":"org/tiny"}'


def sessions() -> tuple[Session, Session, dict[str, bytes]]:
    """A client and a server session joined by hand, and what passed between them."""
    client = Session.client(KEY, namespace=NAMESPACE, identity=IDENTITY, lane=1, agent="vectors/1", nonce=CLIENT_NONCE)
    server = Session.server(auth.Keyring([KEY]), nonce=SERVER_NONCE)
    passed = {"hello": client.send_hello()}
    server.receive_message(passed["hello"])
    assert server.refusal_of_hello() is None
    passed["challenge"] = server.send_challenge(1)
    client.receive_message(passed["challenge"])
    passed["proof"] = client.send_proof()
    server.receive_message(passed["proof"])
    welcome = b'{"version":"1.0.0","lane":1,"lanes":2,"value_bytes_max":268435456}'
    passed["welcome"] = server.seal(Opcode.WELCOME, metadata=welcome, flags=Flag.RESPONSE)
    deliver(client, passed["welcome"])
    return client, server, passed


def deliver(session: Session, frame: bytes) -> None:
    """Has a session open a frame that its peer sealed."""
    session.open(wire.decode_header(frame), frame[: -wire.TAG_BYTES], frame[-wire.TAG_BYTES :])


def handshake_vectors() -> dict[str, Any]:
    """handshake.json."""
    _, _, passed = sessions()
    keys = auth.session_keys(KEY, passed["hello"], passed["challenge"])
    refusals = [(code, text) for code, text in ((1, "unknown auth key"), (2, "the client speaks protocol 7 to 9"))]
    return {
        "auth_key": KEY.hex(),
        "key_id": auth.key_id(KEY).hex(),
        "admin_token": auth.admin_token(KEY),
        "client_nonce": CLIENT_NONCE.hex(),
        "server_nonce": SERVER_NONCE.hex(),
        "lane": 1,
        "namespace": NAMESPACE,
        "agent": "vectors/1",
        "identity": IDENTITY.decode(),
        "messages": {name: message.hex() for name, message in passed.items()},
        "session_keys": {
            "client_to_server": keys.client_to_server.hex(),
            "server_to_client": keys.server_to_client.hex(),
        },
        "refusals": [
            {"code": code, "text": text, "message": handshake.encode_refusal(1, 1, code, text).hex()}
            for code, text in refusals
        ],
    }


# (client's lowest and highest version, server's): of the same release, one of them older, and too far apart.
NEGOTIATIONS = {
    "the same": ((1, 1), (1, 1)),
    "older client, newer server": ((1, 1), (1, 3)),
    "newer client, older server": ((1, 2), (1, 1)),
    "both newer, the client ahead": ((2, 3), (1, 2)),
    "both newer, the server ahead": ((1, 2), (2, 3)),
    "the client is too old": ((1, 1), (2, 3)),
    "the server is too old": ((2, 3), (1, 1)),
}


def spoken(versions: tuple[int, int], do: Callable[[], Any]) -> Any:
    """What one side does while it speaks these versions."""
    before = wire.PROTOCOL_MIN, wire.PROTOCOL_MAX
    wire.PROTOCOL_MIN, wire.PROTOCOL_MAX = versions  # type: ignore[misc]
    try:
        return do()
    finally:
        wire.PROTOCOL_MIN, wire.PROTOCOL_MAX = before  # type: ignore[misc]


def negotiation_vectors() -> dict[str, Any]:
    """negotiation.json; keys, nonces and the rest are those of handshake.json."""
    cases = []
    for name, (client_speaks, server_speaks) in NEGOTIATIONS.items():
        given = {"namespace": NAMESPACE, "identity": IDENTITY, "lane": 1, "agent": "vectors/1", "nonce": CLIENT_NONCE}
        client = spoken(client_speaks, lambda given=given: Session.client(KEY, **given))  # type: ignore[misc]
        server = Session.server(auth.Keyring([KEY]), nonce=SERVER_NONCE)
        hello = client.send_hello()
        server.receive_message(hello)
        refusal = spoken(server_speaks, server.refusal_of_hello)
        case: dict[str, Any] = {"name": name, "client": client_speaks, "server": server_speaks, "hello": hello.hex()}
        if refusal is None:
            case |= {"version": server.version, "answer": server.send_challenge(1).hex()}
        else:
            said = spoken(server_speaks, lambda server=server, refusal=refusal: server.send_refusal(*refusal))  # type: ignore[misc]
            case |= {"version": None, "code": refusal[0], "text": refusal[1], "answer": said.hex()}
        cases.append(case)
    return {"cases": cases}


def requests() -> list[tuple[str, int, int, int, int, bytes, int]]:
    """(name, opcode, flags, kind, count, metadata, payload bytes) of each request."""
    even = [b"block-%04d" % number for number in range(3)]
    uneven = [b"a", b"bc" * 50, b"k" * 512]
    values = [b"x" * 64, b"", b"y" * 100]
    xxh3 = [digests.digest([memoryview(value)], 0) for value in values]
    sha256 = [digests.digest([memoryview(value)], 1) for value in values]
    lengths = [len(value) for value in values]
    metas = [b"", b"shape=[2,16]", b"m" * 4096]
    return [
        ("ping", Opcode.PING, 0, 0, 0, b"", 0),
        ("stat", Opcode.STAT, 0, 0, 0, b"", 0),
        ("put, keys of one length, xxh3", Opcode.PUT, 0, 0, 3, wire.encode_put(even, lengths, xxh3, None), 164),
        ("put, keys of several lengths", Opcode.PUT, 0, 0, 3, wire.encode_put(uneven, lengths, xxh3, None), 164),
        ("put with meta, sha256", Opcode.PUT, Flag.META, 1, 3, wire.encode_put(even, lengths, sha256, metas), 164),
        ("get", Opcode.GET, 0, 0, 3, wire.encode_get(even, [64, 0, 4096]), 0),
        ("get with meta", Opcode.GET, Flag.META, 0, 3, wire.encode_get(uneven, [64, 0, 4096]), 0),
        ("exists", Opcode.EXISTS, 0, 0, 3, wire.encode_keys(uneven), 0),
        ("lookup", Opcode.LOOKUP, 0, 0, 3, wire.encode_keys(even), 0),
        ("delete", Opcode.DELETE, 0, 0, 1, wire.encode_keys(even[:1]), 0),
        ("verify", Opcode.VERIFY, 0, 0, 3, wire.encode_keys(even), 0),
    ]


def responses() -> list[tuple[str, int, int, int, int, bytes, int]]:
    """The same of each response."""
    zero = bytes(wire.DIGEST_BYTES)
    hit = digests.digest([memoryview(b"x" * 64)], 0)
    statuses = bytes([Status.HIT, Status.MISS, Status.TOO_LONG])
    get = wire.encode_get_response(statuses, bytes(3), [64, 0, 0], [hit, zero, zero], None)
    get_meta = wire.encode_get_response(statuses, bytes(3), [64, 0, 0], [hit, zero, zero], [b"shape=[2,16]", b"", b""])
    done, failed = Flag.RESPONSE, Flag.RESPONSE | Flag.ERROR
    return [
        ("pong", Opcode.PING, done, 0, 0, b"", 0),
        ("put", Opcode.PUT, done, 0, 3, bytes([Status.HIT, Status.PRESENT, Status.BAD_DIGEST]), 0),
        ("get", Opcode.GET, done, 0, 3, get, 64),
        ("get with meta", Opcode.GET, done | Flag.META, 0, 3, get_meta, 64),
        ("exists", Opcode.EXISTS, done, 0, 3, bytes([Status.HIT, Status.MISS, Status.HIT]), 0),
        ("lookup", Opcode.LOOKUP, done, 0, 3, (2).to_bytes(4, "little"), 0),
        ("error: storage", Opcode.PUT, failed, 0, 0, wire.encode_error(10, "the drive takes no writes"), 0),
        ("error: unknown operation", 0x7F, failed, 0, 0, wire.encode_error(6, "operation 0x7f"), 0),
    ]


def frame_vectors() -> dict[str, Any]:
    """frames.json."""
    client, server, _ = sessions()
    keys = auth.session_keys(KEY, *(sessions()[2][name] for name in ("hello", "challenge")))
    frames = []
    for sender, direction, rows, first in ((client, 0, requests(), 0), (server, 1, responses(), 1)):
        for number, (name, opcode, flags, kind, count, metadata, payload_bytes) in enumerate(rows):
            sealed = sender.seal(
                opcode,
                flags=flags,
                kind=kind,
                count=count,
                metadata=metadata,
                payload_bytes=payload_bytes,
                request_id=number,
            )
            frames.append(
                {
                    "name": name,
                    "direction": direction,
                    "sequence": first + number,
                    "opcode": int(opcode),
                    "flags": int(flags),
                    "kind": kind,
                    "request_id": number,
                    "count": count,
                    "payload_bytes": payload_bytes,
                    "metadata": metadata.hex(),
                    "frame": sealed.hex(),
                }
            )
    return {"keys": [keys.client_to_server.hex(), keys.server_to_client.hex()], "frames": frames}


def placement_vectors() -> dict[str, Any]:
    """placement.json."""
    memberships: list[tuple[list[str], list[int] | None, int]] = [
        (["10.0.0.1:9900"], None, 1),
        (["host-a:9900", "host-b:9900"], None, 1),
        (["host-b:9900", "host-a:9900"], None, 2),
        ([f"memkv-{number}.memkv:9900" for number in range(8)], None, 4),
        (["small:9900", "large:9900", "medium:9900"], [1, 4, 2], 3),
    ]
    keys = [b"key-%05d" % number for number in range(10_000)]
    seed = router.namespace_seed(NAMESPACE)
    hashes = [router.key_hash(key, seed) for key in keys]
    rows = []
    for servers, weights, lane_count in memberships:
        placed = router.Router(servers, replicas=min(2, len(servers)), weights=weights)
        orders = [placed.place(hashes, order) for order in range(placed.replicas)]
        rows.append(
            {
                "servers": servers,
                "weights": weights,
                "lanes": lane_count,
                "server_of_key": ["".join(map(str, order)) for order in orders],
                "lane_of_key": "".join(map(str, router.lanes_of(hashes, lane_count))),
            }
        )
    return {
        "namespace": NAMESPACE,
        "seed": f"{seed:016x}",
        "key_format": "key-%05d for 0 to 9999",
        "hashes_of_first_keys": [f"{hashed:016x}" for hashed in hashes[:16]],
        "memberships": rows,
    }


def digest_vectors() -> dict[str, Any]:
    """digests.json."""
    sizes = [0, 1, 3, 16, 17, 128, 129, 240, 241, 1024, 4097, 65_536]
    rows = []
    for size in sizes:
        value = bytes((7 * number + size) % 251 for number in range(size))
        view = [memoryview(value)]
        rows.append({"size": size, "xxh3": digests.digest(view, 0).hex(), "sha256": digests.digest(view, 1).hex()})
    return {"value": "byte i of a value of n bytes is (7 * i + n) % 251", "digests": rows}


def place_vectors() -> dict[str, Any]:
    """places.json."""
    counts, rows = [1, 0, 2], [(7, 0, 64), (7, 4096, 4000), (2**32 - 1, 2**40, 96)]
    placed = places.encode_places(places.Places(np.array(counts, np.uint16), np.array(rows, places.PART)))
    regions = [
        places.RegionRequest(7, 3, places.RegionKind.RDMA, 1 << 30, address=0x7F00_0000_1000, rkey=0x1234_5678),
        places.RegionRequest(8, 1, places.RegionKind.SHM, 1 << 20, nonce=bytes(range(32))),
        places.RegionRequest(7, 0, places.RegionKind.RDMA, 0),
    ]
    gid = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])
    endpoint = places.Endpoint(0x11, 0xABCDEF, gid, 0, 5, 1, depth=64, reads=16, device=0)
    return {
        "sizes": [64, 0, 4096],
        "counts": counts,
        "parts": rows,
        "places": placed.hex(),
        "regions": [
            {**request._asdict(), "kind": int(request.kind), "nonce": request.nonce.hex(), "metadata": encoded.hex()}
            for request in regions
            for encoded in [places.encode_region(request)]
        ],
        "endpoint": {**endpoint._asdict(), "gid": gid.hex(), "metadata": places.encode_endpoint(endpoint).hex()},
    }


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "handshake.json": handshake_vectors,
    "negotiation.json": negotiation_vectors,
    "frames.json": frame_vectors,
    "placement.json": placement_vectors,
    "digests.json": digest_vectors,
    "places.json": place_vectors,
}


def main(check: bool) -> int:
    """Writes the vectors, or with ``check`` only compares them. The exit status."""
    differing = []
    for name, make in FILES.items():
        text = json.dumps(make(), indent=1) + "\n"
        path = VECTORS / name
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            differing.append(name)
    if differing:
        sys.stderr.write(f"these vectors differ from what the code makes: {', '.join(differing)}\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
