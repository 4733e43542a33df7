# SPDX-License-Identifier: Apache-2.0
"""What every storage engine must do; subclass ``EngineTests`` and fill in its hooks.

Written against the shape of ``memkv_server.engine.base.Engine``, not the class: core does not import the server. The
hook ``damage`` goes beneath the engine, so that an engine cannot vouch for itself.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from memkv_core.digests import digest
from memkv_core.wire import DigestKind, Status

MISS, HIT, PRESENT = Status.MISS, Status.HIT, Status.PRESENT
_TRIES = 200
_BARRIER_S = 60.0


def put(
    engine: Any,
    namespace: Any,
    values: Mapping[bytes, bytes],
    *,
    kind: int = DigestKind.XXH3_128,
    metas: Sequence[bytes] | None = None,
    received: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Puts a batch as a lane does, until it is acknowledged.

    ``received`` replaces what arrives, under the digests of ``values``.
    """
    keys = list(values)
    digests = [digest([memoryview(value)], kind) for value in values.values()]
    lengths = [len(value) for value in values.values()]
    reservation = engine.reserve(namespace, keys, lengths, digests, kind, metas)
    for key, extent in zip(keys, reservation.extents, strict=True):
        if extent is not None:
            assert extent.nbytes == len(values[key]), "an extent is exactly as long as announced"
            extent[:] = (received or values)[key]
    statuses = bytes(engine.commit(reservation))
    if await_barrier(engine):
        return statuses
    return bytes(Status.READ_ONLY if status in (HIT, PRESENT) else status for status in statuses)


def await_barrier(engine: Any) -> bool:
    """Ticks, as a lane's loop does, until the commit or delete that was made last may be answered; whether it holds."""
    barrier = engine.barrier()
    deadline_s = time.monotonic() + _BARRIER_S
    while barrier is not None and not barrier.settled:
        assert time.monotonic() < deadline_s, "a barrier settles in a tick"
        engine.tick()
        time.sleep(0)
    return barrier is None or barrier.failure is None


def put_surely(engine: Any, namespace: Any, key: bytes, value: bytes) -> None:
    """Puts one value, giving the engine time to make room as a lane's loop does."""
    for _ in range(_TRIES):
        if put(engine, namespace, {key: value})[0] in (HIT, PRESENT):
            return
        engine.tick()
    raise AssertionError(f"no room after {_TRIES} tries")


def get(engine: Any, namespace: Any, keys: Sequence[bytes], capacity: int = 1 << 28) -> list[bytes | None]:
    """Reads a batch as a lane does; checks that digests, lengths and views agree."""
    batch = engine.read(namespace, keys, [capacity] * len(keys))
    values: list[bytes | None] = []
    for place, view in enumerate(batch.views):
        assert (view is not None) == (batch.statuses[place] == HIT)
        values.append(None if view is None else bytes(view))
        if view is not None:
            assert len(view) == batch.lengths[place]
            assert digest([memoryview(view)], batch.digest_kinds[place]) == batch.digests[place]
    engine.release(batch)
    return values


def differing(found: Sequence[object], expected: Sequence[object]) -> list[int]:
    """The places that differ, or where only one of the two goes on; a test that compares long lists says these.

    pytest shows the whole difference of two lists where CI is set, and takes minutes for a thousand blocks.
    """
    shared = min(len(found), len(expected))
    places = [place for place in range(shared) if found[place] != expected[place]]
    return places + list(range(shared, max(len(found), len(expected))))


def block(seed: int, size: int) -> bytes:
    """Bytes that differ for every seed and compress to nothing."""
    return random.Random(seed).randbytes(size)


