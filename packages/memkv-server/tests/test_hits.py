# SPDX-License-Identifier: Apache-2.0
"""Both ways to collect a read batch say the same, whatever was found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memkv_core.testing.engine_tests import put
from memkv_server.engine import Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine.heads import ALIKE_MIN
from memkv_server.engine.index import place_address
from memkv_server.engine.plan import ReadPlan, misses
from memkv_server.engine.segment import RECORD_HEADER_BYTES, hash_key

SEGMENT = 64 << 10
KEY_BYTES = 40


@pytest.fixture(params=["memory", "direct"], scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SegmentEngine]:
    path: Path = tmp_path_factory.mktemp("store")
    engine = open_engine(request.param, path / "store", 32 << 20, SEGMENT)
    yield engine
    engine.close()


@pytest.fixture
def namespace(engine: SegmentEngine) -> Namespace:
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    return namespace


def keys_of(stem: str, count: int) -> list[bytes]:
    return [f"{stem}-{number}".encode().ljust(KEY_BYTES, b".") for number in range(count)]


def plan_of(engine: SegmentEngine, namespace: Namespace, keys: list[bytes], capacities: list[int]) -> ReadPlan:
    reader = engine.parts.reader
    plan = reader.plan(namespace, keys, capacities)
    if plan.missing:
        reader.fetch(plan)
    return plan


def check_both(engine: SegmentEngine, plan: ReadPlan) -> bool:
    """Whether the batch could be had by arrays; then it is the same as one by one."""
    hits = engine.parts.reader._hits
    arrays, singly = misses(len(plan.keys)), misses(len(plan.keys))
    by_arrays = hits._by_arrays(plan, arrays)
    before = dict(engine.parts.index.items())
    one_by_one = hits._one_by_one(plan, singly)
    if by_arrays is not None:
        assert set(by_arrays) == set(one_by_one)
        assert arrays == singly
        assert dict(engine.parts.index.items()) == before  # the second way finds it as warm as a read makes it
    else:
        assert arrays == misses(len(plan.keys))
    engine.release(engine.parts.reader.finish(plan))
    return by_arrays is not None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=60),
    absent=st.sets(st.integers(0, 59)),
    room=st.integers(-1, 1),
    with_meta=st.booleans(),
    shuffled=st.booleans(),
    number=st.integers(0, 1 << 30),
)
def test_random_batches(
    engine: SegmentEngine,
    namespace: Namespace,
    sizes: list[int],
    absent: set[int],
    room: int,
    with_meta: bool,
    shuffled: bool,
    number: int,
) -> None:
    rng = random.Random(number)
    keys = keys_of(str(number), len(sizes))
    values = [rng.randbytes(size) for size in sizes]
    metas = [rng.randbytes(rng.choice([0, 0, 5])) for _ in keys] if with_meta else None
    put(engine, namespace, dict(zip(keys, values, strict=True)), metas=metas)
    order = list(range(len(keys)))
    if shuffled:
        rng.shuffle(order)
    asked = [keys[at] if at not in absent else b"absent-%d" % at for at in order]
    short = rng.choice(order) if room < 0 else None
    capacities = [sizes[at] + max(room, 0) - (at == short) for at in order]
    found = [at for at in order if at not in absent]
    alike = by_arrays = check_both(engine, plan_of(engine, namespace, asked, capacities))
    alike = len(found) >= ALIKE_MIN and not any(metas[at] for at in found if metas is not None) and (short not in found)
    assert by_arrays == alike


def test_keys_of_several_lengths(engine: SegmentEngine, namespace: Namespace) -> None:
    keys = [b"k" * length for length in range(1, 2 * ALIKE_MIN)]
    put(engine, namespace, dict.fromkeys(keys, b"value"))
    assert not check_both(engine, plan_of(engine, namespace, keys, [5] * len(keys)))


@pytest.mark.parametrize("at", [0, 4, 5, 8, 16, 32, 41, 57, 61, 63, 64, RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + 39])
def test_a_damaged_header_is_seen(engine: SegmentEngine, namespace: Namespace, at: int) -> None:
    """In any field that decides what is given out; what a commit leaves behind beside them is not looked at."""
    keys = keys_of(f"damaged-{at}", 2 * ALIKE_MIN)
    put(engine, namespace, {key: key * 3 for key in keys})
    index, pool = engine.parts.index, engine.parts.pool
    place = index.get(hash_key(keys[7], namespace.hash))
    assert place is not None
    segment = pool.segments[place_address(place) >> pool.segment_shift]
    plan = plan_of(engine, namespace, keys, [3 * KEY_BYTES] * len(keys))
    segment.memory[segment.origin + place_address(place) - segment.address + at] ^= 0x04
    arrays = misses(len(keys))
    by_arrays = engine.parts.reader._hits._by_arrays(plan, arrays)
    batch = engine.parts.reader.finish(plan)
    wanted = bytearray([Status.HIT]) * len(keys)
    if at not in (5, 8, 16):  # zeros, sequence, commit check: a start looks at these
        wanted[7] = Status.MISS
        assert by_arrays is None
    assert batch.statuses == wanted
    assert [bytes(view or b"") for view in batch.views] == [
        key * 3 if status == Status.HIT else b"" for key, status in zip(keys, wanted, strict=True)
    ]
    engine.release(batch)


def test_another_namespace_is_never_given_out(engine: SegmentEngine, namespace: Namespace) -> None:
    """Even where the index leads to its record."""
    other = engine.open_namespace("other", b"{}")
    assert other is not None
    keys = keys_of("of-another", 2 * ALIKE_MIN)
    put(engine, namespace, {key: key * 3 for key in keys})
    plan = plan_of(engine, namespace, keys, [3 * KEY_BYTES] * len(keys))
    plan.namespace = other
    batch = engine.parts.reader.finish(plan)
    assert batch.statuses == bytes(len(keys))
    engine.release(batch)
