# SPDX-License-Identifier: Apache-2.0
"""NIXL's POSIX plugin, a file for each block: the page cache of this machine, no other process."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from memkv_benchmarks.contenders.base import Blocks, ContenderError
from memkv_core.errors import MemKVError
from memkv_nixl._compat import require_builds
from memkv_nixl.agents import Agent, TransferError


class NixlPosix:
    """Files are opened and closed within what is measured, memory is registered there, as a program would do it."""

    synthetic = False

    def __init__(self) -> None:
        try:
            self._build = require_builds()[0]
        except MemKVError as error:
            raise ContenderError(str(error)) from None
        self._folder = tempfile.TemporaryDirectory(prefix="memkv-peers-")
        try:
            self._agent = Agent(self._build, "POSIX", {}, kind="FILE")
        except TransferError as error:
            raise ContenderError(str(error)) from None

    def versions(self) -> str:
        return f"NIXL {self._build.version} POSIX, page cache"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        self._source, self._target = source, target

    def put(self, keys: Sequence[str]) -> None:
        self._move("WRITE", keys, self._source)

    def get(self, keys: Sequence[str]) -> None:
        self._move("READ", keys, self._target)

    def exists(self, keys: Sequence[str]) -> int:
        return sum(self._agent.exists([str(self._path(key)) for key in keys]))

    def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            del self._agent
        self._folder.cleanup()

    def _path(self, key: str) -> Path:
        return Path(self._folder.name) / key

    def _move(self, operation: str, keys: Sequence[str], blocks: Blocks) -> None:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(self._path(key).open("a+b", buffering=0)) for key in keys]
            try:
                self._agent.transfer(operation, blocks, [(file.fileno(), "") for file in files])
            except TransferError as error:
                raise ContenderError(str(error)) from None


make = NixlPosix
