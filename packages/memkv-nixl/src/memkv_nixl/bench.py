# SPDX-License-Identifier: Apache-2.0
"""Write, read and query through a real ``nixl_agent``: the plugin, MemKV's Python client, and NIXL's POSIX plugin, in
turns in the same run, so that what else the machine does hits all of them.

POSIX writes files of its own into a temporary folder: the page cache of this machine, not a network.
"""

from __future__ import annotations

import contextlib
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from memkv_core import Client, ClientConfig
from memkv_nixl._compat import NixlBuild
from memkv_nixl.agents import Agent, Blocks, TransferError
from memkv_nixl.links import NAME

_NAMESPACE: Final = "memkv-nixl-bench"


class Contender(Protocol):
    """What is measured. Seconds of each operation; TransferError where one fails."""

    def write(self, keys: Sequence[str], blocks: Blocks) -> float: ...
    def read(self, keys: Sequence[str], blocks: Blocks) -> float: ...
    def query(self, keys: Sequence[str]) -> float: ...


@dataclass(frozen=True)
class Row:
    """One contender with blocks of one size. Medians over the rounds."""

    name: str
    block_bytes: int
    block_count: int
    write_s: float
    read_s: float
    query_s: float

    def rate(self, seconds: float) -> float:
        """GB/s of a batch."""
        return self.block_bytes * self.block_count / seconds / 1e9


class _Plugin:
    """The plugin's agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def write(self, keys: Sequence[str], blocks: Blocks) -> float:
        return self._agent.write(keys, blocks)

    def read(self, keys: Sequence[str], blocks: Blocks) -> float:
        return self._agent.read(keys, blocks)

    def query(self, keys: Sequence[str]) -> float:
        return _timed(lambda: all(self._agent.exists(keys)))


class _Python:
    """MemKV's client in Python."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def write(self, keys: Sequence[str], blocks: Blocks) -> float:
        return _timed(lambda: all(self._client.put(keys, list(blocks))))

    def read(self, keys: Sequence[str], blocks: Blocks) -> float:
        return _timed(lambda: None not in self._client.get(keys, list(blocks)))

    def query(self, keys: Sequence[str]) -> float:
        return _timed(lambda: all(self._client.exists(keys)))


class _Posix:
    """NIXL's own POSIX plugin, a file for each block."""

    def __init__(self, agent: Agent, folder: Path) -> None:
        self._agent = agent
        self._folder = folder

    def write(self, keys: Sequence[str], blocks: Blocks) -> float:
        return self._move("WRITE", keys, blocks)

    def read(self, keys: Sequence[str], blocks: Blocks) -> float:
        return self._move("READ", keys, blocks)

    def query(self, keys: Sequence[str]) -> float:
        return _timed(lambda: all(self._agent.exists([str(self._folder / key) for key in keys])))

    def _move(self, operation: str, keys: Sequence[str], blocks: Blocks) -> float:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context((self._folder / key).open("a+b", buffering=0)) for key in keys]
            return self._agent.transfer(operation, blocks, [(file.fileno(), "") for file in files])


def _timed(call: Callable[[], bool]) -> float:
    started_s = time.perf_counter()
    if not call():
        raise TransferError("a block is not there that was written before")
    return time.perf_counter() - started_s


@contextlib.contextmanager
def _contenders(build: NixlBuild, *, posix: bool) -> Iterator[dict[str, Contender]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memkv-nixl-")))
        client = stack.enter_context(Client(ClientConfig.load(namespace=_NAMESPACE)))
        found: dict[str, Contender] = {
            "MEMKV plugin": _Plugin(stack.enter_context(Agent(build, NAME, {"namespace": _NAMESPACE}))),
            "Python client": _Python(client),
        }
        if posix:
            found["NIXL POSIX"] = _Posix(stack.enter_context(Agent(build, "POSIX", {}, kind="FILE")), folder)
        yield found


def bench(
    build: NixlBuild,
    block_bytes: int,
    block_count: int,
    *,
    rounds: int = 7,
    posix: bool = True,
) -> list[Row]:
    """One row for each contender. Raises TransferError and ConfigError."""
    source = np.frombuffer(secrets.token_bytes(block_bytes * block_count), np.uint8).reshape(block_count, -1).copy()
    target = np.zeros_like(source)
    with _contenders(build, posix=posix) as contenders:
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name, contender in contenders.items():
                keys = [f"{name.replace(' ', '-')}-{secrets.token_hex(16)}" for _ in range(block_count)]
                target[:] = 0
                write_s = contender.write(keys, source)
                measured = (write_s, contender.read(keys, target), contender.query(keys))
                if not np.array_equal(source, target):
                    raise TransferError(f"{name}: what was read is not what was written")
                if number:  # the first round connects, and warms what can be warmed
                    times[name].append(measured)
    return [
        Row(name, block_bytes, block_count, *(statistics.median(column) for column in zip(*rows)))
        for name, rows in times.items()
    ]
