# SPDX-License-Identifier: Apache-2.0
"""memcached through pymemcache: set_many and get_many. It has no question whether a key is there; ``touch`` is near."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pymemcache

from memkv_benchmarks.contenders.base import Blocks, ContenderError, Server, free_port


class Memcached:
    synthetic = False

    def __init__(self) -> None:
        port = free_port()
        user = ["-u", "root"]  # it refuses to run as root without being told so; for others this says nothing
        flags = ["-p", str(port), "-l", "127.0.0.1", "-m", "2048", "-I", "8m", "-t", "2", *user]
        self._server = Server(["memcached", *flags], port)
        self._client = pymemcache.Client(("127.0.0.1", port), default_noreply=False, no_delay=True, timeout=30)

    def versions(self) -> str:
        said = subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=True).stdout.strip()
        return f"{said}, pymemcache {pymemcache.__version__}, 2 threads"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        self._source, self._targets = source, target

    def put(self, keys: Sequence[str]) -> None:
        values = [row.tobytes() for row in self._source]  # it takes bytes alone
        if self._client.set_many(dict(zip(keys, values))):
            raise ContenderError("a value was not stored")

    def get(self, keys: Sequence[str]) -> None:
        values = self._client.get_many(keys)
        for key, row in zip(keys, self._targets):
            if key not in values:
                raise ContenderError("a key is missing")
            row.data[:] = values[key]

    def exists(self, keys: Sequence[str]) -> int:
        return sum(bool(self._client.touch(key, 0)) for key in keys)

    def forget(self, keys: Sequence[str]) -> None:
        self._client.delete_many(keys)

    def close(self) -> None:
        self._client.close()
        self._server.close()


make = Memcached
