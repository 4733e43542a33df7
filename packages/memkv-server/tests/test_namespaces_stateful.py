# SPDX-License-Identifier: Apache-2.0
"""Namespaces against a dictionary each: drops, quotas, TTLs, deletes, restarts, crashes, and a clock that jumps.

Nothing is evicted in the roomy store, so there the model is exact: what a namespace must hold and what it must not.
In the tight one anything may be a miss; nothing wrong is ever found in either. Ages are exact while the engine lives,
and after a restart rounded up by at most ``SLACK_S``: in between a record may be there or not.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memkv_core.testing.engine_tests import block, get, put
from memkv_server.engine import Namespace, SegmentEngine, Status, open_engine
from memkv_server.engine.account import Rule, Rules
from memkv_server.engine.age import AgeClock
from memkv_server.engine.segment import record_layout

SEGMENT = 64 << 10
ROOMY, TIGHT = 4 << 20, 640 << 10
QUOTA, TTL_S = 12_000, 320
SLACK_S = TTL_S // 32 + 4
RULES = Rules((Rule("quota", QUOTA, None), Rule("ttl", None, TTL_S), Rule("both", QUOTA, TTL_S)))
NAMES = ["free", "quota", "ttl", "both"]

names = st.sampled_from(NAMES)
keys = st.sampled_from([b"k%d" % number for number in range(6)])
puts = st.lists(st.tuples(keys, st.sampled_from([0, 100, 2000, 9_000]), st.integers(0, 3)), min_size=1, max_size=5)


def _size(key: bytes, value: bytes) -> int:
    return record_layout(len(key), 0, len(value), 64)[1]


class Put:
    """The newest put of a key: its value, and the engine's clock then."""

    def __init__(self, value: bytes, second: int) -> None:
        self.value = value
        self.second = second


