# SPDX-License-Identifier: Apache-2.0
"""Each policy against the plainest model of it, and a small trace whose outcome is written down."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_server.simulate.policies import BlockPolicy, Fifo, Lru, S3Fifo, Sieve
from memkv_server.simulate.replay import make_policy, replay
from memkv_server.simulate.synthetic import synthetic_trace
from memkv_server.simulate.trace import Trace

USES = st.lists(st.integers(0, 25), max_size=300)
CAPACITIES = st.integers(1, 14)


class FifoModel:
    """A list; index 0 is the oldest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: list[int] = []

    def use(self, block: int) -> bool:
        if block in self.held:
            return True
        self.held = [*self.held, block][-self.capacity :]
        return False


class LruModel(FifoModel):
    def use(self, block: int) -> bool:
        hit = block in self.held
        self.held = [*(other for other in self.held if other != block), block][-self.capacity :]
        return hit


class SieveModel:
    """Figure 4 of the paper, on a list of [block, visited] from the newest (the head) to the oldest (the tail)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[list[int]] = []
        self.hand: list[int] | None = None

    @property
    def held(self) -> list[int]:
        return [block for block, _ in self.queue]

    def use(self, block: int) -> bool:
        for entry in self.queue:
            if entry[0] == block:
                entry[1] = 1
                return True
        if len(self.queue) == self.capacity:
            place = self.queue.index(self.hand) if self.hand is not None else len(self.queue) - 1
            while self.queue[place][1]:
                self.queue[place][1] = 0
                place = place - 1 if place else len(self.queue) - 1
            self.hand = self.queue[place - 1] if place else None
            del self.queue[place]
        self.queue.insert(0, [block, 0])
        return False


class S3FifoModel:
    """Algorithm 1 of the paper, on lists of [block, count] from the oldest to the newest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.small_max = max(1, capacity // 10)
        self.main_max = capacity - self.small_max
        self.small: list[list[int]] = []
        self.main: list[list[int]] = []
        self.ghosts: list[int] = []

    @property
    def held(self) -> list[int]:
        return [block for block, _ in self.small + self.main]

    def use(self, block: int) -> bool:
        for entry in self.small + self.main:
            if entry[0] == block:
                entry[1] = min(entry[1] + 1, 3)
                return True
        while len(self.held) >= self.capacity:
            if len(self.small) >= self.small_max or not self.main:
                self.evict_small()
            else:
                self.evict_main()
        if block in self.ghosts:
            self.ghosts.remove(block)
            self.main.append([block, 0])
        else:
            self.small.append([block, 0])
        return False

    def evict_small(self) -> None:
        while self.small:
            block, count = self.small.pop(0)
            if count > 1:
                if len(self.main) >= self.main_max:
                    self.evict_main()
                self.main.append([block, 0])
            else:
                self.ghosts = [*self.ghosts, block][max(0, len(self.ghosts) + 1 - self.main_max) :]
                return

    def evict_main(self) -> None:
        while self.main:
            block, count = self.main.pop(0)
            if count == 0:
                return
            self.main.append([block, count - 1])


PAIRS = [(Fifo, FifoModel), (Lru, LruModel), (S3Fifo, S3FifoModel), (Sieve, SieveModel)]


def _agree(policy: BlockPolicy, model: FifoModel | SieveModel | S3FifoModel, uses: list[int]) -> None:
    for block in uses:
        assert policy.use(block) == model.use(block)
        assert len(policy) == len(model.held) <= policy.capacity
        assert all(held in policy for held in model.held)


@pytest.mark.parametrize(("policy", "model"), PAIRS)
@given(uses=USES, capacity=CAPACITIES)
def test_a_policy_is_its_model(policy: type[BlockPolicy], model: type, uses: list[int], capacity: int) -> None:
    _agree(policy(capacity), model(capacity), uses)


@pytest.mark.parametrize(("policy", "model"), PAIRS)
def test_a_policy_is_its_model_over_a_long_time(policy: type[BlockPolicy], model: type) -> None:
    draw = random.Random(11)
    uses = [int(80 * draw.random() ** 2) + number // 400 for number in range(4_000)]
    _agree(policy(23), model(23), uses)


@pytest.mark.parametrize("policy", [policy for policy, _ in PAIRS])
@given(requests=st.lists(st.lists(st.integers(0, 20), unique=True, max_size=12), max_size=40), capacity=CAPACITIES)
def test_a_request_is_the_uses_of_its_blocks(
    policy: type[BlockPolicy], requests: list[list[int]], capacity: int
) -> None:
    one, other = policy(capacity, 10), policy(capacity, 10)
    for request in requests:
        run = 0
        while run < len(request) and request[run] in other:
            run += 1
        hits = [other.use(block) for block in request]
        assert one.request(request) == (run, sum(hits))
    assert (one.user_bytes, one.reinserted_bytes) == (sum(_missed(policy(capacity), requests)) * 10, 0)


def _missed(policy: BlockPolicy, requests: list[list[int]]) -> Iterator[bool]:
    for request in requests:
        for block in request:
            yield not policy.use(block)


# Ten requests on one system prompt (0, 1): three conversations that grow, and what is asked once.
SMALL = Trace.of(
    "small",
    [
        [0, 1, 2, 3],
        [0, 1, 10, 11, 12],
        [0, 1, 2, 3, 4],
        [0, 1, 20],
        [0, 1, 10, 11, 12, 13],
        [0, 1, 30, 31, 32],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 20, 21],
        [0, 1, 10, 11, 12, 13, 14],
        [0, 1, 2, 3, 4, 5, 6],
    ],
)
GOLDEN = {  # leading hits and block hits of 52 references, at 8 blocks and at 12
    "fifo": [(14, 17), (24, 26)],
    "lru": [(20, 20), (23, 23)],
    "s3-fifo": [(26, 26), (26, 28)],
    "sieve": [(24, 24), (30, 30)],
    "memkv": [(12, 17), (21, 22)],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_small_trace_comes_out_as_written_down(name: str) -> None:
    assert (SMALL.reference_count, SMALL.distinct_count) == (52, 17)
    outcomes = [replay(SMALL, name, blocks, make_policy(name, blocks, 1024, blocks // 2)) for blocks in (8, 12)]
    assert [(outcome.leading_hits, outcome.block_hits) for outcome in outcomes] == GOLDEN[name]


@pytest.mark.parametrize("name", ["zipf", "conversations"])
def test_ours_is_near_the_best_within_its_budget(name: str) -> None:
    """Ten requests show nothing; these, made by rule, show that a change of the policy made nothing worse."""
    trace = synthetic_trace(name)
    trace = Trace.of(name, trace.requests[: 20_000 if name == "zipf" else 4_000])
    capacity = trace.distinct_count // 5
    ratios = {
        policy: replay(trace, policy, capacity, make_policy(policy, capacity, 1024, 40))
        for policy in ("fifo", "lru", "memkv")
    }
    ours = ratios["memkv"]
    assert ours.leading_hits > ratios["fifo"].leading_hits
    assert ours.leading_hit_ratio > ratios["lru"].leading_hit_ratio - 0.06
    assert 1.1 < ours.write_amplification <= 1.29