class EngineTests:
    """Hooks first; then what is inherited."""

    durable = True  # False: nothing survives reopen, and those tests are skipped

    def make_engine(self, path: Path) -> Any:
        """A new engine with its files, if any, under ``path``; some 8 to 64 MiB of capacity."""
        raise AssertionError("EngineTests.make_engine is a hook: fill it in")

    def reopen(self, engine: Any) -> Any:
        """Closes the engine and opens another on what it stored."""
        raise AssertionError("EngineTests.reopen is a hook: fill it in, or set durable = False")

    def damage(self, engine: Any, namespace: Any, key: bytes) -> None:
        """Flips a bit of the value stored under ``key``, beneath the engine."""
        pytest.skip("this engine offers no way to damage a stored value")

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Any]:
        engine = self.make_engine(tmp_path)
        yield engine
        engine.close()
        engine.close()  # idempotent

    @pytest.fixture
    def namespace(self, engine: Any) -> Any:
        return engine.open_namespace("model-a", b'{"dtype":"bf16"}')

    def _reopened(self, engine: Any) -> Any:
        if not self.durable:
            pytest.skip("this engine forgets on purpose")
        return self.reopen(engine)

    # -- values ---------------------------------------------------------------------------------------------------
    @pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 511, 4095, 4096, 4097, 65_537, 1 << 20])
    def test_what_was_put_comes_back(self, engine: Any, namespace: Any, size: int) -> None:
        values = {b"k%d" % number: block(number, size) for number in range(3)}
        assert put(engine, namespace, values) == bytes([HIT] * 3)
        assert get(engine, namespace, [*values, b"other"]) == [*values.values(), None]

    @pytest.mark.parametrize("kind", [DigestKind.XXH3_128, DigestKind.SHA256_128])
    def test_digest_and_meta_stay_with_the_value(self, engine: Any, namespace: Any, kind: int) -> None:
        values = {b"a": block(1, 1000), b"b": block(2, 10), b"c": block(3, 5)}
        metas = [b"m" * 4096, b"", b"x"]
        assert put(engine, namespace, values, kind=kind, metas=metas) == bytes([HIT] * 3)
        batch = engine.read(namespace, [b"b", b"a", b"none", b"c"], [1000] * 4)
        assert list(batch.statuses) == [HIT, HIT, MISS, HIT]
        assert [batch.metas[at] for at in (0, 1, 3)] == [b"", b"m" * 4096, b"x"]
        assert [batch.digest_kinds[at] for at in (0, 1, 3)] == [kind] * 3
        assert batch.digests[0] == digest([memoryview(values[b"b"])], kind)
        assert list(batch.lengths) == [10, 1000, 0, 5]
        engine.release(batch)

    def test_keys_of_every_length_and_byte(self, engine: Any, namespace: Any) -> None:
        keys = [b"k", b"k" * 512, b"k" * 511 + b"j", bytes(range(256)), b"\0", b"\0\0", b"\xff" * 512]
        values = {key: block(place, 100 + place) for place, key in enumerate(keys)}
        assert put(engine, namespace, values) == bytes([HIT] * len(keys))
        assert get(engine, namespace, keys) == list(values.values())

    def test_a_full_batch(self, engine: Any, namespace: Any) -> None:
        values = {b"key-%d" % number: block(number, 40) for number in range(4096)}
        assert put(engine, namespace, values) == bytes([HIT] * 4096)
        assert differing(get(engine, namespace, list(values)), list(values.values())) == []
        assert engine.lookup(namespace, [*values, b"end"]) == 4096

    def test_an_empty_batch(self, engine: Any, namespace: Any) -> None:
        assert put(engine, namespace, {}) == b""
        assert get(engine, namespace, []) == []
        assert bytes(engine.exists(namespace, [])) == b""
        assert engine.lookup(namespace, []) == 0

    def test_a_target_that_is_too_small(self, engine: Any, namespace: Any) -> None:
        put(engine, namespace, {b"a": block(1, 100)})
        batch = engine.read(namespace, [b"a", b"a", b"a"], [99, 100, 0])
        assert list(batch.statuses) == [Status.TOO_LONG, HIT, Status.TOO_LONG]
        assert batch.views[0] is None
        assert batch.views[2] is None
        engine.release(batch)

    # -- what a put means -----------------------------------------------------------------------------------------
    def test_nothing_is_seen_before_commit_and_nothing_after_abort(self, engine: Any, namespace: Any) -> None:
        old, new = block(1, 500), block(2, 500)
        put(engine, namespace, {b"a": old})
        kind = DigestKind.XXH3_128
        digests = [digest([memoryview(new)], kind)] * 2
        for end in (engine.abort, engine.commit):
            reservation = engine.reserve(namespace, [b"a", b"b"], [500, 500], digests, kind, None)
            for extent in reservation.extents:
                extent[:] = new
            assert get(engine, namespace, [b"a", b"b"]) == [old, None]
            end(reservation)
        assert get(engine, namespace, [b"a", b"b"]) == [new, new]

    def test_the_same_bytes_are_present_and_other_bytes_replace(self, engine: Any, namespace: Any) -> None:
        first, second = block(1, 300), block(2, 300)
        assert put(engine, namespace, {b"a": first}) == bytes([HIT])
        assert put(engine, namespace, {b"a": first}) == bytes([PRESENT])
        assert put(engine, namespace, {b"a": second, b"b": first}) == bytes([HIT, HIT])
        assert get(engine, namespace, [b"a", b"b"]) == [second, first]
        assert put(engine, namespace, {b"a": first[:299]}) == bytes([HIT])
        assert get(engine, namespace, [b"a"]) == [first[:299]]

    def test_the_meta_put_last_is_the_one_that_comes_back(self, engine: Any, namespace: Any) -> None:
        value = {b"a": block(1, 300)}
        for meta in (b"first", b"second", b"", b"third"):
            assert put(engine, namespace, value, metas=[meta])[0] in (HIT, PRESENT)
            batch = engine.read(namespace, [b"a"], [300])
            assert list(batch.metas) == [meta]
            engine.release(batch)

    def test_bytes_that_differ_from_their_digest_are_not_stored(self, engine: Any, namespace: Any) -> None:
        good, old = block(1, 300), block(2, 300)
        put(engine, namespace, {b"old": old})
        announced = {b"a": good, b"old": good, b"c": good}
        received = {b"a": bytes([good[0] ^ 1]) + good[1:], b"old": good[:-1] + bytes([good[-1] ^ 1]), b"c": good}
        assert put(engine, namespace, announced, received=received) == bytes(
            [Status.BAD_DIGEST, Status.BAD_DIGEST, HIT]
        )
        assert get(engine, namespace, [b"a", b"old", b"c"]) == [None, old, good]

    def test_what_is_verified_as_it_lands_is_judged_the_same(self, engine: Any, namespace: Any) -> None:
        kind, values = DigestKind.XXH3_128, [block(seed, 300) for seed in range(3)]
        digests = [digest([memoryview(value)], kind) for value in values]
        for wrong in range(4):  # the last time all are right
            keys = [bytes([wrong, place]) for place in range(3)]
            reservation = engine.reserve(namespace, keys, [300] * 3, digests, kind, None)
            for place, (extent, value) in enumerate(zip(reservation.extents, values, strict=True)):
                extent[:] = bytes(300) if place == wrong else value
                reservation.landed(place)  # those before it: the last one is left to the commit
            judged = [Status.BAD_DIGEST if place == wrong else HIT for place in range(3)]
            assert bytes(engine.commit(reservation)) == bytes(judged)
            stored = [None if place == wrong else value for place, value in enumerate(values)]
            assert get(engine, namespace, keys) == stored

    def test_the_last_of_two_equal_keys_wins(self, engine: Any, namespace: Any) -> None:
        first, second = block(1, 100), block(2, 100)
        kind = DigestKind.XXH3_128
        digests = [digest([memoryview(value)], kind) for value in (first, second)]
        reservation = engine.reserve(namespace, [b"a", b"a"], [100, 100], digests, kind, None)
        for extent, value in zip(reservation.extents, (first, second), strict=True):
            if extent is not None:
                extent[:] = value
        assert bytes(engine.commit(reservation))[1] == HIT
        assert get(engine, namespace, [b"a"]) == [second]

    def test_a_value_longer_than_the_whole_capacity(self, engine: Any, namespace: Any) -> None:
        size = engine.usage()["capacity_bytes"] + 1
        reservation = engine.reserve(
            namespace, [b"huge", b"small"], [size, 3], [bytes(16), digest([memoryview(b"abc")], 0)], 0, None
        )
        assert reservation.extents[0] is None
        reservation.extents[1][:] = b"abc"
        assert bytes(engine.commit(reservation)) == bytes([Status.TOO_LONG, HIT])
        assert get(engine, namespace, [b"huge", b"small"]) == [None, b"abc"]

    # -- exists, lookup, delete, verify ---------------------------------------------------------------------------
    def test_exists_lookup_delete(self, engine: Any, namespace: Any) -> None:
        put(engine, namespace, {key: key * 10 for key in (b"a", b"b", b"d")})
        keys = [b"a", b"b", b"c", b"d"]
        assert bytes(engine.exists(namespace, keys)) == bytes([HIT, HIT, MISS, HIT])
        assert engine.lookup(namespace, keys) == 2
        assert engine.lookup(namespace, [b"c", *keys]) == 0
        assert bytes(engine.delete(namespace, [b"a", b"c", b"a"])) == bytes([HIT, MISS, MISS])
        assert bytes(engine.exists(namespace, keys)) == bytes([MISS, HIT, MISS, HIT])
        assert get(engine, namespace, keys) == [None, b"b" * 10, None, b"d" * 10]
        assert put(engine, namespace, {b"a": b"again"}) == bytes([HIT])
        assert get(engine, namespace, [b"a"]) == [b"again"]

    def test_verify_finds_and_drops_what_is_damaged(self, engine: Any, namespace: Any) -> None:
        put(engine, namespace, {key: block(key[0], 5000) for key in (b"a", b"b")})
        assert bytes(engine.verify(namespace, [b"a", b"none", b"b"])) == bytes([HIT, MISS, HIT])
        self.damage(engine, namespace, b"a")
        assert bytes(engine.verify(namespace, [b"a", b"b"])) == bytes([Status.BAD_DIGEST, HIT])
        assert bytes(engine.verify(namespace, [b"a", b"b"])) == bytes([MISS, HIT])
        assert get(engine, namespace, [b"a", b"b"]) == [None, block(ord("b"), 5000)]

    def test_a_damaged_value_is_not_called_present(self, engine: Any, namespace: Any) -> None:
        value = block(1, 5000)
        put(engine, namespace, {b"a": value})
        self.damage(engine, namespace, b"a")
        assert put(engine, namespace, {b"a": value}) == bytes([HIT])
        assert get(engine, namespace, [b"a"]) == [value]

    # -- namespaces -----------------------------------------------------------------------------------------------
    def test_namespaces_do_not_meet(self, engine: Any, namespace: Any) -> None:
        other = engine.open_namespace("model-b", b"")
        put(engine, namespace, {b"k": b"of a"})
        assert get(engine, other, [b"k"]) == [None]
        assert bytes(engine.exists(other, [b"k"])) == bytes([MISS])
        assert bytes(engine.delete(other, [b"k"])) == bytes([MISS])
        put(engine, other, {b"k": b"of b"})
        assert get(engine, namespace, [b"k"]) == [b"of a"]
        assert get(engine, other, [b"k"]) == [b"of b"]

    def test_an_identity_is_recorded_at_first_use(self, engine: Any, namespace: Any) -> None:
        assert (namespace.name, namespace.identity) == ("model-a", b'{"dtype":"bf16"}')
        assert engine.open_namespace("model-a", b'{"dtype":"bf16"}') == namespace
        assert engine.open_namespace("model-a", b'{"dtype":"fp16"}') is None
        assert engine.open_namespace("model-a", b"") is None
        assert engine.open_namespace("plain", b"") is not None
        assert engine.open_namespace("plain", b"{}") is None
        assert engine.open_namespace("n" * 255, b"i" * 16384) is not None

    # -- restart --------------------------------------------------------------------------------------------------
    def test_a_restart_keeps_what_was_acknowledged(self, engine: Any, namespace: Any) -> None:
        values = {b"k%d" % number: block(number, 37 * number) for number in range(100)}
        metas = [b"meta %d" % number for number in range(100)]
        put(engine, namespace, values, metas=metas)
        put(engine, namespace, {b"k7": b"replaced"})
        engine.delete(namespace, [b"k8", b"k9"])
        put(engine, namespace, {b"k9": b"back again"})
        put(engine, namespace, {b"bad": b"good"}, received={b"bad": b"evil"})
        reserved = engine.reserve(namespace, [b"open"], [3], [bytes(16)], 0, None)
        engine.abort(reserved)
        again = self._reopened(engine)
        try:
            assert again.open_namespace("model-a", b'{"dtype":"fp16"}') is None
            same = again.open_namespace("model-a", b'{"dtype":"bf16"}')
            expected: dict[bytes, bytes | None] = {
                **values,
                b"k7": b"replaced",
                b"k8": None,
                b"k9": b"back again",
                b"bad": None,
                b"open": None,
            }
            assert differing(get(again, same, list(expected)), list(expected.values())) == []
            batch = again.read(same, [b"k50", b"k7"], [1 << 20] * 2)
            assert list(batch.metas) == [b"meta 50", b""]
            again.release(batch)
            stored_and_new = {b"k50": values[b"k50"], b"new": b"new"}
            assert put(again, same, stored_and_new, metas=[b"meta 50", b""]) == bytes([PRESENT, HIT])
        finally:
            again.close()

    # -- bounds ---------------------------------------------------------------------------------------------------
    def test_capacity_is_a_bound_and_the_newest_stays(self, engine: Any, namespace: Any) -> None:
        capacity = engine.usage()["capacity_bytes"]
        size = max(1, capacity // 64)
        count = 3 * capacity // size
        for number in range(count):
            put_surely(engine, namespace, b"k%d" % number, block(number, size))
            usage = engine.usage()
            assert usage["used_bytes"] <= usage["capacity_bytes"] == capacity
        found = get(engine, namespace, [b"k%d" % number for number in range(count)])
        assert found[-1] == block(count - 1, size)
        assert found[0] is None or found.count(None) >= count // 2
        for number, value in enumerate(found):
            assert value is None or value == block(number, size), f"k{number} holds other bytes"

    def test_what_is_being_read_is_not_overwritten(self, engine: Any, namespace: Any) -> None:
        capacity = engine.usage()["capacity_bytes"]
        size = max(1, capacity // 64)
        put_surely(engine, namespace, b"read", block(1000, size))
        batch = engine.read(namespace, [b"read"], [size])
        assert batch.statuses[0] == HIT
        for number in range(3 * capacity // size):
            put(engine, namespace, {b"k%d" % number: block(number, size)})  # NO_SPACE is fair while it is pinned
            engine.tick()
        assert bytes(batch.views[0]) == block(1000, size)
        engine.release(batch)
        put_surely(engine, namespace, b"after", block(7, size))
        assert get(engine, namespace, [b"after"]) == [block(7, size)]

    def test_background_work_ends(self, engine: Any, namespace: Any) -> None:
        put(engine, namespace, {b"a": block(1, 1000)})
        for _ in range(100_000):
            if not engine.tick():
                break
        else:
            raise AssertionError("tick() never said that it is done")
        assert get(engine, namespace, [b"a"]) == [block(1, 1000)]

    def test_usage_is_json(self, engine: Any, namespace: Any) -> None:
        before = engine.usage()
        put(engine, namespace, {b"a": block(1, 100_000)})
        after = json.loads(json.dumps(engine.usage()))
        assert after["records"] == before["records"] + 1
        assert before["used_bytes"] < after["used_bytes"] <= after["capacity_bytes"]
        assert after["live_bytes"] >= 100_000

    def test_random_histories_agree_with_a_dict(self, tmp_path: Path) -> None:
        # Imported here: stateful stands on this module.
        from memkv_core.testing.stateful import check_engine

        folders = itertools.count()

        def make() -> Any:
            path = tmp_path / str(next(folders))
            path.mkdir()
            return self.make_engine(path)

        check_engine(make, self.reopen if self.durable else None)
