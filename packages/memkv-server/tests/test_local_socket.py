# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkv_core import handshake, wire
from memkv_core.errors import ConfigError
from memkv_core.session import Session
from memkv_server.local_socket import PATH_BYTES_MAX, LocalSocket, runtime_folder, socket_path

StartNode = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short name for a folder: the path of a Unix socket has to be short."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "run"
    made.mkdir(mode=0o700)
    return made


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


def test_it_is_its_users_alone_and_goes_with_its_node(tmp_path: Path) -> None:
    path = tmp_path / "made" / "9900.sock"
    local = LocalSocket(path)
    assert mode_of(path.parent) == 0o700
    assert not path.exists()  # before it listens nobody finds it
    local.open()
    assert mode_of(path) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["9900.sock"]
    assert connects(path)
    local.close()
    local.close()
    assert list(path.parent.iterdir()) == []


def test_what_a_dead_node_left_is_replaced(folder: Path) -> None:
    path = folder / "9900.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not connects(path)
    local = LocalSocket(path)
    local.open()
    assert connects(path)
    local.close()


def test_a_live_one_is_not_taken_away(folder: Path) -> None:
    path = folder / "9900.sock"
    local = LocalSocket(path)
    late = LocalSocket(path)  # bound before the other one listened
    local.open()
    with pytest.raises(ConfigError, match="another node listens there"):
        LocalSocket(path)
    with pytest.raises(ConfigError, match="another node listens there"):
        late.open()
    late.close()
    assert connects(path)
    local.close()
    assert list(folder.iterdir()) == []


def test_anothers_is_not_removed(folder: Path) -> None:
    path = folder / "9900.sock"
    local = LocalSocket(path)
    local.open()
    path.unlink()
    other = LocalSocket(path)
    other.open()
    local.close()
    assert connects(path)
    other.close()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(ConfigError, match="can be written to by other users"):
        LocalSocket(folder / "9900.sock")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigError, match="can be written to by other users"):
        LocalSocket(folder / "9900.sock")


def test_what_cannot_be_had_is_one_line(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "link").symlink_to(folder)
    for path, why in (
        (folder / "none" / "there" / "a.sock", "its folder cannot be made"),
        (folder / "file" / "a.sock", "its folder cannot be made: File exists"),
        (folder / "link" / "a.sock", "its folder is no folder"),
        (folder / "file", "no socket"),
        (folder / ("x" * PATH_BYTES_MAX), "more than"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            LocalSocket(path)
        assert "\n" not in str(caught.value)
        assert "name a path" in str(caught.value)


def test_the_path_of_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert socket_path("none", 9900) is None
    assert socket_path("/a/b.sock", 9900) == Path("/a/b.sock")
    assert socket_path("auto", 9900) == runtime_folder() / "9900.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert runtime_folder() == tmp_path / "memkv"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert runtime_folder().name == "memkv-1234"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/a:/run/b")
    assert runtime_folder() == Path("/run/a")


# -- a node -----------------------------------------------------------------------------------------------------------
def welcome_of(path: Path) -> dict[str, Any]:
    """What the node says to a client that opens a session on its Unix socket."""
    session = Session.client(bytes.fromhex("a1" * 32), namespace="n", agent="test")
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as file:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(session.send_hello())
        prefix = file.read(handshake.PREFIX_BYTES)
        session.receive_message(prefix + file.read(handshake.decode_prefix(prefix).body_bytes))
        sock.sendall(session.send_proof())
        head = file.read(wire.HEADER_BYTES)
        header = wire.decode_header(head)
        metadata = file.read(header.metadata_bytes)
        session.open(header, head + metadata, file.read(wire.TAG_BYTES))
    assert header.opcode == wire.Opcode.WELCOME
    said: dict[str, Any] = json.loads(metadata)
    return said


def test_a_node_listens_there_and_says_so(start_node: StartNode, folder: Path) -> None:
    path = folder / "node.sock"
    node = start_node("--socket", str(path))
    said = welcome_of(path)
    assert said["shm"]["socket"] == str(path)
    assert len(said["shm"]["host"]) == 64
    assert len(said["shm"]["node"]) == 32
    assert said["lanes"] == 1
    assert node.status()["sessions"] >= 0
    assert node.stop() == 0
    assert not path.exists()


def test_a_node_without(start_node: StartNode) -> None:
    node = start_node("--socket", "none")
    assert "shared memory" not in node.log.read_text()
    node.stop()


def test_a_socket_that_was_asked_for_is_had_or_the_node_does_not_start(
    refused: Callable[..., str], folder: Path, credentials: Any
) -> None:
    folder.chmod(0o777)
    flags = ["--address", "127.0.0.1:0", "--mode", "memory", "--capacity", "64MiB", *credentials.flags]
    assert "network.socket" in refused("start", *flags, "--socket", str(folder / "node.sock"))
    assert "network.socket = 'relative': it is no absolute path" in refused("start", *flags, "--socket", "relative")
