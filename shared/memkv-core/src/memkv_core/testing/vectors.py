# SPDX-License-Identifier: Apache-2.0
"""The protocol's golden vectors (``shared/protocol/vectors``), loaded, and a session that stands where they begin.

The vectors belong to the repository, not to a wheel: MEMKV_VECTORS names their folder where it is elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from memkv_core import wire
from memkv_core.auth import Keyring
from memkv_core.config import ClientConfig
from memkv_core.session import Role, Session

FILES: Final = ("digests.json", "frames.json", "handshake.json", "negotiation.json", "placement.json", "places.json")
FOLDER_VARIABLE: Final = "MEMKV_VECTORS"

ClientConfig.other_variables.add(FOLDER_VARIABLE)


def find_vectors(start: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the vectors: MEMKV_VECTORS, else ``shared/protocol/vectors`` in ``start`` (the working directory)
    or a folder above it. FileNotFoundError where it is not, or lacks a file: an empty corpus must not pass a test.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    begin = Path(start or os.getcwd()).resolve()
    folders = [Path(named)] if named else [above / "shared/protocol/vectors" for above in (begin, *begin.parents)]
    for folder in folders:
        if folder.is_dir():
            missing = [name for name in FILES if not (folder / name).is_file()]
            if missing:
                raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}")
            return folder
    raise FileNotFoundError(f"no golden vectors in {named or begin}; set {FOLDER_VARIABLE} to shared/protocol/vectors")


def load_vectors(name: str, start: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """One file of FILES, as it is: bytes are hexadecimal text."""
    loaded = json.loads((find_vectors(start) / name).read_text())
    assert isinstance(loaded, dict)
    assert loaded
    return loaded


def golden_frames(direction: int, start: str | os.PathLike[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """(name, frame up to its tag) of every frame to the server (0) or to the client (1), in their order."""
    for frame in load_vectors("frames.json", start)["frames"]:
        if frame["direction"] == direction:
            yield frame["name"], bytes.fromhex(frame["frame"])


def golden_session(role: Role, start: str | os.PathLike[str] | None = None) -> Session:
    """A session after the golden handshake: a server's takes the golden requests next, a client's the responses."""
    vector = load_vectors("handshake.json", start)
    messages = {name: bytes.fromhex(message) for name, message in vector["messages"].items()}
    key = bytes.fromhex(vector["auth_key"])
    if role is Role.SERVER:
        server = Session.server(Keyring([key]), nonce=bytes.fromhex(vector["server_nonce"]))
        server.receive_message(messages["hello"])
        assert server.refusal_of_hello() is None
        assert server.send_challenge(vector["lane"]) == messages["challenge"]
        server.receive_message(messages["proof"])
        welcome = messages["welcome"][wire.HEADER_BYTES : -wire.TAG_BYTES]
        assert server.seal(wire.Opcode.WELCOME, metadata=welcome, flags=wire.Flag.RESPONSE) == messages["welcome"]
        return server
    client = Session.client(
        key,
        namespace=vector["namespace"],
        identity=vector["identity"].encode(),
        lane=vector["lane"],
        agent=vector["agent"],
        nonce=bytes.fromhex(vector["client_nonce"]),
    )
    assert client.send_hello() == messages["hello"]
    client.receive_message(messages["challenge"])
    assert client.send_proof() == messages["proof"]
    welcome = messages["welcome"]
    client.open(wire.decode_header(welcome), welcome[: -wire.TAG_BYTES], welcome[-wire.TAG_BYTES :])
    return client
