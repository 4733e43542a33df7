# SPDX-License-Identifier: Apache-2.0
"""Mooncake Store over TCP: its master, a process that holds the memory, and a client that holds none.

Blocks move from and to registered memory, ``batch_put_from`` and ``batch_get_into``. Client and memory are in different
processes, so that nothing is a copy within one.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from memkv_benchmarks.contenders.base import Blocks, ContenderError, Server, free_port

SEGMENT_BYTES: Final = 2 << 30
_LOCAL_BUFFER_BYTES: Final = 256 << 20
_DISTRIBUTION: Final = "mooncake-transfer-engine-non-cuda"


class Mooncake:
    synthetic = False

    def __init__(self) -> None:
        port = free_port()
        bin_folder = Path(sys.executable).parent
        flags = [f"--rpc_port={port}", f"--metrics_port={free_port()}", "--default_kv_lease_ttl=5000"]
        self._master = Server([str(bin_folder / "mooncake_master"), *flags], port)
        command = [sys.executable, __file__, str(port)]
        self._segment = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._segment.stdout is not None
        if self._segment.stdout.readline().strip() != "ready":
            self.close()
            raise ContenderError("the process that holds the memory did not start")
        self._store = connect(port, 0)
        self._registered: list[int] = []

    def versions(self) -> str:
        version = importlib.metadata.version(_DISTRIBUTION)
        return f"{_DISTRIBUTION} {version}, tcp, batch_put_from and batch_get_into, one replica"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        for address in self._registered:
            self._store.unregister_buffer(address)
        self._registered = [array.ctypes.data for array in (source, target)]
        for array in (source, target):
            if self._store.register_buffer(array.ctypes.data, array.nbytes):
                raise ContenderError("memory could not be registered")
        self._sources = [row.ctypes.data for row in source]
        self._targets = [row.ctypes.data for row in target]
        self._sizes = [source.shape[1]] * len(source)

    def put(self, keys: Sequence[str]) -> None:
        if any(self._store.batch_put_from(keys, self._sources, self._sizes)):
            raise ContenderError("a block was not stored")

    def get(self, keys: Sequence[str]) -> None:
        if self._store.batch_get_into(keys, self._targets, self._sizes) != self._sizes:
            raise ContenderError("a block is missing")

    def exists(self, keys: Sequence[str]) -> int:
        if len(keys) == 1:
            return int(self._store.is_exist(keys[0]) == 1)
        return sum(found == 1 for found in self._store.batch_is_exist(keys))

    def forget(self, keys: Sequence[str]) -> None:
        self._store.batch_remove(keys, True)

    def close(self) -> None:
        if hasattr(self, "_store"):
            self._store.close()
        self._segment.terminate()
        self._segment.wait()
        self._master.close()


def connect(port: int, segment_bytes: int) -> Any:
    """A client that lends so many bytes of its memory. Raises ContenderError."""
    from mooncake.store import MooncakeDistributedStore

    store = MooncakeDistributedStore()
    here = f"127.0.0.1:{free_port()}"
    code = store.setup(here, "P2PHANDSHAKE", segment_bytes, _LOCAL_BUFFER_BYTES, "tcp", "", f"127.0.0.1:{port}")
    if code:
        raise ContenderError(f"setup failed with code {code}")
    return store


make = Mooncake

if __name__ == "__main__":
    _held = connect(int(sys.argv[1]), SEGMENT_BYTES)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
