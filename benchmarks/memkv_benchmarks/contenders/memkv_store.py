# SPDX-License-Identifier: Apache-2.0
"""MemKV: one node by ``memkv dev up``, one client. Its space is written once before anything is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import memkv_core
from memkv_benchmarks.contenders.base import Blocks, ContenderError
from memkv_core import Client, ClientConfig
from memkv_core.errors import MemKVError

CAPACITY_BYTES: Final = 1 << 30
_FILL_BYTES: Final = 1 << 20
_TIMEOUT_MS: Final = 60_000


class MemKV:
    """``option``: transport/mode of the node."""

    synthetic = False

    def __init__(self, option: str) -> None:
        self._transport, self._mode = option.split("/")
        self._folder = tempfile.TemporaryDirectory(prefix="memkv-peers-")
        self._memkv = str(Path(sys.executable).with_name("memkv"))
        self._cluster = ["--dir", str(Path(self._folder.name) / "cluster")]
        capacity = f"{CAPACITY_BYTES >> 20}MiB"
        flags = ["--port", "0", "--capacity", capacity, "--mode", self._mode, "--json"]
        self._client: Client | None = None
        try:
            described = self._run("dev", "up", *self._cluster, *flags)
            os.environ.update(described["env"])
            config = ClientConfig.load(namespace="memkv-peers", transport=self._transport, timeout_ms=_TIMEOUT_MS)
            self._client = Client(config)
            self._fill()
        except (MemKVError, ContenderError) as error:
            self.close()
            raise ContenderError(str(error)) from None

    def versions(self) -> str:
        return f"MemKV {memkv_core.__version__} ({self._transport}, mode {self._mode}, xxh3 verified)"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        assert self._client is not None
        self._sources, self._targets = [row.data for row in source], [row.data for row in target]
        for array in (source, target):
            self._client.register(array.reshape(-1).data)

    def put(self, keys: Sequence[str]) -> None:
        assert self._client is not None
        if not all(self._client.put(keys, self._sources)):
            raise ContenderError(f"a block was not stored: {self._client.stats().misses}")

    def get(self, keys: Sequence[str]) -> None:
        assert self._client is not None
        if None in self._client.get(keys, self._targets):
            raise ContenderError(f"a block is missing: {self._client.stats().misses}")

    def exists(self, keys: Sequence[str]) -> int:
        assert self._client is not None
        return sum(self._client.exists(keys))

    def forget(self, keys: Sequence[str]) -> None:
        assert self._client is not None
        self._client.delete(keys)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        try:
            self._run("dev", "down", *self._cluster)
        finally:
            self._folder.cleanup()

    def _fill(self) -> None:
        """Memory and files that were never touched are slow, in a virtual machine above all."""
        block = np.random.default_rng(0).integers(0, 256, _FILL_BYTES, dtype=np.uint8).data
        for first in range(0, CAPACITY_BYTES // _FILL_BYTES, 64):
            keys = [f"fill-{first + number}" for number in range(64)]
            assert self._client is not None
            if not all(self._client.put(keys, [block] * 64)):
                raise ContenderError(f"the node takes no blocks: {self._client.stats().misses}")

    def _run(self, *words: str) -> dict[str, Any]:
        done = subprocess.run([self._memkv, *words], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise ContenderError(f"memkv {words[1]}: {done.stderr.strip()}")
        return dict(json.loads(done.stdout)) if "--json" in words else {}


make = MemKV
