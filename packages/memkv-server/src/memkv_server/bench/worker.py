# SPDX-License-Identifier: Apache-2.0
"""One measuring client: a process of its own, with a client of its own, that runs slices on command."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

import numpy as np

from memkv_core import Client, ClientConfig
from memkv_core.errors import MemKVError
from memkv_server.bench.plan import KEY_BYTES, MOVING, Plan, Sample

PREPARE_TIMEOUT_MS: Final = 60_000


def serve(pipe: Connection, plan: Plan, index: int) -> None:
    """Answers ``("prepare", op)`` with an error text or None, ``("run", op)`` with a Sample, until ``("stop",)``."""
    try:
        config = ClientConfig.load(namespace=plan.namespace)
        client = Client(config)
    except MemKVError as error:
        pipe.send(str(error))
        return
    worker = Worker(client, plan, index)
    try:
        while True:
            command = pipe.recv()
            if command[0] == "prepare":
                pipe.send(worker.prepare(command[1]))
            elif command[0] == "run":
                pipe.send(worker.run(command[1]))
            else:
                worker.clean_up()
                return
    except (EOFError, KeyboardInterrupt):
        return  # the parent is gone, or going
    finally:
        client.close()


class Worker:
    """Measures calls of one client. What is put is random, so that nothing on the way can compress it."""

    def __init__(self, client: Client, plan: Plan, index: int) -> None:
        self._client = client
        self._plan = plan
        self._index = index
        size = plan.batch * plan.block_bytes
        self._source = np.random.default_rng(index).integers(0, 256, size, dtype=np.uint8)
        self._target = np.zeros(size, dtype=np.uint8)
        self._sources = self._blocks(self._source)
        self._targets = self._blocks(self._target)
        self._stored = [self._keys(f"get/{batch}", plan.batch) for batch in range(plan.batches)]
        self._small = self._keys("small", max(plan.exists_keys, plan.lookup_keys))
        self._round = 0
        self._filled = 0
        self._written: list[bytes] = []

    def prepare(self, operation: str) -> str | None:
        """Stores what ``operation`` will read. Says what is wrong where it cannot be stored and found."""
        self._fill()
        batches = {"get": self._stored, "put": self._stored[:1]}.get(operation, [self._small])
        values = self._sources if operation in MOVING else [self._source[:64].data] * len(self._small)
        for keys in batches:
            if not all(self._client.put(keys, values, timeout_ms=PREPARE_TIMEOUT_MS)):
                return f"blocks could not be stored: {self._causes()}"
        if not all(all(self._client.exists(keys, timeout_ms=PREPARE_TIMEOUT_MS)) for keys in batches):
            return "the cluster has no room for the blocks to read; lower --batches or raise its capacity"
        return None

    def _fill(self) -> None:
        """Once: writes this client's share of what is to be written before anything is measured."""
        share = self._plan.fill_bytes // self._plan.clients
        size = self._plan.batch * self._plan.block_bytes
        while self._filled < share:
            self._put()
            self._filled += size

    def run(self, operation: str) -> Sample:
        """One slice."""
        plan = self._plan
        call: Callable[[], tuple[int, int]] = getattr(self, f"_{operation}")
        sample = Sample(0.0, 0, 0, 0, 0)
        call()  # connections and memory are warm
        begin = time.perf_counter()
        while True:
            before = time.perf_counter()
            keys, hits = call()
            now = time.perf_counter()
            sample.latencies_s.append(now - before)
            sample.keys += keys
            sample.failures += keys - hits
            sample.moved_bytes += hits * plan.block_bytes if operation in MOVING else 0
            sample.seconds = now - begin
            calls = len(sample.latencies_s)
            if calls >= plan.rounds if plan.rounds is not None else sample.seconds >= plan.slice_seconds:
                break
        if operation == "get":  # outside the time: the last batch, against what was put
            sample.verified_bytes = int(np.count_nonzero(self._source == self._target))
            if sample.verified_bytes != self._source.size:
                sample.failures += 1
        return sample

    def clean_up(self) -> None:
        """Takes away what this run stored, as far as one deadline goes."""
        for keys in (*self._stored, self._small, self._written):
            for at in range(0, len(keys), 4096):
                self._client.delete(keys[at : at + 4096])

    # -- one call each: (keys, hits) ----------------------------------------------------------------------------------
    def _get(self) -> tuple[int, int]:
        self._round += 1
        keys = self._stored[self._round % self._plan.batches]
        lengths = self._client.get(keys, self._targets)
        return len(keys), sum(length == self._plan.block_bytes for length in lengths)

    def _put(self) -> tuple[int, int]:
        self._round += 1
        keys = self._keys(f"put/{self._round}", self._plan.batch)  # new ones: bytes that are there are not stored again
        self._written += keys
        return len(keys), sum(self._client.put(keys, self._sources))

    def _exists(self) -> tuple[int, int]:
        keys = self._small[: self._plan.exists_keys]
        return len(keys), sum(self._client.exists(keys))

    def _lookup(self) -> tuple[int, int]:
        keys = self._small[: self._plan.lookup_keys]
        return len(keys), self._client.lookup(keys)

    def _blocks(self, array: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> list[memoryview]:
        size = self._plan.block_bytes
        return [array[at : at + size].data for at in range(0, array.size, size)]

    def _keys(self, name: str, count: int) -> list[bytes]:
        stem = hashlib.sha256(f"{self._plan.run}/{self._index}/{name}".encode()).hexdigest()
        return [f"{stem[: KEY_BYTES - 8]}{number:08x}".encode() for number in range(count)]

    def _causes(self) -> str:
        misses = self._client.stats().misses
        return ", ".join(f"{cause} {count}" for cause, count in sorted(misses.items())) or "the server refused them"
