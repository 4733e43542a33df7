# SPDX-License-Identifier: Apache-2.0
"""What RDMA costs in Python: microseconds a block, of both sides, without the device and without the digests.

    python benchmarks/bench_rdma_python.py            # one line for each batch size; exit code 1 above the bound

The devices are the fake ones, whose time in posting and polling is taken off; blocks are pages of a registered pool.
A client's side is a GET's or PUT's places (found, laid out, encoded) and its completion; the server's is decoding,
checking and pairing them, and making work requests.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from memkv_core.calls import GetCall
from memkv_core.places import Access, Endpoint, RegionKind, RegionRequest, decode_places, encode_places
from memkv_core.regions import Regions as ClientRegions
from memkv_core.staging import Staging
from memkv_core.testing.fake_verbs import Fabric, FakeVerbs
from memkv_core.transports import verbs
from memkv_core.transports.placing import PlacedCall, Shelf
from memkv_core.transports.verbs import DeviceSpec, Peer
from memkv_server.movers import Regions, pair
from memkv_server.rdma import RdmaDevice

BOUND_US = 5.0
BLOCK_BYTES = 4096


class Clock:
    """Time spent in the device's calls, to be taken off."""

    def __init__(self) -> None:
        self.device_s = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.device_s += time.perf_counter() - started_s

        return run


class Bench:
    """One client's pool and one server's store, paired."""

    def __init__(self, blocks: int) -> None:
        self.clock = Clock()
        fabric = Fabric()
        self.pool = np.zeros(2 * blocks * BLOCK_BYTES, np.uint8)
        self.store = np.zeros(blocks * BLOCK_BYTES, np.uint8)
        client = FakeVerbs(fabric, ["client"]).open(DeviceSpec("client"))
        domain = client.protection_domain()
        region = domain.register(self.pool, verbs.ALL_ACCESS)
        self.queue = client.completion_queue(64)
        self.endpoint = domain.endpoint(self.queue, 1, 32)
        self.device = RdmaDevice(FakeVerbs(fabric, ["node"]).open(DeviceSpec("node")), [self.store.data], 1 << 20)
        local = self.endpoint.local
        asked = (local.qpn, local.psn, local.gid, local.lid, local.mtu, 1, 32, local.reads, 0)
        self.mover, answer = self.device.connect(Endpoint(*asked), "bench")
        self.endpoint.connect(Peer(answer.qpn, answer.psn, answer.gid, answer.lid, answer.mtu, answer.reads))
        self.mover.endpoint.post = self.clock.timed(self.mover.endpoint.post)  # type: ignore[method-assign]
        self.device.queue.poll = self.clock.timed(self.device.queue.poll)  # type: ignore[method-assign]
        self.regions = ClientRegions()
        known = self.regions.add(region.address, region.size_bytes)
        self.server_regions = Regions()
        request = RegionRequest(known.number, 3, RegionKind.RDMA, known.size_bytes, known.address, region.rkey)
        self.server_regions.add(request, known.address, region.rkey)
        self.keys = [b"%032d" % number for number in range(blocks)]
        order = np.random.default_rng(1).permutation(2 * blocks)[:blocks]  # pages lie about, as an engine's do
        self.targets = [[self.pool.data[at * BLOCK_BYTES :][:BLOCK_BYTES]] for at in order.tolist()]
        self.views: list[memoryview | None] = [
            self.store.data[at * BLOCK_BYTES :][:BLOCK_BYTES] for at in range(blocks)
        ]
        self.sizes = [BLOCK_BYTES] * blocks
        self.shelf = Shelf(self.regions, Staging(1 << 20, 1 << 20), puts_direct=True, gets_direct=True, depth=32)

    def client(self) -> bytes:
        """The places of a GET, as they are sent."""
        call = GetCall(range(len(self.keys)), self.keys, self.targets, self.sizes, with_meta=False, kind_min=0)
        placed = PlacedCall(call, self.shelf)
        assert placed.prepare()
        data = encode_places(placed.places())
        placed.done = True
        return data

    def call_alone(self) -> None:
        """What a call costs over any transport: not counted."""
        GetCall(range(len(self.keys)), self.keys, self.targets, self.sizes, with_meta=False, kind_min=0)

    def server(self, data: bytes) -> None:
        """From places to a move that has settled."""
        places = decode_places(data, self.sizes)
        remote, rkeys = self.server_regions.resolve(places.parts, Access.WRITE)
        self.endpoint.post_receives(1, 0)
        move = self.mover.write(pair(places, remote, rkeys, self.views), 7)
        self.mover.turn()
        assert (move.settled, move.failure) == (True, None)
        self.queue.poll()

    def close(self) -> None:
        self.device.close()


def best_us(work: Callable[[], Any], clock: Clock, rounds: int) -> float:
    """The fastest round, in microseconds, without the device."""
    best = float("inf")
    for _ in range(rounds):
        clock.device_s = 0.0
        started_s = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started_s - clock.device_s)
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    given = parser.parse_args()
    worst = 0.0
    for blocks in (16, 64, 256, 1024):
        bench = Bench(blocks)
        data = bench.client()
        client = best_us(bench.client, bench.clock, given.rounds) - best_us(bench.call_alone, bench.clock, given.rounds)
        server = best_us(partial(bench.server, data), bench.clock, given.rounds)
        total = (client + server) / blocks
        print(f"{blocks:5} blocks: client {client / blocks:.2f} µs, server {server / blocks:.2f} µs a block")
        if blocks >= 64:
            worst = max(worst, total)
        bench.close()
    if worst > BOUND_US:
        raise SystemExit(f"{worst:.2f} µs a block, {BOUND_US} at most")


if __name__ == "__main__":
    main()