class NamespaceMachine(RuleBasedStateMachine):
    """``model[name]`` is what was put last under each key since the last drop, in the order of the puts."""

    @initialize(capacity=st.sampled_from([ROOMY, ROOMY, TIGHT]))
    def begin(self, capacity: int) -> None:
        self.capacity = capacity
        self.wall_s, self.monotonic_s = 1_800_000_000.0, 0.0
        clocks = (None, lambda: self.wall_s, lambda: self.monotonic_s)
        self.patch = mock.patch.object(AgeClock.__init__, "__defaults__", clocks)
        self.patch.start()
        self.folder = Path(tempfile.mkdtemp(prefix="memkv-namespaces-"))
        self.store = self.folder / "0"
        self.model: dict[str, dict[bytes, Put]] = {name: {} for name in NAMES}
        self.live: dict[str, dict[bytes, int]] = {name: {} for name in NAMES}  # what no quota took, with its size
        self.rounded = 0  # seconds that ages may be too high by, for what was put before the last restart
        self.latest = 0
        self._open()

    def _open(self) -> None:
        self.engine: SegmentEngine = open_engine("file", self.store, self.capacity, SEGMENT, rules=RULES)
        self.namespaces: dict[str, Namespace] = {}
        self._tick()

    def _tick(self) -> None:
        self.engine._housekeeping_at_s = 0.0
        while self.engine.tick():
            pass

    def _namespace(self, name: str) -> Namespace:
        namespace = self.namespaces.get(name)
        if namespace is None or namespace.dropped:
            namespace = self.engine.open_namespace(name, name.encode())
            assert namespace is not None
            self.namespaces[name] = namespace
        return namespace

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
            self.patch.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- the model --------------------------------------------------------------------------------------------------
    def _now(self) -> int:
        now = self.engine._clock.now()
        assert now >= self.latest, "the clock went back"
        self.latest = now
        return now

    def _may_be_there(self, name: str, key: bytes) -> bytes | None:
        """The only bytes that may be found."""
        last = self.model[name].get(key)
        if last is None or (name in ("ttl", "both") and self._now() - last.second >= TTL_S):
            return None
        return last.value

    def _must_be_there(self, name: str) -> set[bytes]:
        """In the roomy store: what is within the quota, and young enough even if its age was rounded up."""
        if self.capacity == TIGHT:
            return set()
        if name in ("free", "quota"):
            return set(self.live[name])
        young = self._now() + self.rounded - TTL_S
        return {key for key in self.live[name] if self.model[name][key].second > young}

    def _keep_bounds(self, name: str) -> None:
        """What certainly expired has made room; then the oldest go until the rest is within the quota."""
        live, model = self.live[name], self.model[name]
        if name in ("ttl", "both"):
            for key in [key for key in live if self._now() - model[key].second >= TTL_S]:
                del live[key]
        while name in ("quota", "both") and sum(live.values()) > QUOTA:
            del live[next(iter(live))]

    def _rebuild(self, name: str) -> None:
        """After a restart the newest up to the quota are there, whatever had been given up before."""
        self.live[name] = {key: _size(key, last.value) for key, last in self.model[name].items()}
        self._keep_bounds(name)

    # -- rules ------------------------------------------------------------------------------------------------------
    @rule(name=names, batch=puts)
    def put(self, name: str, batch: list[tuple[bytes, int, int]]) -> None:
        self._tick()
        namespace = self._namespace(name)
        for key, size, variant in batch:  # one by one: the order of a batch is not the model's business
            value = block(len(key) + 10 * variant, size)
            (status,) = put(self.engine, namespace, {key: value})
            if status == Status.PRESENT:
                assert self._may_be_there(name, key) == value
            elif status == Status.HIT:
                self.model[name].pop(key, None)
                self.model[name][key] = Put(value, self._now())
                self.live[name].pop(key, None)
                self.live[name][key] = _size(key, value)
                self._keep_bounds(name)
            else:
                assert (status, self.capacity) == (Status.NO_SPACE, TIGHT)

    @rule(name=names, batch=st.lists(keys, min_size=1, max_size=8, unique=True))
    def get(self, name: str, batch: list[bytes]) -> None:
        must = self._must_be_there(name)
        for key, value in zip(batch, get(self.engine, self._namespace(name), batch), strict=True):
            if value is None:
                assert key not in must, f"{key!r} of {name} is gone"
            else:
                assert value == self._may_be_there(name, key), f"{key!r} of {name} must not be found"

    @rule(name=names, batch=st.lists(keys, min_size=1, max_size=3, unique=True))
    def delete(self, name: str, batch: list[bytes]) -> None:
        for key, status in zip(batch, self.engine.delete(self._namespace(name), batch), strict=True):
            if status == Status.HIT:
                assert self._may_be_there(name, key) is not None
            self.model[name].pop(key, None)
            self.live[name].pop(key, None)

    @rule(name=names)
    def drop(self, name: str) -> None:
        dropped = self.engine.drop_namespace(name)
        if dropped is None:
            assert not self.model[name]
        self.model[name], self.live[name] = {}, {}

    @rule(seconds=st.floats(0, 200))
    def pass_time(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds
        self._tick()  # a lane ticks twice a second at least
        self._now()

    @rule(seconds=st.floats(-2000, 150))
    def set_the_clock(self, seconds: float) -> None:
        self.wall_s += seconds
        self._tick()

    @rule(crash=st.booleans(), back_s=st.sampled_from([0.0, 0.0, 100.0, 1e6]))
    def restart(self, crash: bool, back_s: float) -> None:
        if crash:
            source, self.store = self.store, self.folder / str(int(self.store.name) + 1)
            shutil.copytree(source, self.store)
            self.engine.close()
            shutil.rmtree(source)
        else:
            self.engine.close()
        self.wall_s -= back_s
        self.monotonic_s = 3.0
        self.rounded = SLACK_S
        self._open()
        for name in NAMES:
            self._rebuild(name)

    # -- what always holds ------------------------------------------------------------------------------------------
    @invariant()
    def nothing_wrong_is_there_and_nothing_is_missing(self) -> None:
        if not hasattr(self, "engine"):
            return
        usage: dict[str, Any] = {row["name"]: row for row in self.engine.usage()["namespaces"]}
        asked = [b"k%d" % number for number in range(6)]
        for name in NAMES:
            must = self._must_be_there(name)
            there = self.engine.exists(self._namespace(name), asked)
            for key, status in zip(asked, there, strict=True):
                if status == Status.HIT:
                    assert self._may_be_there(name, key) is not None, f"{key!r} of {name} is a phantom"
                else:
                    assert key not in must, f"{key!r} of {name} is gone"
            if name in usage:
                assert usage[name]["records"] >= there.count(Status.HIT)
                assert name in ("free", "ttl") or usage[name]["bytes"] <= QUOTA
        whole = self.engine.usage()
        assert whole["live_bytes"] <= whole["used_bytes"]
        assert whole["records"] == sum(row["records"] for row in usage.values()), "of no namespace that is not there"
        counted = sum(account.records for account in (self.engine._index.usage | self.engine._index.retired).values())
        assert counted == len(self.engine._index)


TestNamespaces = NamespaceMachine.TestCase
TestNamespaces.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    report_multiple_bugs=False,
)
