# SPDX-License-Identifier: Apache-2.0
"""How long a small question takes while others move bulk: ``exists`` of one key, alone and beside clients at work.

    eval "$(memkv dev up)"
    python -m memkv_server.bench.beside --clients 4 --bytes 1073741824

Each bulk client is a process of its own that puts and gets batches of 64 blocks, in turns, until the given bytes have
moved; the one that asks is this process. Alone, before and after, the same question gives what the machine takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.synchronize import Barrier, Event
from typing import Any, Final

import numpy as np

from memkv_core import Client, ClientConfig
from memkv_server.bench.plan import quantile

BATCH: Final = 64
NAMESPACE: Final = "memkv-bench-beside"
ALONE_S: Final = 3.0
START_S: Final = 60.0


def move(number: int, size: int, block_bytes: int, begin: Barrier, done: Event) -> None:
    """One bulk client: puts and gets in turns until ``size`` bytes have moved. Every get is verified."""
    rng = np.random.default_rng(number)
    source = rng.integers(0, 256, BATCH * block_bytes, dtype=np.uint8)
    target = np.zeros_like(source)
    sources = [source[at : at + block_bytes].data for at in range(0, source.size, block_bytes)]
    targets = [target[at : at + block_bytes].data for at in range(0, source.size, block_bytes)]
    with Client(ClientConfig.load(namespace=NAMESPACE)) as client:
        moved, turn = 0, 0
        client.exists([b"warm"])
        begin.wait(START_S)
        while moved < size:
            turn += 1
            keys = [b"%d/%d/%d/%d" % (os.getpid(), number, turn % 4, at) for at in range(BATCH)]
            source[:8] = np.frombuffer(turn.to_bytes(8, "little"), np.uint8)
            client.put(keys, sources)
            client.get(keys, targets)
            moved += 2 * source.size
        client.delete([b"%d/%d/%d/%d" % (os.getpid(), number, turn, at) for turn in range(4) for at in range(BATCH)])
    done.set()


def ask(client: Client, until: Any) -> list[float]:
    """Latencies of one question after the other, in seconds, until ``until()``."""
    latencies = []
    while not until():
        before_s = time.perf_counter()
        client.exists([b"asked"])
        latencies.append(time.perf_counter() - before_s)
        time.sleep(0.0005)  # as an engine asks: now and then
    return latencies


def fill(client: Client, size: int) -> None:
    """Writes so many bytes once, since memory that was never touched is slow at first."""
    block = os.urandom(1 << 20)
    for number in range(size // (BATCH * len(block))):
        client.put([b"fill/%d/%d/%d" % (os.getpid(), number, at) for at in range(BATCH)], [block] * BATCH)


def alone(client: Client) -> list[float]:
    """Latencies with nobody else there."""
    until_s = time.monotonic() + ALONE_S
    return ask(client, lambda: time.monotonic() >= until_s)


def run(clients: int, size: int, block_bytes: int, fill_bytes: int) -> dict[str, Any]:
    """Measures alone, beside the bulk, alone again."""
    context = multiprocessing.get_context("spawn")
    begin, ends = context.Barrier(clients + 1), [context.Event() for _ in range(clients)]
    with Client(ClientConfig.load(namespace=NAMESPACE)) as client:
        fill(client, fill_bytes)
        client.put([b"asked"], [b"value"])
        idle = alone(client)
        processes = [
            context.Process(target=move, args=(number, size // clients, block_bytes, begin, ends[number]))
            for number in range(clients)
        ]
        for process in processes:
            process.start()
        begin.wait(START_S)
        started_s = time.monotonic()
        crowded = ask(client, lambda: any(end.is_set() for end in ends))  # while all of them move
        seconds = time.monotonic() - started_s
        for process in processes:
            process.join()
        idle += alone(client)
    failed = [process.exitcode for process in processes if process.exitcode]
    rows = {name: _row(latencies) for name, latencies in (("alone", idle), ("beside", crowded))}
    return {
        **rows,
        "p50_ratio": round(quantile(crowded, 0.5) / quantile(idle, 0.5), 2),
        "p99_ratio": round(quantile(crowded, 0.99) / quantile(idle, 0.99), 2),
        "clients": clients,
        "block_bytes": block_bytes,
        "seconds": round(seconds, 2),
        "failed_clients": len(failed),
    }


def _row(latencies: list[float]) -> dict[str, float]:
    microseconds = [latency * 1e6 for latency in latencies]
    return {
        "questions": len(latencies),
        **{f"p{q}_us": round(quantile(microseconds, q / 100), 1) for q in (50, 90, 99)},
    }


def main() -> None:
    """The command line; one JSON object on stdout."""
    parser = argparse.ArgumentParser(description="Latency of exists while other clients move bulk.")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--bytes", type=int, default=1 << 30, help="moved by all of them together")
    parser.add_argument("--block-bytes", type=int, default=1 << 20)
    parser.add_argument("--fill-bytes", type=int, default=0, help="written before: fresh space is slow at first")
    given = parser.parse_args()
    result = run(given.clients, given.bytes, given.block_bytes, given.fill_bytes)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
