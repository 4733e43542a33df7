# SPDX-License-Identifier: Apache-2.0
"""Redis through redis-py with hiredis where it is there: MSET and MGET, nothing on a disk."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from memkv_benchmarks.contenders.base import Blocks, ContenderError, Server, free_port


class Redis:
    synthetic = False

    def __init__(self) -> None:
        port = free_port()
        memory = ["--maxmemory", "2gb", "--maxmemory-policy", "allkeys-lru"]
        flags = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *memory]
        self._server = Server(["redis-server", *flags], port)
        self._client = redis.Redis(host="127.0.0.1", port=port)

    def versions(self) -> str:
        version = self._client.info("server")["redis_version"]
        return f"redis-server {version}, redis-py {redis.__version__}, no persistence"

    def prepare(self, source: Blocks, target: Blocks) -> None:
        self._sources, self._targets = [row.data for row in source], target

    def put(self, keys: Sequence[str]) -> None:
        if not self._client.mset(dict(zip(keys, self._sources))):
            raise ContenderError("MSET failed")

    def get(self, keys: Sequence[str]) -> None:
        for row, value in zip(self._targets, self._client.mget(keys)):
            if value is None:
                raise ContenderError("a key is missing")
            row.data[:] = value

    def exists(self, keys: Sequence[str]) -> int:
        return int(self._client.exists(*keys))

    def forget(self, keys: Sequence[str]) -> None:
        self._client.delete(*keys)

    def close(self) -> None:
        self._client.close()
        self._server.close()


make = Redis
