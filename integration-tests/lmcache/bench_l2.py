# SPDX-License-Identifier: Apache-2.0
"""The rounds of ``lmcache bench l2``: MemKV's adapter and LMCache's ``resp`` one (Redis), in turns on one machine.

    .nox/engine-lmcache/bin/python integration-tests/lmcache/bench_l2.py --mode memory --transport tcp

The functions that measure are LMCache's own, and so are keys, buffers and the check of what was loaded. The command
itself measures one adapter after the other; here they take turns round by round, so that a machine that does other
things as well slows both alike. What counts is the median of the ratios. The node's whole space is written once before,
and redis overwrites the keys of earlier rounds: the first touch of memory is paid to the kernel, not to either store.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
sys.path.insert(0, str(Path(__file__).parent))
os.environ.update(LMCACHE_TRACK_USAGE="false", LMCACHE_LOG_LEVEL="WARNING", OMP_NUM_THREADS="1")

from lmcache.cli.commands.bench.l2_adapter_bench import data, runner
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config
from lmcache_rig.server import Server, free_port
from memkv_rig.cluster import Cluster, wait_until

OPERATIONS = ("Store", "Lookup", "Load")
WARM_ROUNDS = 3


@contextmanager
def redis_server() -> Iterator[int]:
    """A redis that keeps nothing on a disk; its port."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        ping = ["redis-cli", "-p", str(port), "ping"]
        if not wait_until(lambda: subprocess.run(ping, capture_output=True, check=False).stdout == b"PONG\n", 30):
            raise RuntimeError("redis-server does not answer")
        yield port
    finally:
        process.terminate()
        process.wait()


class Contestant:
    """One adapter, made as LMCache makes it, and the processes of its server."""

    def __init__(self, described: dict[str, Any], memory: Any, servers: list[psutil.Process]) -> None:
        config = parse_args_to_l2_adapters_config(argparse.Namespace(l2_adapter=[json.dumps(described)])).adapters[0]
        self.adapter = create_l2_adapter(config, l1_memory_desc=memory)
        self._processes = [psutil.Process(), *servers]
        self.times: dict[str, list[float]] = {operation: [] for operation in OPERATIONS}  # in ms
        self.cpu: dict[str, list[float]] = {operation: [] for operation in OPERATIONS}

    def measure(self, operation: str, run: Callable[[], Any], key_count: int) -> None:
        """One round of one operation. Raises RuntimeError where it did not do all keys."""
        begun = self._cpu_ms()
        result = run()
        if result.success_counts != [key_count]:
            raise RuntimeError(f"{operation}: {result.success_counts} of {key_count} keys")
        self.times[operation].append(1000 * result.round_durations[0])
        self.cpu[operation].append(self._cpu_ms() - begun)

    def _cpu_ms(self) -> float:
        return 1000 * sum(sum(process.cpu_times()[:2]) for process in self._processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="memory", choices=("memory", "file"))
    parser.add_argument("--transport", default="auto", choices=("auto", "shm", "tcp"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keys", type=int, default=64)
    parser.add_argument("--size-kb", type=int, default=1024)
    parser.add_argument("--capacity", default="2GiB")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_server() as port:
        cluster = Cluster(Path(folder) / "cluster", capacity=words.capacity, mode=words.mode)
        os.environ.update(cluster.env)
        try:
            compare(cluster, port, words)
        finally:
            cluster.down()


def compare(cluster: Cluster, port: int, words: argparse.Namespace) -> None:
    fill(cluster, words.capacity)
    size = words.size_kb * 1024
    buffer = data.make_aligned_tensor(2 * words.keys * size, 4096)
    memory = data.create_l1_memory_desc(buffer, align_bytes=4096)
    sources = data.make_memory_objects(buffer, words.keys, size, 0, fill_offset=0)
    targets = data.make_memory_objects(buffer, words.keys, size, words.keys * size, fill_offset=1)
    redis = [each for each in psutil.Process().children() if each.name().startswith("redis")]
    contestants = {
        "memkv": Contestant(
            {**Server.ADAPTER, "adapter_params": {"transport": words.transport}}, memory, cluster.processes()[1:]
        ),
        "resp": Contestant({"type": "resp", "host": "127.0.0.1", "port": port}, memory, redis),
    }
    for turn in range(words.rounds + WARM_ROUNDS):
        for name, each in contestants.items():
            first = words.keys * (turn if name == "memkv" else turn % 3)  # redis: overwritten, not allocated anew
            rounds(each, [data.make_object_keys(words.keys, key_offset=first)], sources, targets)
    for operation in OPERATIONS:
        report(operation, contestants["memkv"], contestants["resp"])
    for each in contestants.values():
        each.adapter.close()


def rounds(each: Contestant, keys: list[Any], sources: list[Any], targets: list[Any]) -> None:
    """One round of each operation with verified bytes."""
    count, size = len(keys[0]), sources[0].get_size()
    adapter = each.adapter
    each.measure(
        "Store",
        lambda: runner.bench_store(adapter, 1, count, size, 1, lambda _: keys, lambda _: [sources], _quiet),
        count,
    )
    each.measure("Lookup", lambda: runner.bench_lookup(adapter, 1, count, 1, lambda _: keys, _quiet, 1.0, count), count)
    each.measure(
        "Load",
        lambda: runner.bench_load(adapter, 1, count, size, 1, lambda _: keys, lambda _: [targets], _quiet),
        count,
    )
    if any(
        bytes(source.byte_array) != bytes(target.byte_array) for source, target in zip(sources, targets, strict=True)
    ):
        raise RuntimeError("other bytes came back than were stored")


def report(operation: str, memkv: Contestant, resp: Contestant) -> None:
    mine, theirs = (each.times[operation][WARM_ROUNDS:] for each in (memkv, resp))
    ratios = statistics.quantiles([b / a for a, b in zip(mine, theirs, strict=True)], n=4)
    cpu = [statistics.mean(each.cpu[operation][WARM_ROUNDS:]) for each in (memkv, resp)]
    print(
        f"{operation}: memkv p50 {statistics.median(mine):.2f} ms (best {min(mine):.2f}), "
        f"resp p50 {statistics.median(theirs):.2f} ms (best {min(theirs):.2f}); "
        f"speed over resp's {ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[2]:.2f}); "
        f"CPU of both ends {cpu[0]:.1f} ms, resp {cpu[1]:.1f} ms"
    )


def _quiet(_: str) -> None:
    """LMCache's functions report each round."""


def fill(cluster: Cluster, capacity: str) -> None:
    memkv = str(Path(sys.executable).with_name("memkv"))
    command = [memkv, "bench", "--fill", capacity, "--duration", "1"]
    subprocess.run(command, check=True, env={**os.environ, **cluster.env}, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
