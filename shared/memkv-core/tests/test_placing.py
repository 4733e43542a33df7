# SPDX-License-Identifier: Apache-2.0
"""Where the blocks of a call are: against a server that does as the frame says, over plain memory."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from memkv_core import wire
from memkv_core.calls import GetCall, PutCall
from memkv_core.digests import digest
from memkv_core.places import Places
from memkv_core.regions import Range, Regions, address_of
from memkv_core.staging import Staging
from memkv_core.transports.placing import PlacedCall, Shelf
from memkv_core.wire import Flag, Header, Opcode, Status

SLOT = 4096
SLOTS = 48
POOL = 1 << 16
STAGING, REGISTERED = 9, 3


class Bench:
    """A path's shelf with memory of its own; what a call leaves in the slots lies in no order."""

    def __init__(self, rng: random.Random, *, registered: bool) -> None:
        self.rng = rng
        self.staging = Staging(SLOTS * SLOT, SLOT)
        self.staging.open(SLOTS)
        self.pool = bytearray(rng.randbytes(POOL))
        ranges = {STAGING: Range(STAGING, self.staging.address, self.staging.size_bytes)}
        if registered:
            ranges[REGISTERED] = Range(REGISTERED, address_of(memoryview(self.pool)), POOL)
        regions = Regions()
        regions.replace(ranges)
        self.memory = {STAGING: self.staging.area(0, SLOTS), REGISTERED: memoryview(self.pool)}
        self.shelf = Shelf(regions, self.staging, puts_direct=True, gets_direct=True, depth=4)
        self.shelf.slots_known = SLOTS
        gap = self.staging.take(rng.randrange(1, 5) * SLOT, SLOTS)
        assert self.staging.take(rng.randrange(1, 3) * SLOT, SLOTS)
        assert gap is not None
        self.staging.give_back(gap)

    def blocks(self) -> list[list[memoryview]]:
        rng, blocks = self.rng, []
        for _ in range(rng.randrange(8)):
            parts = []
            for _ in range(rng.randrange(4)):
                size = rng.choice((1, 7, 64, 1000, 4096, 9000))
                at = rng.randrange(POOL - size)
                in_pool = rng.random() < 0.4
                parts.append(memoryview(self.pool)[at : at + size] if in_pool else memoryview(bytearray(size)))
            blocks.append(parts)
        return blocks

    def values(self, places: Places) -> list[list[memoryview]]:
        """What a server sees of each block."""
        views = [self.memory[number][offset : offset + size] for number, offset, size in places.parts.tolist()]
        values, at = [], 0
        for count in places.counts.tolist():
            values.append(views[at : at + count])
            at += count
        assert at == len(views)
        return values


def header(opcode: Opcode, count: int, flags: int = Flag.PLACED) -> Header:
    return Header(opcode, flags, 0, 0, count, 0, 0)


@given(st.integers(0, 2**32), st.booleans())
def test_a_put(seed: int, registered: bool) -> None:
    bench = Bench(random.Random(seed), registered=registered)
    blocks = bench.blocks()
    for block in blocks:
        for part in block:
            part[:] = bench.rng.randbytes(len(part))
    wanted = [b"".join(block) for block in blocks]
    free = bench.staging.free_count
    call = PutCall(range(len(blocks)), [b"k%d" % at for at in range(len(blocks))], blocks, None, 0)
    placed = PlacedCall(call, bench.shelf)
    assert placed.prepare()
    assert placed.placed
    request, places = wire.decode_placed_put(placed.metadata, header(Opcode.PUT, len(blocks)))
    assert [b"".join(value) for value in bench.values(places)] == wanted
    assert request.digests == [digest([memoryview(value)], 0) for value in wanted]
    placed.done = True
    assert placed.staged_bytes + placed.registered_bytes == sum(map(len, wanted))
    assert registered or not placed.registered_bytes
    assert (bench.staging.free_count, call.flags) == (free, 0)


@given(st.integers(0, 2**32), st.booleans())
def test_a_get(seed: int, registered: bool) -> None:
    bench = Bench(random.Random(seed), registered=registered)
    rng, blocks = bench.rng, bench.blocks()
    blocks = [[part for part in block if part.obj is not bench.pool] for block in blocks]  # targets do not overlap
    if blocks:
        blocks[0].append(memoryview(bench.pool)[100:9100])
    capacities = [sum(map(len, block)) for block in blocks]
    keys = [b"k%d" % at for at in range(len(blocks))]
    call = GetCall(range(len(blocks)), keys, blocks, capacities, with_meta=False, kind_min=0)
    placed = PlacedCall(call, bench.shelf)
    assert placed.prepare()
    _, _, places = wire.decode_placed_get(placed.metadata, len(blocks))
    hits = [rng.random() < 0.8 for _ in blocks]
    lengths = [rng.randint(0, capacity) if hit else 0 for hit, capacity in zip(hits, capacities, strict=True)]
    values = [rng.randbytes(length) for length in lengths]
    for value, views in zip(values, bench.values(places), strict=True):
        left = value
        for view in views:
            some, left = left[: len(view)], left[len(view) :]
            view[: len(some)] = some
    statuses = bytes(Status.HIT if hit else Status.MISS for hit in hits)
    digests = [digest([memoryview(value)], 0) if hit else bytes(16) for hit, value in zip(hits, values, strict=True)]
    metadata = wire.encode_get_response(statuses, bytes(len(blocks)), lengths, digests, None)
    assert placed.accept(header(Opcode.GET, len(blocks), Flag.RESPONSE | Flag.PLACED), metadata) == []
    placed.landed(0)
    placed.done = True
    assert call.lengths == [length if hit else None for hit, length in zip(hits, lengths, strict=True)]
    for value, hit, block in zip(values, hits, blocks, strict=True):
        assert not hit or b"".join(block)[: len(value)] == value
    assert call.corrupt == []
    assert placed.staged_bytes + placed.registered_bytes == sum(lengths)
