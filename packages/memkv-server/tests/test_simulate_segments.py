# SPDX-License-Identifier: Apache-2.0
"""The simulated node hits what a real engine hits, block for block, and keeps its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memkv_core.digests import digest
from memkv_core.errors import ConfigError
from memkv_server.engine import Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine.cleaner import Cleaner
from memkv_server.engine.limits import REINSERT_SHARE_MAX
from memkv_server.engine.segment import ENTRY_BYTES, SEGMENT_DATA_AT, TRAILER_BYTES
from memkv_server.simulate.limits import CAPACITY_SHARES_DEFAULT, KEY_BYTES
from memkv_server.simulate.replay import OURS, POLICIES, Outcome, parse_capacities, sweep
from memkv_server.simulate.segments import Layout, Segments, plan_layout
from memkv_server.simulate.synthetic import synthetic_trace
from memkv_server.simulate.trace import Trace, read_trace

KIB = 1024
RECORDED = Path("shared/data/mooncake-traces/conversation_trace.jsonl")  # from kvcache-ai/Mooncake; see its README
BLOCK_BYTES = 1000
VALUE = bytes(BLOCK_BYTES)
DIGEST = digest([memoryview(VALUE)], 0)
# trace, its requests, capacity, segment size: from 15 segments of 214 blocks to 126 of 51, fewer than a request has
CASES = [
    ("conversations", 1_500, 8 << 20, 64 * KIB),
    ("conversations", 1_500, 4 << 20, 256 * KIB),
    ("slow-conversations", 1_500, 16 << 20, 256 * KIB),
    ("zipf", 20_000, 2 << 20, 64 * KIB),
    ("scans", 20_000, 4 << 20, 64 * KIB),
]


@pytest.fixture(scope="module")
def recorded() -> Trace:
    """Mooncake's conversation trace, where it lies beside the repository; it is not part of it."""
    for folder in Path(__file__).resolve().parents:
        if (folder / RECORDED).is_file():
            return read_trace(folder / RECORDED)
    pytest.skip(f"{RECORDED} is in no folder above; it comes from kvcache-ai/Mooncake, FAST25-release/traces")


def request_engine(
    engine: SegmentEngine, namespace: Namespace, blocks: Sequence[int], idle: bool = True
) -> tuple[int, int]:
    """What ``Segments.request`` simulates, by a client of a lane that has time, or never has any."""
    keys = [b"%0*d" % (KEY_BYTES, block) for block in blocks]
    leading = engine.lookup(namespace, keys)
    if leading:
        engine.release(engine.read(namespace, keys[:leading], [BLOCK_BYTES] * leading))
    rest = keys[leading:]
    statuses = b""
    if rest:
        count = len(rest)
        reservation = engine.reserve(namespace, rest, [BLOCK_BYTES] * count, [DIGEST] * count, 0, None)
        for extent in reservation.extents:
            if extent is not None:
                extent[:] = VALUE
        statuses = engine.commit(reservation)
        assert set(statuses) <= {Status.HIT, Status.PRESENT}
    while idle and engine.tick():
        pass
    return leading, leading + statuses.count(Status.PRESENT)


def opened(capacity_bytes: int, segment_bytes: int) -> tuple[SegmentEngine, Namespace, Segments]:
    engine = open_engine("memory", None, capacity_bytes, segment_bytes)
    namespace = engine.open_namespace("n", b"{}")
    assert namespace is not None
    count = engine.usage()["segments"]["total"]
    record_bytes = plan_layout(1_000, BLOCK_BYTES, 100).record_bytes
    held = (segment_bytes - SEGMENT_DATA_AT - TRAILER_BYTES) // (record_bytes + ENTRY_BYTES)
    return engine, namespace, Segments(Layout(segment_bytes, count, held, record_bytes, BLOCK_BYTES))


