# SPDX-License-Identifier: Apache-2.0
"""The folder of a development cluster, and what ``dev.json`` in it records.

::

    D/dev.json            which nodes there are, and the pid of each with its start time
    D/auth.key            the cluster key
    D/authority/          a license authority
    D/minio.license       a license of it
    D/node-0/config.yaml  what the node is started with
    D/node-0/log          what it said
    D/node-0/data/        its blocks

Everything is its owner's alone (0700, 0600).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from memkv_core.errors import ConfigError
from memkv_core.files import read_regular_file, reason_of

STATE_FILE: Final = "dev.json"
LOCK_FILE: Final = "dev.lock"
STATE_BYTES_MAX: Final = 1024 * 1024
FORMAT: Final = 1


@dataclass
class DevNode:
    """One node; ``pid`` and ``ticks`` (see ``processes``) are those of its last start."""

    address: str
    admin: str
    pid: int | None = None
    ticks: int | None = None


@dataclass
class DevCluster:
    """A development cluster as recorded."""

    dir: Path
    capacity: str = "4GiB"  # of each node
    mode: str = "file"
    durability: str = "relaxed"
    memory_max_size: str | None = None  # in mode direct; None: the node's default
    port: int = 9900
    nodes: list[DevNode] = field(default_factory=list)

    @property
    def key_file(self) -> Path:
        return self.dir / "auth.key"

    @property
    def license_file(self) -> Path:
        return self.dir / "minio.license"

    @property
    def authority(self) -> Path:
        return self.dir / "authority"

    def node_dir(self, index: int) -> Path:
        return self.dir / f"node-{index}"

    def environment(self) -> dict[str, str]:
        """All that a client needs."""
        return {
            "MEMKV_SERVERS": ",".join(node.address for node in self.nodes),
            "MEMKV_AUTH_KEY": self.key_file.read_text(encoding="ascii").strip(),
            "MEMKV_LICENSE": str(self.license_file),
            "MEMKV_LICENSE_KEYS": str(self.authority / "license-keys"),
            "MEMKV_TRANSPORT": "tcp",
        }

    def save(self) -> None:
        """Replaces dev.json in one step."""
        recorded = asdict(self)
        del recorded["dir"]
        write_file(self.dir / STATE_FILE, json.dumps({"format": FORMAT, **recorded}, indent=2) + "\n")


def load(dir: Path) -> DevCluster | None:
    """The cluster recorded in ``dir``; None where there is none. Raises ConfigError for a damaged record."""
    path = dir / STATE_FILE
    try:
        recorded = json.loads(read_regular_file(path, STATE_BYTES_MAX))
        if recorded.pop("format") != FORMAT:
            raise ValueError("another format")
        nodes = [DevNode(**node) for node in recorded.pop("nodes")]
        return DevCluster(dir=dir.absolute(), nodes=nodes, **recorded)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason_of(error)}", remedy="choose another --dir") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path} is no record of `memkv dev`", remedy="choose another --dir") from None


def prepare(dir: Path) -> None:
    """Makes ``dir``, or checks that it is empty or a cluster's. Raises ConfigError for a stranger's files."""
    try:
        dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        strangers = [entry.name for entry in dir.iterdir() if entry.name != LOCK_FILE]
    except OSError as error:
        raise ConfigError(f"{dir} cannot be used: {reason_of(error)}", remedy="choose another --dir") from error
    if strangers and STATE_FILE not in strangers:
        raise ConfigError(
            f"{dir} holds other files ({min(strangers)!r}) and no development cluster",
            remedy="choose an empty or a new folder with --dir",
        )


@contextlib.contextmanager
def locked(dir: Path) -> Iterator[None]:
    """One ``memkv dev`` at a time in a folder. Raises ConfigError where another is at work."""
    try:
        descriptor = os.open(dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{dir} cannot be used: {reason_of(error)}", remedy="choose another --dir") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another `memkv dev` is at work in {dir}", remedy="wait for it to end") from None
        yield
    finally:
        os.close(descriptor)


def write_file(path: Path, text: str) -> None:
    """Writes or replaces a file that only its owner may read, in one step. Raises ConfigError."""
    temporary = path.with_name(path.name + ".new")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {reason_of(error)}", remedy="choose another --dir") from error
