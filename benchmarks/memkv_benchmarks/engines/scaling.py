# SPDX-License-Identifier: Apache-2.0
"""How MemKV scales on one machine: with stored blocks, with clients, with nodes.

    python benchmarks/memkv_benchmarks/engines/scaling.py --out build/engines --part blocks

``blocks``: the latency of a get, of one block and of 64, at random among 10^3 to 10^6 blocks of 1 KiB: it should not
grow. ``clients`` and ``nodes``: bytes a second of all clients together; two cores are full with one of each.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.extend(str(Path(__file__).parents[3] / folder) for folder in ("benchmarks", "integration-tests/rig"))

from memkv_rig.cluster import Cluster

from memkv_benchmarks.engines.results import Curve, save
from memkv_core import Client, ClientConfig
from memkv_server.bench.plan import Outcome, Plan, quantile
from memkv_server.bench.run import run

PARTS: Final = ("blocks", "clients", "nodes")
STORED: Final = (1_000, 10_000, 100_000, 1_000_000)
BLOCK_BYTES: Final = 1024
BATCH: Final = 64
COUNTS: Final = (1, 2, 4, 8)
_PUT_BATCH: Final = 4096
_CALLS: Final = 2_000
_SHUFFLE: Final = 2_654_435_761  # keys are spread, as digests of prompts are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/engines"))
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each number of clients or nodes")
    parser.add_argument("--stored-max", type=int, default=STORED[-1])
    given = parser.parse_args()
    for part in given.part or PARTS:
        if part == "blocks":
            curves = blocks([count for count in STORED if count <= given.stored_max])
        elif part == "clients":
            curves = [throughput(f"{op}, one node", op, given.seconds, lambda n: (1, n)) for op in ("get", "put")]
        else:
            curves = [throughput(f"{op}, two clients", op, given.seconds, lambda n: (n, 2)) for op in ("get", "put")]
        save(given.out / f"{part}.json", {"command": f"nox -s bench-engines -- --part {part}"}, curves)
        for curve in curves:
            print(curve.name, curve.note, curve.points(), curve.high, flush=True)


def blocks(counts: list[int]) -> list[Curve]:
    """Latencies in seconds by the number of stored blocks."""
    one, many = Curve("get, one block"), Curve(f"get, {BATCH} blocks")
    with _cluster(1, "2GiB") as client:
        random = np.random.default_rng(1)
        values = random.integers(0, 256, (_PUT_BATCH, BLOCK_BYTES), dtype=np.uint8)
        targets = [bytearray(BLOCK_BYTES) for _ in range(BATCH)]
        stored = 0
        for count in counts:
            while stored < count:
                numbers = range(stored, min(stored + _PUT_BATCH, count))
                sources = [values[number % _PUT_BATCH].data for number in numbers]
                if not all(client.put([_key(number) for number in numbers], sources)):
                    raise SystemExit(f"a put failed: {client.stats().misses}")
                stored += len(numbers)
            for curve, batch in ((one, 1), (many, BATCH)):
                latencies = [_get(client, random.integers(0, count, batch), targets, values) for _ in range(_CALLS)]
                curve.samples[count] = [quantile(latencies[at : at + 200], 0.5) for at in range(0, _CALLS, 200)]
                curve.high[count] = quantile(latencies, 0.99)
    return [many, one]


def _get(client: Client, numbers: Any, targets: list[bytearray], values: Any) -> float:
    """Seconds of one get; its bytes are compared outside of them."""
    keys = [_key(int(number)) for number in numbers]
    begun_s = time.perf_counter()
    lengths = client.get(keys, targets[: len(keys)])
    elapsed_s = time.perf_counter() - begun_s
    if lengths != [BLOCK_BYTES] * len(keys):
        raise SystemExit(f"a block is missing: {client.stats().misses}")
    if any(bytes(values[int(number) % _PUT_BATCH]) != target for number, target in zip(numbers, targets)):
        raise SystemExit("other bytes came back than were put")
    return elapsed_s


def throughput(name: str, operation: str, seconds: float, sizes: Callable[[int], tuple[int, int]]) -> Curve:
    """Bytes a second; ``sizes(n)`` says how many nodes and clients that is."""
    curve = Curve(name)
    for number in COUNTS:
        nodes, clients = sizes(number)
        with tempfile.TemporaryDirectory(prefix="memkv-scaling-") as folder:
            cluster = Cluster(Path(folder) / "cluster", nodes=nodes, capacity=f"{2048 // nodes}MiB")
            os.environ.update(cluster.env)
            try:
                plan = Plan(
                    operations=(operation,), clients=clients, seconds=seconds, slices=3,
                    batches=2, fill_bytes=2 << 30, run=str(number),
                )  # fmt: skip
                report = run(plan, raw=False, redis_address=None, progress=_Silent())
            finally:
                cluster.down()
        if report.failures:
            raise SystemExit(f"{report.failures} keys failed")
        curve.samples[number] = report.outcomes[operation].slice_rates()
    return curve


class _cluster:
    """A cluster and a client of it."""

    def __init__(self, nodes: int, capacity: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="memkv-scaling-")
        self._cluster = Cluster(Path(self._folder.name) / "cluster", nodes=nodes, capacity=capacity)

    def __enter__(self) -> Client:
        os.environ.update(self._cluster.env)
        self._client = Client(ClientConfig.load(namespace="scaling", timeout_ms=60_000))
        return self._client

    def __exit__(self, *exc: object) -> None:
        self._client.close()
        self._cluster.down()
        self._folder.cleanup()


class _Silent:
    def begin(self, operation: str) -> None:
        """Nothing is shown."""

    def so_far(self, operation: str, index: int, calls: int, moved_bytes: int, seconds: float) -> None:
        """Nothing is shown."""

    def end(self, operation: str, index: int, outcome: Outcome) -> None:
        """Nothing is shown."""


def _key(number: int) -> bytes:
    return b"%016x/block" % (number * _SHUFFLE & 0xFFFFFFFFFFFFFFFF)


if __name__ == "__main__":
    main()
