# SPDX-License-Identifier: Apache-2.0
"""The golden vectors, computed again by hand: nothing of ``memkv_core`` is used but where a test says so.

Code and vectors could otherwise drift together, since the one makes the other.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

PROTOCOL = Path(__file__).resolve().parents[2] / "protocol"
Load = Callable[[str], dict[str, Any]]


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 of RFC 5869, 64 bytes."""
    extracted = mac(salt, key)
    first = mac(extracted, info, b"\x01")
    return first + mac(extracted, first, info, b"\x02")


def test_corpus_is_there() -> None:
    names = {path.name for path in (PROTOCOL / "vectors").glob("*.json")}
    assert names == {
        "handshake.json",
        "negotiation.json",
        "frames.json",
        "placement.json",
        "digests.json",
        "places.json",
    }
    assert (PROTOCOL / "vectors" / "PROVENANCE.md").stat().st_size > 0
    frames = json.loads((PROTOCOL / "vectors" / "frames.json").read_text())["frames"]
    assert sum(frame["direction"] == 0 for frame in frames) >= 11
    assert sum(frame["direction"] == 1 for frame in frames) >= 8
    assert {frame["opcode"] for frame in frames} >= {0x02, 0x03, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15}


def test_code_makes_the_same_vectors() -> None:
    """Uses ``memkv_core``: what it makes today is what is recorded."""
    ran = subprocess.run(
        [sys.executable, str(PROTOCOL / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_handshake(vectors: Load) -> None:
    vector = vectors("handshake.json")
    key, lane = bytes.fromhex(vector["auth_key"]), vector["lane"]
    messages = {name: bytes.fromhex(message) for name, message in vector["messages"].items()}
    client_nonce, server_nonce = bytes.fromhex(vector["client_nonce"]), bytes.fromhex(vector["server_nonce"])
    namespace, agent, identity = (vector[name].encode() for name in ("namespace", "agent", "identity"))
    key_id = mac(key, b"memkv key id v1")[:8]
    assert vector["key_id"] == key_id.hex()
    assert vector["admin_token"] == mac(key, b"memkv admin v1").hex()

    body = key_id + client_nonce + struct.pack("<BBH", len(namespace), len(agent), len(identity))
    body += namespace + agent + identity
    assert messages["hello"] == b"MKVH" + struct.pack("<BBHII", 1, 1, lane, len(body), 0) + body

    said = sha256(messages["hello"]) + bytes([1]) + struct.pack("<H", lane) + server_nonce
    body = server_nonce + mac(key, b"memkv server proof v1", said)
    assert messages["challenge"] == b"MKVC" + struct.pack("<BBHII", 1, 0, lane, 64, 0) + body

    body = mac(key, b"memkv client proof v1", sha256(messages["hello"], messages["challenge"]))
    assert messages["proof"] == b"MKVP" + struct.pack("<BBHII", 1, 0, 0, 32, 0) + body

    both = hkdf(key, sha256(messages["hello"], messages["challenge"]), b"memkv session v1")
    assert vector["session_keys"] == {"client_to_server": both[:32].hex(), "server_to_client": both[32:].hex()}

    welcome = messages["welcome"]
    metadata = welcome[32:-32]
    assert welcome[:32] == b"MKV1" + struct.pack("<BBBBIIIIQ", 0x01, 1, 0, 0, 0, 0, len(metadata), 0, 0)
    assert set(json.loads(metadata)) == {"version", "lane", "lanes", "value_bytes_max"}
    assert welcome[-32:] == mac(both[32:], struct.pack("<BQ", 1, 0), welcome[:-32])


def test_negotiation(vectors: Load) -> None:
    """By the text alone: the lower of both highest, refused where that is below either lowest."""
    golden = vectors("handshake.json")
    key, server_nonce = bytes.fromhex(golden["auth_key"]), bytes.fromhex(golden["server_nonce"])
    rest = bytes.fromhex(golden["messages"]["hello"])[6:]
    cases = vectors("negotiation.json")["cases"]
    assert [case["version"] for case in cases] == [1, 1, 1, 2, 2, None, None]
    for case in cases:
        hello, (client_min, client_max), (server_min, server_max) = case["hello"], case["client"], case["server"]
        assert bytes.fromhex(hello) == b"MKVH" + bytes([client_min, client_max]) + rest
        chosen = min(client_max, server_max)
        if chosen < max(client_min, server_min):
            text = case["text"].encode()
            expected = b"MKVE" + struct.pack("<BBHII", server_min, server_max, 2, len(text), 0) + text
            assert (case["version"], case["code"]) == (None, 2)
        else:
            said = sha256(bytes.fromhex(hello)) + bytes([chosen]) + struct.pack("<H", 1) + server_nonce
            body = server_nonce + mac(key, b"memkv server proof v1", said)
            expected = b"MKVC" + struct.pack("<BBHII", chosen, 0, 1, 64, 0) + body
            assert case["version"] == chosen
        assert bytes.fromhex(case["answer"]) == expected, case["name"]


def test_refusals(vectors: Load) -> None:
    refusals = vectors("handshake.json")["refusals"]
    assert {refusal["code"] for refusal in refusals} == {1, 2}
    for refusal in refusals:
        text = refusal["text"].encode()
        expected = b"MKVE" + struct.pack("<BBHII", 1, 1, refusal["code"], len(text), 0) + text
        assert bytes.fromhex(refusal["message"]) == expected


def test_frames(vectors: Load) -> None:
    handshake, vector = vectors("handshake.json"), vectors("frames.json")
    assert vector["keys"] == list(handshake["session_keys"].values())
    keys = [bytes.fromhex(key) for key in vector["keys"]]
    following = [0, 1]  # WELCOME was the server's frame 0
    for frame in vector["frames"]:
        direction, metadata = frame["direction"], bytes.fromhex(frame["metadata"])
        assert frame["sequence"] == following[direction], frame["name"]
        following[direction] += 1
        header = b"MKV1" + struct.pack(
            "<BBBBIIIIQ",
            *(frame[name] for name in ("opcode", "flags", "kind")),
            0,
            *(frame[name] for name in ("request_id", "count")),
            len(metadata),
            0,
            frame["payload_bytes"],
        )
        tag = mac(keys[direction], struct.pack("<BQ", direction, frame["sequence"]), header, metadata)
        assert frame["frame"] == (header + metadata + tag).hex(), frame["name"]


def test_metadata(vectors: Load) -> None:
    """The metadata of each operation, laid out by hand from the text of ``wire.md``."""
    even = b"\x0a\x00" + b"block-0000block-0001block-0002"
    uneven = b"\x00\x00" + struct.pack("<3H", 1, 100, 512) + b"a" + b"bc" * 50 + b"k" * 512
    values = [b"x" * 64, b"", b"y" * 100]
    lengths = struct.pack("<3I", 64, 0, 100)
    xxh3 = b"".join(xxhash.xxh3_128(value).digest() for value in values)
    sha = b"".join(hashlib.sha256(value).digest()[:16] for value in values)
    metas = struct.pack("<3H", 0, 12, 4096) + b"shape=[2,16]" + b"m" * 4096
    hit = bytes([1, 0, 3]) + bytes(3) + struct.pack("<3I", 64, 0, 0) + xxh3[:16] + bytes(32)
    capacities = struct.pack("<3I", 64, 0, 4096)
    expected: dict[tuple[int, str], bytes] = {
        (0, "ping"): b"",
        (0, "stat"): b"",
        (0, "put, keys of one length, xxh3"): even + lengths + xxh3,
        (0, "put, keys of several lengths"): uneven + lengths + xxh3,
        (0, "put with meta, sha256"): even + lengths + sha + metas,
        (0, "get"): even + capacities,
        (0, "get with meta"): uneven + capacities,
        (0, "exists"): uneven,
        (0, "lookup"): even,
        (0, "delete"): b"\x0a\x00block-0000",
        (0, "verify"): even,
        (1, "pong"): b"",
        (1, "put"): bytes([1, 2, 5]),
        (1, "get"): hit,
        (1, "get with meta"): hit + struct.pack("<3H", 12, 0, 0) + b"shape=[2,16]",
        (1, "exists"): bytes([1, 0, 1]),
        (1, "lookup"): struct.pack("<I", 2),
        (1, "error: storage"): struct.pack("<H", 10) + b"the drive takes no writes",
        (1, "error: unknown operation"): struct.pack("<H", 6) + b"operation 0x7f",
    }
    found = {(frame["direction"], frame["name"]): frame["metadata"] for frame in vectors("frames.json")["frames"]}
    assert found == {name: metadata.hex() for name, metadata in expected.items()}


def score(name: str, row: int, weight: int) -> int:
    return max(xxhash.xxh3_64(name.encode(), seed=row + 4096 * draw).intdigest() for draw in range(weight))


def ranked(names: list[str], weights: list[int], row: int) -> list[int]:
    return sorted(range(len(names)), key=lambda at: (-score(names[at], row, weights[at]), names[at]))


@pytest.mark.parametrize("membership", range(5))
def test_placement_of_the_first_keys(vectors: Load, membership: int) -> None:
    vector = vectors("placement.json")
    assert len(vector["memberships"]) == 5
    row = vector["memberships"][membership]
    servers, weights, lanes = row["servers"], row["weights"], row["lanes"]
    seed = xxhash.xxh3_64(vector["namespace"].encode()).intdigest()
    assert vector["seed"] == f"{seed:016x}"
    assert all(len(placed) == 10_000 for placed in [*row["server_of_key"], row["lane_of_key"]])
    assert len(row["server_of_key"]) == min(2, len(servers))
    for number in range(200):
        hashed = xxhash.xxh3_64(b"key-%05d" % number, seed=seed).intdigest()
        if number < 16:
            assert vector["hashes_of_first_keys"][number] == f"{hashed:016x}"
        order = ranked(servers, weights or [1] * len(servers), hashed % 4096)
        for replica, placed in enumerate(row["server_of_key"]):
            assert placed[number] == str(order[replica])
        lane_order = ranked([f"lane-{lane}" for lane in range(lanes)], [1] * lanes, (hashed >> 32) % 4096)
        assert row["lane_of_key"][number] == str(lane_order[0])


def test_digests(vectors: Load) -> None:
    rows = vectors("digests.json")["digests"]
    assert len(rows) >= 12
    for row in rows:
        size = row["size"]
        value = bytes((7 * number + size) % 251 for number in range(size))
        high_and_low = xxhash.xxh3_128(value).intdigest()
        assert row["xxh3"] == high_and_low.to_bytes(16, "big").hex()
        assert row["sha256"] == hashlib.sha256(value).hexdigest()[:32]


def test_places(vectors: Load) -> None:
    """Laid out by hand from the text of ``wire.md``."""
    vector = vectors("places.json")
    counts = struct.pack("<3H", *vector["counts"])
    parts = b"".join(struct.pack("<IQI", *row) for row in vector["parts"])
    assert vector["places"] == (counts + parts).hex()
    assert vector["sizes"] == [64, 0, 4000 + 96]
    assert len(vector["regions"]) == 3
    for region in vector["regions"]:
        fields = [region[name] for name in ("region", "access", "kind")]
        laid_out = struct.pack("<IBBH", *fields, 0) + struct.pack("<QQ", region["size_bytes"], region["address"])
        laid_out += struct.pack("<II", region["rkey"], 0) + bytes.fromhex(region["nonce"])
        assert region["metadata"] == laid_out.hex()
    endpoint = vector["endpoint"]
    laid_out = struct.pack("<II", endpoint["qpn"], endpoint["psn"]) + bytes.fromhex(endpoint["gid"])
    laid_out += struct.pack("<HBBH", *(endpoint[name] for name in ("lid", "mtu", "port", "depth")))
    laid_out += bytes([endpoint["reads"], endpoint["device"]])
    assert endpoint["metadata"] == laid_out.hex()
