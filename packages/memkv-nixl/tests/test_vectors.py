# SPDX-License-Identifier: Apache-2.0
"""The golden vectors of the protocol, through the plugin's own client: what it sends, and what it makes of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memkv_core import wire

Ask = Callable[..., dict[str, Any]]
Load = Callable[[str], dict[str, Any]]


def opening(vector: dict[str, Any], **changed: str) -> dict[str, Any]:
    """A request's part that opens a session as the handshake vector does."""
    given = {name: vector[name] for name in ("auth_key", "client_nonce", "lane", "namespace", "agent", "identity")}
    messages = vector["messages"]
    return {**given, "answer": messages["challenge"], "welcome": messages["welcome"], **changed}


def test_handshake(ask: Ask, vectors: Load) -> None:
    vector = vectors("handshake.json")
    answer = ask("handshake", **opening(vector))
    assert answer == {
        "key_id": vector["key_id"],
        "hello": vector["messages"]["hello"],
        "proof": vector["messages"]["proof"],
        **vector["session_keys"],
    }


def test_refusals(ask: Ask, vectors: Load) -> None:
    vector = vectors("handshake.json")
    assert len(vector["refusals"]) == 2
    for refusal in vector["refusals"]:
        answer = ask("handshake", **opening(vector, answer=refusal["message"]))
        assert answer["code"] == refusal["code"]
        assert refusal["text"] in answer["error"]


def test_versions_that_a_server_speaks_beside_or_instead_of_the_plugins(ask: Ask, vectors: Load) -> None:
    golden, seen = vectors("handshake.json"), set()
    for case in vectors("negotiation.json")["cases"]:
        answer = ask("handshake", **opening(golden, answer=case["answer"]))
        if case["client"] == [1, 1]:  # as this plugin: what it sends is the vector's HELLO
            assert case["hello"] == golden["messages"]["hello"]
            if case["version"] == 1:
                assert answer["proof"] == golden["messages"]["proof"]
                seen.add("spoken")
            else:
                assert (answer["code"], case["code"]) == (2, 2)
                assert case["text"] in answer["error"]
                assert "upgrade the servers first, then the clients" in answer["error"]
                seen.add("refused")
        elif case["version"] == 2:
            assert "the server chose protocol 2" in answer["error"]
            seen.add("not offered")
    assert seen == {"spoken", "refused", "not offered"}


@pytest.mark.parametrize("message", ["answer", "welcome"])
def test_an_altered_bit_is_found(ask: Ask, vectors: Load, message: str) -> None:
    given = opening(vectors("handshake.json"))
    altered = bytearray.fromhex(given[message])
    for at in range(len(altered)):
        altered[at] ^= 1
        answer = ask("handshake", **{**given, message: altered.hex()})
        assert "error" in answer, f"byte {at} of {message}"
        altered[at] ^= 1


def test_requests_are_sealed(ask: Ask, vectors: Load) -> None:
    frames = [frame for frame in vectors("frames.json")["frames"] if frame["direction"] == 0]
    answer = ask("seal", **opening(vectors("handshake.json")), frames=frames)
    assert len(frames) == 11
    assert answer["frames"] == [frame["frame"] for frame in frames]


def test_requests_are_encoded(ask: Ask, vectors: Load) -> None:
    seen = 0
    for frame in vectors("frames.json")["frames"]:
        opcode, count, metadata = frame["opcode"], frame["count"], bytes.fromhex(frame["metadata"])
        if frame["direction"] or not count or frame["flags"]:
            continue  # the plugin keeps no meta beside a value
        header = wire.decode_header(bytes.fromhex(frame["frame"]))
        numbers: tuple[int, ...] = ()
        digests: list[bytes] = []
        if opcode == wire.Opcode.PUT:
            keys, numbers, digests, _ = wire.decode_put(metadata, header)
        elif opcode == wire.Opcode.GET:
            keys, numbers = wire.decode_get(metadata, count)
        else:
            keys = wire.decode_keys(metadata, count)
        operation = {wire.Opcode.PUT: "put", wire.Opcode.GET: "get"}.get(opcode, "keys")
        answer = ask(
            "encode",
            operation=operation,
            keys=[key.hex() for key in keys],
            numbers=list(numbers),
            digests=[digest.hex() for digest in digests],
        )
        assert answer["metadata"] == frame["metadata"], frame["name"]
        seen += 1
    assert seen >= 7


