# SPDX-License-Identifier: Apache-2.0
"""LMCache's own ``lmcache bench l2``: MemKV's adapter and its ``resp`` one (Redis), in turns on one machine.

    .nox/engine-lmcache/bin/python integration-tests/lmcache/bench_l2.py --mode memory

Each turn is one run of the command for either, with verified data and keys that are new to the store. What is compared
is the ratio of the same turn; its median is what counts on a machine that does other things as well. Before the first
turn the node's whole space is written once: the first touch of memory is paid to the kernel, not to either store.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from lmcache_rig.cluster import Cluster, wait_until
from lmcache_rig.server import Server, free_port

OPERATIONS = ("Store", "Lookup", "Load")
ROUND = re.compile(r"\[(\w+)\] Round \d+: ([0-9.]+) ms, \w+=(\d+)/(\d+)")


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


def measure(adapter: dict[str, Any], words: argparse.Namespace, env: dict[str, str]) -> dict[str, float]:
    """Milliseconds of a round, by operation: the median of one run of the command. Raises RuntimeError if it failed."""
    command = [str(Path(sys.executable).with_name("lmcache")), "bench", "l2", "--l2-adapter", json.dumps(adapter)]
    command += [
        "--num-keys",
        str(words.keys),
        "--data-size-kb",
        str(words.size_kb),
        "--in-flight",
        str(words.in_flight),
    ]
    command += ["--rounds", str(words.rounds), "--no-skip-verify", "--lookup-max-hit-rate", "1.0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **env})
    if ran.returncode or "mismatch" in ran.stdout:
        raise RuntimeError(ran.stdout[-2000:] + ran.stderr[-2000:])
    times: dict[str, list[float]] = {operation: [] for operation in OPERATIONS}
    for operation, milliseconds, done, asked in ROUND.findall(ran.stdout):
        if done != asked:
            raise RuntimeError(f"{operation}: {done} of {asked} keys")
        times[operation].append(float(milliseconds))
    return {operation: statistics.median(each[1:]) for operation, each in times.items()}  # the first is for warmth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="memory", choices=("memory", "file"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=64)
    parser.add_argument("--size-kb", type=int, default=1024)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--capacity", default="2GiB")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_server() as port:
        cluster = Cluster(Path(folder) / "cluster", capacity=words.capacity, mode=words.mode)
        try:
            compare(cluster, port, words)
        finally:
            cluster.down()


def compare(cluster: Cluster, port: int, words: argparse.Namespace) -> None:
    env = {**cluster.env, "LMCACHE_TRACK_USAGE": "false", "LMCACHE_LOG_LEVEL": "WARNING", "OMP_NUM_THREADS": "1"}
    redis = {"type": "resp", "host": "127.0.0.1", "port": port}
    fill(cluster, words.capacity)
    measured: dict[str, list[dict[str, float]]] = {"memkv": [], "resp": []}
    for turn in range(words.turns):
        ours = {**Server.ADAPTER, "adapter_params": {"prefix": f"turn-{turn}"}}
        measured["memkv"].append(measure(ours, words, env))
        measured["resp"].append(measure(redis, words, env))
    for operation in OPERATIONS:
        times = {name: [each[operation] for each in runs] for name, runs in measured.items()}
        ratios = [theirs / mine for mine, theirs in zip(times["memkv"], times["resp"], strict=True)]
        typical = {name: statistics.median(each) for name, each in times.items()}
        print(
            f"{operation}: memkv {typical['memkv']:.2f} ms, resp {typical['resp']:.2f} ms, "
            f"speed over resp's {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def fill(cluster: Cluster, capacity: str) -> None:
    memkv = str(Path(sys.executable).with_name("memkv"))
    command = [memkv, "bench", "--fill", capacity, "--duration", "1"]
    subprocess.run(command, check=True, env={**os.environ, **cluster.env}, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
