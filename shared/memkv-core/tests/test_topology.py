# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.transports.topology import PciPlace, RailFacts, map_servers, proximity, usable_rails

SERVERS = [f"host-{number}:9900" for number in range(8)]


def rail(name: str, node: int = 0, gigabits: float = 100.0) -> RailFacts:
    return RailFacts(name, PciPlace(node, ()), gigabits)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("r/p/s/d1/nic", "r/p/s/d2/gpu", "PIX"),
        ("r/p/s/d1/nic", "r/p/s/d2/s2/d/gpu", "PXB"),
        ("r/p1/nic", "r/p2/gpu", "PHB"),
        ("r1/p/nic", "r2/p/gpu", "NODE"),
        ("", "r/gpu", None),
    ],
)
def test_how_near(first: str, second: str, expected: str | None) -> None:
    places = [PciPlace(0, tuple(filter(None, path.split("/")))) for path in (first, second)]
    assert proximity(*places) == expected
    assert proximity(*reversed(places)) == expected


def test_how_near_on_other_nodes() -> None:
    near = PciPlace(0, ("r1", "nic"))
    assert proximity(near, PciPlace(1, ("r2", "gpu"))) == "SYS"
    assert proximity(near, PciPlace(-1, ("r2", "gpu"))) is None


def test_servers_spread_evenly_in_any_order() -> None:
    rails = [rail("a"), rail("b"), rail("c")]
    mapped = map_servers(SERVERS, rails)
    assert Counter(mapped.values()) == {0: 3, 1: 3, 2: 2}
    shuffled = SERVERS[:]
    random.Random(1).shuffle(shuffled)
    assert map_servers(shuffled, rails) == mapped


def test_a_faster_rail_takes_more() -> None:
    mapped = map_servers(SERVERS[:6], [rail("a", gigabits=100), rail("b", gigabits=200)])
    assert Counter(mapped.values()) == {0: 2, 1: 4}


def test_a_rail_of_unknown_speed_counts_as_the_slowest() -> None:
    mapped = map_servers(SERVERS[:6], [rail("a", gigabits=0), rail("b", gigabits=200), rail("c", gigabits=100)])
    assert Counter(mapped.values())[1] == 3


def test_only_near_rails_are_used() -> None:
    rails = [rail("a", 0), rail("b", 1), rail("c", 0), rail("d", 1)]
    assert set(map_servers(SERVERS, rails, {1}).values()) == {1, 3}
    assert set(map_servers(SERVERS, rails, {0, 1}).values()) == {0, 1, 2, 3}
    assert usable_rails(rails, {7}) == [0, 1, 2, 3]
    assert usable_rails([rail("a", -1), rail("b", -1)], {0}) == [0, 1]


def test_few_servers_start_at_the_turn() -> None:
    rails = [rail("a"), rail("b"), rail("c")]
    assert [map_servers(SERVERS[:1], rails, turn=turn)[SERVERS[0]] for turn in range(4)] == [0, 1, 2, 0]
    assert map_servers(SERVERS, rails, turn=2) == map_servers(SERVERS, rails)


def test_nothing_to_map_to() -> None:
    assert map_servers(SERVERS, []) == {}
    assert map_servers([], [rail("a")]) == {}


@given(
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(-1, 2), st.sampled_from([0.0, 100.0, 200.0, 400.0])), min_size=1, max_size=8),
    st.sets(st.integers(0, 2)),
    st.integers(0, 100),
)
def test_every_server_has_a_near_rail(count: int, facts: list[tuple[int, float]], nodes: set[int], turn: int) -> None:
    rails = [rail(str(number), node, gigabits) for number, (node, gigabits) in enumerate(facts)]
    servers = [f"s{number}" for number in range(count)]
    mapped = map_servers(servers, rails, nodes, turn)
    assert set(mapped) == set(servers)
    assert set(mapped.values()) <= set(usable_rails(rails, nodes))
    counts = Counter(mapped.values())
    same = set(usable_rails(rails, nodes))
    if len({rails[number].gigabits for number in same}) == 1:
        assert max(counts.values(), default=0) - min((counts[number] for number in same), default=0) <= 1
