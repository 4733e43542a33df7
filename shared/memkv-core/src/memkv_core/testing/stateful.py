# SPDX-License-Identifier: Apache-2.0
"""Model-based tests: an engine against a dict, over random histories that hypothesis shrinks when they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from memkv_core.digests import digest
from memkv_core.testing.engine_tests import block, get, put
from memkv_core.wire import Status

_KEYS = st.sampled_from([b"a", b"b", b"c", b"d" * 512, b"\0"])
_SIZES = st.sampled_from([0, 1, 64, 100, 4096, 9000])
_NAMES = st.sampled_from(["one", "two"])
_BATCH = st.dictionaries(_KEYS, st.tuples(st.integers(0, 3), _SIZES), min_size=1, max_size=4)
_IDENTITIES = {"one": b"", "two": b'{"model":"m"}'}


class EngineMachine(RuleBasedStateMachine):
    """Rules are what a lane may do; the model is a dict of (namespace, key). Histories stay far below any capacity."""

    def __init__(self, make: Callable[[], Any], reopen: Callable[[Any], Any] | None) -> None:
        super().__init__()
        self._reopen = reopen
        self.engine = make()
        self.model: dict[tuple[str, bytes], bytes] = {}
        self._open_namespaces()

    def _open_namespaces(self) -> None:
        self.namespaces = {name: self.engine.open_namespace(name, _IDENTITIES[name]) for name in _IDENTITIES}
        assert all(self.namespaces.values())

    @rule(name=_NAMES, batch=_BATCH)
    def put(self, name: str, batch: dict[bytes, tuple[int, int]]) -> None:
        values = {key: block(*made) for key, made in batch.items()}
        expected = [
            Status.PRESENT if self.model.get((name, key)) == value else Status.HIT for key, value in values.items()
        ]
        assert list(put(self.engine, self.namespaces[name], values)) == expected
        self.model.update({(name, key): value for key, value in values.items()})

    @rule(name=_NAMES, key=_KEYS, size=_SIZES)
    def abort(self, name: str, key: bytes, size: int) -> None:
        value = block(99, size)
        announced = digest([memoryview(value)], 0)
        reservation = self.engine.reserve(self.namespaces[name], [key], [size], [announced], 0, None)
        if reservation.extents[0] is not None:
            reservation.extents[0][: size // 2] = value[: size // 2]
        self.engine.abort(reservation)

    @rule(name=_NAMES, keys=st.lists(_KEYS, min_size=1, max_size=5))
    def delete(self, name: str, keys: list[bytes]) -> None:
        expected = [Status.MISS if self.model.pop((name, key), None) is None else Status.HIT for key in keys]
        assert list(self.engine.delete(self.namespaces[name], keys)) == expected

    @rule(name=_NAMES, keys=st.lists(_KEYS, min_size=1, max_size=5))
    def read(self, name: str, keys: list[bytes]) -> None:
        expected = [self.model.get((name, key)) for key in keys]
        assert get(self.engine, self.namespaces[name], keys) == expected
        run = next((at for at, value in enumerate(expected) if value is None), len(keys))
        assert self.engine.lookup(self.namespaces[name], keys) == run

    @rule()
    def tick(self) -> None:
        self.engine.tick()

    @rule()
    def restart(self) -> None:
        if self._reopen is not None:
            self.engine = self._reopen(self.engine)
            self._open_namespaces()

    @invariant()
    def agrees_on_what_exists(self) -> None:
        for name, namespace in self.namespaces.items():
            keys = [b"a", b"b", b"c", b"d" * 512, b"\0"]
            found = [status == Status.HIT for status in self.engine.exists(namespace, keys)]
            assert found == [(name, key) in self.model for key in keys]

    def teardown(self) -> None:
        self.engine.close()


def check_engine(
    make: Callable[[], Any], reopen: Callable[[Any], Any] | None, *, examples: int = 20, steps: int = 30
) -> None:
    """Runs EngineMachine. ``make`` gives a fresh, empty engine each time; ``reopen`` is None where nothing survives."""

    class Machine(EngineMachine):
        def __init__(self) -> None:
            super().__init__(make, reopen)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )
