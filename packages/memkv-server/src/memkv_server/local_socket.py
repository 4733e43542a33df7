# SPDX-License-Identifier: Apache-2.0
"""The node's Unix socket, for clients on its own host: beside the data port, with the same sessions (transport shm).

Only the node's own user (and root) can reach it: mode 0600, in a folder of mode 0700 that belongs to that user. It is
made under a name of its own and renamed once it listens, so what is found under its name can be connected to, or was
left behind by a node that died, and is replaced. A live one is never taken away from another node.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
import tempfile
from pathlib import Path
from typing import Final

from memkv_core.errors import ConfigError

AUTO: Final = "auto"
NONE: Final = "none"
PATH_BYTES_MAX: Final = 107  # sun_path, without its last zero
_BACKLOG: Final = 4096


def runtime_folder() -> Path:
    """Where a node of this user keeps its socket.

    $RUNTIME_DIRECTORY (systemd's), /run/memkv (root), $XDG_RUNTIME_DIR/memkv, else /tmp/memkv-UID.
    """
    service = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if os.path.isabs(service):
        return Path(service)
    user = os.geteuid()
    if user == 0 and os.path.isdir("/run"):
        return Path("/run/memkv")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime, "memkv")
    return Path(tempfile.gettempdir(), f"memkv-{user}")


def socket_path(setting: str, port: int) -> Path | None:
    """What ``network.socket`` means for a node on this data port; None: no socket."""
    if setting == NONE:
        return None
    return runtime_folder() / f"{port}.sock" if setting == AUTO else Path(setting)


class LocalSocket:
    """A bound Unix socket; ``open`` listens and gives it its name. Raises ConfigError where it cannot be had."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._making = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        self._identity: tuple[int, int] | None = None  # of the file, once it has its name
        if len(os.fsencode(self._making)) > PATH_BYTES_MAX:
            longest = PATH_BYTES_MAX - (len(os.fsencode(self._making)) - len(os.fsencode(path)))
            raise _unusable(path, f"its path has more than {longest} bytes")
        _prepare_folder(path)
        if _is_live(path):
            raise _unusable(path, "another node listens there")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.bind(str(self._making))
            os.chmod(self._making, 0o600)
        except OSError as error:
            self.close()
            raise _unusable(path, error.strerror) from error

    def open(self) -> None:
        """Listens, under its name from now on. Raises ConfigError where another node was faster."""
        if _is_live(self.path):
            raise _unusable(self.path, "another node listens there")
        try:
            self.sock.listen(_BACKLOG)
            made = os.stat(self._making)
            os.rename(self._making, self.path)
        except OSError as error:
            raise _unusable(self.path, error.strerror) from error
        self._identity = made.st_dev, made.st_ino

    def close(self) -> None:
        """Closes it and removes its file, unless that is another's by now. Idempotent."""
        self.sock.close()
        with contextlib.suppress(OSError):  # gone already
            self._making.unlink(missing_ok=True)
            if self._identity is not None:
                found = os.lstat(self.path)
                if (found.st_dev, found.st_ino) == self._identity:
                    self.path.unlink()
        self._identity = None


def _prepare_folder(path: Path) -> None:
    """Makes the folder, or checks that nobody else can put anything into it."""
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError as error:
        raise _unusable(path, f"its folder cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise _unusable(path, "its folder is no folder")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise _unusable(path, "its folder can be written to by other users")


def _is_live(path: Path) -> bool:
    """Whether a process listens there. What is no socket is nobody's to replace."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise _unusable(path, "there is a file of this name that is no socket")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(path, error.strerror) from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except OSError as error:
            # EAGAIN: its backlog is full; EACCES: of another user, who is asked for no leave.
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


def _unusable(path: Path, why: str | None) -> ConfigError:
    return ConfigError(
        f"network.socket {path} cannot be used: {why}",
        remedy="name a path in a folder that belongs to the node's user alone, or none",
    )