@pytest.mark.parametrize(("name", "requests", "capacity_bytes", "segment_bytes"), CASES)
def test_a_real_engine_hits_the_same(
    name: str, requests: int, capacity_bytes: int, segment_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With this, copying may begin in the middle of a put: a few survivors lie before its blocks instead of behind.
    monkeypatch.setattr(Cleaner, "keep_pace", lambda _: None)
    engine, namespace, simulated = opened(capacity_bytes, segment_bytes)
    for request in synthetic_trace(name).requests[:requests]:
        assert request_engine(engine, namespace, request) == simulated.request(request)
    usage = engine.usage()
    assert usage["reinserted_bytes"] == simulated.reinserted_bytes > 0
    assert usage["user_bytes"] == simulated.user_bytes
    assert usage["records"] == len(simulated)
    engine.close()


@pytest.mark.parametrize(("name", "requests", "capacity_bytes", "segment_bytes"), CASES)
def test_a_real_engine_that_keeps_pace_hits_as_much(
    name: str, requests: int, capacity_bytes: int, segment_bytes: int
) -> None:
    engine, namespace, simulated = opened(capacity_bytes, segment_bytes)
    trace = synthetic_trace(name).requests[:requests]
    found = [request_engine(engine, namespace, request) for request in trace]
    expected = [simulated.request(request) for request in trace]
    references = sum(map(len, trace))
    for kind in (0, 1):
        assert sum(hits[kind] for hits in found) == pytest.approx(
            sum(hits[kind] for hits in expected), abs=0.002 * references
        )
    engine.close()


def test_a_recorded_trace_is_hit_within_two_percent_of_the_best(recorded: Trace) -> None:
    """At every capacity from 5 % to 50 % of the distinct blocks, for at most 1.3 bytes written for each put."""
    capacities = parse_capacities(CAPACITY_SHARES_DEFAULT, recorded.distinct_count, 1)
    assert (recorded.reference_count, recorded.distinct_count, len(capacities)) == (288_500, 182_790, 10)
    by_capacity: dict[int, dict[str, Outcome]] = {}
    for outcome in sweep(recorded, POLICIES, capacities):
        by_capacity.setdefault(outcome.capacity_blocks, {})[outcome.policy] = outcome
    for outcomes in by_capacity.values():
        ours = outcomes.pop(OURS)
        assert ours.write_amplification <= 1.3
        assert ours.block_hit_ratio > max(other.block_hit_ratio for other in outcomes.values()) - 0.02
        assert ours.leading_hit_ratio > max(other.leading_hit_ratio for other in outcomes.values()) - 0.02


def test_a_real_engine_hits_the_same_on_a_recorded_trace(recorded: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it, in 17,000 blocks: 9 % of the distinct ones."""
    monkeypatch.setattr(Cleaner, "keep_pace", lambda _: None)
    engine, namespace, simulated = opened(20 << 20, 256 * KIB)
    for request in recorded.requests:
        assert request_engine(engine, namespace, request) == simulated.request(request)
    usage = engine.usage()
    assert usage["reinserted_bytes"] == simulated.reinserted_bytes > 0
    assert (usage["user_bytes"], usage["records"]) == (simulated.user_bytes, len(simulated))
    assert usage["evicted_segments"] > 500
    engine.close()


def test_a_real_engine_that_is_never_idle_hits_nearly_as_much(recorded: Trace) -> None:
    """Its survivors are copied in the middle of a put, between blocks that belong together."""
    engine, namespace, simulated = opened(20 << 20, 256 * KIB)
    found = [request_engine(engine, namespace, request, idle=False) for request in recorded.requests]
    expected = [simulated.request(request) for request in recorded.requests]
    for kind in (0, 1):
        lost = sum(hits[kind] for hits in expected) - sum(hits[kind] for hits in found)
        assert abs(lost) < 0.01 * recorded.reference_count
    usage = engine.usage()
    assert usage["reinserted_bytes"] <= REINSERT_SHARE_MAX * usage["user_bytes"]
    engine.close()


@example(
    requests=[[0, 1, 2, 3], [0, 1, 8, 11, 2, 3, *range(4, 7), 9, *range(12, 21)], [7, 8, 10]],
    segment_blocks=5,
    segment_count=5,
)
@given(
    requests=st.lists(st.lists(st.integers(0, 60), unique=True, max_size=40), max_size=60),
    segment_blocks=st.integers(1, 6),
    segment_count=st.integers(4, 8),
)
def test_bounds_hold_and_what_was_put_last_is_there(
    requests: list[list[int]], segment_blocks: int, segment_count: int
) -> None:
    layout = plan_layout(segment_blocks * segment_count, 1024, segment_count)
    assert (layout.segment_blocks, layout.segment_count) == (segment_blocks, segment_count)
    simulated = Segments(layout)
    held: set[int] = set()
    for request in requests:
        run = 0
        while run < len(request) and request[run] in held:
            run += 1
        leading, hits = simulated.request(request)
        assert (leading, hits >= leading) == (run, True)
        before, held = held, {block for block in range(61) if block in simulated}
        assert len(held) == len(simulated) <= segment_blocks * segment_count
        assert simulated.reinserted_bytes <= REINSERT_SHARE_MAX * simulated.user_bytes
        if len(request) <= segment_blocks:
            # What was there already stays where it lies, and may have to go for what was not.
            assert held.issuperset(set(request[run:]) - before)


def test_the_layout_of_a_node() -> None:
    layout = plan_layout(40_000, 1 << 20)
    assert (layout.segment_bytes, layout.segment_blocks) == (256 << 20, 255)
    assert 150 <= layout.segment_count <= 156
    assert layout.record_bytes == (1 << 20) + 128
    assert plan_layout(40_000, 64 * KIB).segment_bytes == 64 << 20


@pytest.mark.parametrize(
    ("capacity", "segment_count", "expected"),
    [(40_000, 64, (64, 625)), (100, 7, (7, 14)), (100, None, (25, 4)), (20, None, (20, 1)), (4, None, (4, 1))],
)
def test_a_store_that_is_small_or_cut_as_asked(capacity: int, segment_count: int | None, expected: object) -> None:
    layout = plan_layout(capacity, 1 << 20, segment_count)
    assert (layout.segment_count, layout.segment_blocks) == expected


@pytest.mark.parametrize(("capacity", "segment_count"), [(100, 3), (100, 101), (3, None), (1, None)])
def test_what_is_no_store(capacity: int, segment_count: int | None) -> None:
    with pytest.raises(ConfigError, match=f"a store of {capacity} blocks cannot be cut into"):
        plan_layout(capacity, 1 << 20, segment_count)
