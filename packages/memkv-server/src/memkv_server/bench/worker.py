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
from memkv_server.bench.plan import KEY_BYTES, MIX, MOVING, Moves, Plan, Sample

PREPARE_TIMEOUT_MS: Final = 60_000
SAY_S: Final = 0.25  # how often a slice under way says how far it is
_SHIFT_BYTES: Final = 64  # the batches hold different bytes: each begins this much later in the same random ones

Say = Callable[["Sample"], None]


def serve(pipe: Connection, plan: Plan, index: int) -> None:
    """Answers ``("prepare", op)`` with an error text or None, ``("run", op)`` with a Sample, ``("moves",)`` with Moves.

    ``("stop",)`` is the last.

    While a slice runs, ``("so far", calls, bytes, seconds)`` comes now and then.
    """
    try:
        overrides = {} if plan.transport is None else {"transport": plan.transport}
        config = ClientConfig.load(namespace=plan.namespace, **overrides)
        client = Client(config)
    except MemKVError as error:
        pipe.send(str(error))
        return
    worker = Worker(client, plan, index)
    worker.register()

    def say(sample: Sample) -> None:
        pipe.send(("so far", len(sample.latencies_s), sample.moved_bytes, sample.seconds))

    try:
        while True:
            command = pipe.recv()
            if command[0] == "prepare":
                pipe.send(worker.prepare(command[1]))
            elif command[0] == "run":
                pipe.send(worker.run(command[1], say))
            elif command[0] == "moves":
                stats = client.stats()
                pipe.send(Moves(stats.moved_registered_bytes, stats.moved_staged_bytes, dict(stats.moved_fallbacks)))
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
        bytes_count = size + _SHIFT_BYTES * (plan.batches - 1)
        self._source = np.random.default_rng(index).integers(0, 256, bytes_count, dtype=np.uint8)
        self._target = np.zeros(size, dtype=np.uint8)
        self._sources = [self._blocks(self._bytes_of(batch)) for batch in range(plan.batches)]
        self._targets = self._blocks(self._target)
        self._stored = [self._keys(f"get/{batch}", plan.batch) for batch in range(plan.batches)]
        self._small = self._keys("small", max(plan.exists_keys, plan.lookup_keys))
        self._round = 0
        self._filled = 0
        self._written: list[bytes] = []
        mix = [kind for kind, share in MIX.items() for _ in range(share)]
        self._mix = [mix[number] for number in np.random.default_rng(index).permutation(len(mix))]

    def register(self) -> None:
        """All memory that blocks come from and go to, as an engine registers its pool."""
        for memory in (self._source, self._target):
            self._client.register(memory)

    def prepare(self, operation: str) -> str | None:
        """Stores what ``operation`` will read. Says what is wrong where it cannot be stored and found."""
        self._fill()
        batches: list[tuple[list[bytes], list[memoryview]]] = []
        if operation in ("get", "mixed"):
            batches += zip(self._stored, self._sources)
        elif operation == "put":
            batches.append((self._stored[0], self._sources[0]))
        if operation not in ("get", "put"):
            batches.append((self._small, [self._source[:64].data] * len(self._small)))
        for keys, values in batches:
            if not all(self._client.put(keys, values, timeout_ms=PREPARE_TIMEOUT_MS)):
                return f"blocks could not be stored: {self._causes()}"
        if not all(all(self._client.exists(keys, timeout_ms=PREPARE_TIMEOUT_MS)) for keys, _ in batches):
            return "the cluster has no room for the blocks to read; lower --batches or raise its capacity"
        return None

    def _fill(self) -> None:
        """Once: writes this client's share of what is to be written before anything is measured."""
        share = self._plan.fill_bytes // self._plan.clients
        size = self._plan.batch * self._plan.block_bytes
        while self._filled < share:
            self._put()
            self._filled += size

    def run(self, operation: str, say: Say = lambda sample: None) -> Sample:
        """One slice."""
        plan = self._plan
        call: Callable[[], tuple[int, int]] = getattr(self, f"_{operation}", self._get)
        sample = Sample(0.0, 0, 0, 0, 0)
        call()  # connections and memory are warm
        begin = said = time.perf_counter()
        while True:
            kind = operation
            if operation == "mixed":
                kind = self._mix[len(sample.latencies_s) % len(self._mix)]
                call = getattr(self, f"_{kind}")
            before = time.perf_counter()
            keys, hits = call()
            now = time.perf_counter()
            sample.latencies_s.append(now - before)
            if kind != operation:
                sample.mixed_s.setdefault(kind, []).append(now - before)
            sample.keys += keys
            sample.failures += keys - hits
            sample.moved_bytes += hits * plan.block_bytes if kind in MOVING else 0
            sample.seconds = now - begin
            calls = len(sample.latencies_s)
            if calls >= plan.rounds if plan.rounds is not None else sample.seconds >= plan.slice_seconds:
                break
            if now - said >= SAY_S:
                said = now
                say(sample)
        if operation in ("get", "mixed"):
            self._verify(sample)
        return sample

    def _verify(self, sample: Sample) -> None:
        """Outside the time: one more batch, into memory that holds nothing of it, against what was put."""
        self._target[:] = 0
        self._get()
        source = self._bytes_of(self._round % self._plan.batches)
        sample.verified_bytes = int(np.count_nonzero(source == self._target))
        if sample.verified_bytes != source.size:
            sample.failures += 1

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
        return len(keys), sum(self._client.put(keys, self._sources[0]))

    def _exists(self) -> tuple[int, int]:
        keys = self._small[: self._plan.exists_keys]
        return len(keys), sum(self._client.exists(keys))

    def _lookup(self) -> tuple[int, int]:
        keys = self._small[: self._plan.lookup_keys]
        return len(keys), self._client.lookup(keys)

    def _bytes_of(self, batch: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        at = batch * _SHIFT_BYTES
        return self._source[at : at + self._target.size]

    def _blocks(self, array: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> list[memoryview]:
        size = self._plan.block_bytes
        return [array[at : at + size].data for at in range(0, array.size, size)]

    def _keys(self, name: str, count: int) -> list[bytes]:
        stem = hashlib.sha256(f"{self._plan.run}/{self._index}/{name}".encode()).hexdigest()
        return [f"{stem[: KEY_BYTES - 8]}{number:08x}".encode() for number in range(count)]

    def _causes(self) -> str:
        misses = self._client.stats().misses
        return ", ".join(f"{cause} {count}" for cause, count in sorted(misses.items())) or "the server refused them"
