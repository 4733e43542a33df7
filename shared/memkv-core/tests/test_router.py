# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memkv_core import router
from memkv_core.errors import ConfigError
from memkv_core.limits import SERVERS_MAX, SLOT_COUNT
from memkv_core.router import Router

HASHES = [router.key_hash(b"model/page-%d" % number, router.namespace_seed("default")) for number in range(20_000)]
SOME = HASHES[:5000]  # enough to see what moves
NAMES = st.lists(
    st.from_regex(r"[a-z]{1,8}\.[a-z]{1,8}:9[0-9]{3}", fullmatch=True), min_size=1, max_size=6, unique=True
)


def homes(placed: Router, order: int = 0, hashes: list[int] = SOME) -> list[str]:
    return [placed.servers[index] for index in placed.place(hashes, order)]


def test_hashes_of_a_batch() -> None:
    keys = [b"a", b"b", b"c"]
    hashes = router.KeyHashes(keys, 7)
    assert hashes.at([2, 0]) == [router.key_hash(b"c", 7), router.key_hash(b"a", 7)]
    assert hashes.at(range(1, 2)) == [router.key_hash(b"b", 7)]


@pytest.mark.parametrize(
    "servers",
    [
        ["10.0.0.1:9900", "10.0.0.2:9900"],
        ["memkv-0.memkv:9900", "memkv-1.memkv:9900"],
        ["127.0.0.1:9900", "127.0.0.1:9902"],
        ["a:9900", "b:9900"],
    ],
)
def test_two_servers_share_evenly(servers: list[str]) -> None:
    counts = Counter(homes(Router(servers), hashes=HASHES))
    assert all(0.9 * len(HASHES) / 2 <= counts[server] <= 1.1 * len(HASHES) / 2 for server in servers), counts


def test_eight_servers_share_evenly() -> None:
    servers = [f"memkv-{number}.memkv:9900" for number in range(8)]
    counts = Counter(homes(Router(servers), hashes=HASHES))
    assert sum(counts.values()) == len(HASHES)
    assert all(0.8 * len(HASHES) / 8 <= counts[server] <= 1.2 * len(HASHES) / 8 for server in servers), counts


def test_weights() -> None:
    servers, weights = ["small:9900", "large:9900", "medium:9900"], [1, 4, 2]
    counts = Counter(homes(Router(servers, weights=weights), hashes=HASHES))
    for server, weight in zip(servers, weights):
        assert counts[server] == pytest.approx(len(HASHES) * weight / 7, rel=0.15), counts


def test_one_server_has_everything() -> None:
    alone = Router(["a:9900"], replicas=3)
    assert alone.replicas == 1
    assert set(alone.place(HASHES)) == {0}
    assert alone.servers_of(HASHES[0]) == (0,)


@settings(max_examples=8)
@given(names=NAMES, more=st.from_regex(r"new[0-9]{1,6}:9900", fullmatch=True))
def test_a_server_that_joins_takes_keys_and_moves_no_other(names: list[str], more: str) -> None:
    before, after = homes(Router(names)), homes(Router([*names, more]))
    moved = [(old, new) for old, new in zip(before, after) if old != new]
    assert {new for _, new in moved} == {more}
    share = len(SOME) / (len(names) + 1)
    assert 0.7 * share <= len(moved) <= 1.3 * share


@settings(max_examples=8)
@given(names=NAMES.filter(lambda names: len(names) > 1), gone=st.integers(0, 10))
def test_a_server_that_leaves_moves_its_own_keys_only(names: list[str], gone: int) -> None:
    """And they go to their second server, where a replica is."""
    left = [name for name in names if name != names[gone % len(names)]]
    whole = Router(names, replicas=2)
    first, second, after = homes(whole), homes(whole, 1), homes(Router(left))
    for one, two, new in zip(first, second, after):
        assert new == (one if one in left else two)


@settings(max_examples=6)
@given(names=NAMES, seed=st.integers(0, 2**32))
def test_the_order_of_the_list_does_not_matter(names: list[str], seed: int) -> None:
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    weights = {name: 1 + at % 3 for at, name in enumerate(names)}
    one = Router(names, replicas=2, weights=[weights[name] for name in names])
    two = Router(shuffled, replicas=2, weights=[weights[name] for name in shuffled])
    for order in range(one.replicas):
        assert homes(one, order) == homes(two, order)


def test_replicas_are_different_servers() -> None:
    placed = Router([f"s{number}:9900" for number in range(5)], replicas=3)
    for hashed in HASHES[:2000]:
        assert len(set(placed.servers_of(hashed))) == 3
    assert [placed.servers_of(hashed)[1] for hashed in HASHES] == placed.place(HASHES, 1)


def test_lanes_are_even_and_independent_of_the_server() -> None:
    placed = Router(["a:9900", "b:9900"])
    servers, lanes = placed.place(HASHES), router.lanes_of(HASHES, 4)
    counts = Counter(zip(servers, lanes))
    assert len(counts) == 8
    assert all(0.75 * len(HASHES) / 8 <= count <= 1.25 * len(HASHES) / 8 for count in counts.values()), counts
    assert set(router.lanes_of(HASHES, 1)) == {0}
    assert len(router.lane_table(7)) == SLOT_COUNT
    moved = sum(one != two for one, two in zip(router.lanes_of(HASHES, 4), router.lanes_of(HASHES, 5)))
    assert 0.1 * len(HASHES) < moved < 0.3 * len(HASHES)


def test_namespaces_place_the_same_key_apart() -> None:
    placed = Router(["a:9900", "b:9900"])
    seeds = [router.namespace_seed(name) for name in ("one", "two")]
    homes_of_both = [placed.place([router.key_hash(b"%d" % number, seed) for number in range(1000)]) for seed in seeds]
    assert 350 < sum(one != two for one, two in zip(*homes_of_both)) < 650


@pytest.mark.parametrize(
    "servers", [[], ["a:9900", "a:9900"], [f"s{number}:9900" for number in range(SERVERS_MAX + 1)]]
)
def test_bad_memberships(servers: list[str]) -> None:
    with pytest.raises(ConfigError):
        Router(servers)


def test_golden_placement(vectors: Callable[[str], dict[str, Any]]) -> None:
    vector = vectors("placement.json")
    seed = router.namespace_seed(vector["namespace"])
    hashes = [router.key_hash(b"key-%05d" % number, seed) for number in range(10_000)]
    for row in vector["memberships"]:
        orders = row["server_of_key"]
        placed = Router(row["servers"], replicas=len(orders), weights=row["weights"])
        assert ["".join(map(str, placed.place(hashes, order))) for order in range(len(orders))] == orders
        assert "".join(map(str, router.lanes_of(hashes, row["lanes"]))) == row["lane_of_key"]
