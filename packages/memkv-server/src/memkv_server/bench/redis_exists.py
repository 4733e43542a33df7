# SPDX-License-Identifier: Apache-2.0
"""EXISTS of redis-py against a running redis-server: what a well-known store takes for the same question."""

from __future__ import annotations

import importlib
import time
from typing import Any, Final

from memkv_core.address import parse_address
from memkv_core.errors import ConfigError
from memkv_server.bench.plan import Plan

PORT_DEFAULT: Final = 6379
KEY: Final = "memkv-bench-exists"


class RedisExists:
    """A connection with one key set. Raises ConfigError where redis-py or the server is missing."""

    def __init__(self, address: str) -> None:
        host, port = parse_address(address, PORT_DEFAULT)
        try:
            redis: Any = importlib.import_module("redis")  # optional: not a dependency of the server
        except ModuleNotFoundError:
            raise ConfigError(
                "redis-py is not installed", remedy="pip install redis, or leave the comparison out"
            ) from None
        self._connection = redis.Redis(host=host, port=port, socket_timeout=5)
        try:
            self._connection.set(KEY, b"x" * 64)
        except (redis.RedisError, OSError) as error:
            raise ConfigError(
                f"no redis-server at {address}: {error}", remedy="start one, or correct the address"
            ) from None

    def run(self, plan: Plan) -> list[float]:
        """Latencies in seconds of one slice."""
        latencies = []
        exists = self._connection.exists
        end = time.perf_counter() + (plan.slice_seconds if plan.rounds is None else 1.0)
        while (before := time.perf_counter()) < end:
            exists(KEY)
            latencies.append(time.perf_counter() - before)
        return latencies

    def close(self) -> None:
        self._connection.delete(KEY)
        self._connection.close()