def test_responses_are_opened_and_decoded(ask: Ask, vectors: Load) -> None:
    frames = [frame for frame in vectors("frames.json")["frames"] if frame["direction"] == 1]
    answer = ask("open", **opening(vectors("handshake.json")), frames=[frame["frame"] for frame in frames])
    assert len(frames) == len(answer["frames"]) == 8
    for frame, decoded in zip(frames, answer["frames"]):
        header = wire.decode_header(bytes.fromhex(frame["frame"]))
        metadata = bytes.fromhex(frame["metadata"])
        expected: dict[str, Any]
        if frame["flags"] & wire.Flag.ERROR:
            code, text = wire.decode_error(metadata)
            expected = {"code": code, "text": text}
        elif frame["opcode"] == wire.Opcode.LOOKUP:
            expected = {"run": wire.decode_lookup_response(metadata, header)}
        elif frame["opcode"] == wire.Opcode.GET:
            response = wire.decode_get_response(metadata, header)
            expected = {
                "statuses": response.statuses.hex(),
                "kinds": response.kinds.hex(),
                "lengths": list(response.lengths),
                "digests": [digest.hex() for digest in response.digests],
                "metas": [meta.hex() for meta in response.metas or []],
            }
        else:
            expected = {"statuses": frame["metadata"]}
        assert decoded == expected, frame["name"]


def test_replayed_reordered_and_altered_frames_are_found(ask: Ask, vectors: Load) -> None:
    frames = [frame["frame"] for frame in vectors("frames.json")["frames"] if frame["direction"] == 1]
    given = opening(vectors("handshake.json"))
    altered = frames[1][:80] + ("0" if frames[1][80] != "0" else "1") + frames[1][81:]
    for sent in ([frames[0], frames[0]], [frames[1]], frames[1::-1], [frames[0], altered]):
        assert "authentication code" in ask("open", **given, frames=sent)["error"]


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, "00"), (7, "01"), (5, "08"), (20, "01"), (15, "01"), (19, "7f"), (31, "01")],
    ids=["magic", "zero", "flags", "zero word", "count", "metadata", "payload"],
)
def test_headers_out_of_bounds_are_refused(ask: Ask, vectors: Load, at: int, value: str) -> None:
    frame = next(frame["frame"] for frame in vectors("frames.json")["frames"] if frame["direction"] == 1)
    broken = frame[: 2 * at] + value + frame[2 * at + 2 :]
    answer = ask("open", **opening(vectors("handshake.json")), frames=[broken])
    assert answer["cause"] == 3  # the peer broke a rule


def test_digests(ask: Ask, vectors: Load) -> None:
    digests = vectors("digests.json")["digests"]
    assert len(digests) >= 12
    for vector in digests:
        size = vector["size"]
        value = bytes((7 * at + size) % 251 for at in range(size))
        for kind in ("xxh3", "sha256"):
            answer = ask("digest", value=value.hex(), kind=kind)
            assert answer["whole"] == answer["parts"] == vector[kind], (size, kind)


def test_placement_of_ten_thousand_keys(ask: Ask, vectors: Load) -> None:
    vector = vectors("placement.json")
    keys = [f"key-{number:05d}" for number in range(10_000)]
    assert len(vector["memberships"]) == 5
    for membership in vector["memberships"]:
        asked = {name: membership[name] for name in ("servers", "weights", "lanes")}
        answer = ask("placement", namespace=vector["namespace"], keys=keys, **asked)
        assert f"{answer['seed']:016x}" == vector["seed"]
        assert [f"{hashed:016x}" for hashed in answer["hashes"][:16]] == vector["hashes_of_first_keys"]
        assert ["".join(map(str, order)) for order in answer["servers"]] == membership["server_of_key"]
        assert "".join(map(str, answer["lanes"])) == membership["lane_of_key"]
