# SPDX-License-Identifier: Apache-2.0
"""The kit applied to what core has: the model engine, the loopback, TCP; and to engines that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memkv_core.testing.conformance import EngineTests, TransportTests, check_engine
from memkv_core.testing.loopback import LoopbackServer, LoopbackTransport
from memkv_core.testing.memory_engine import DictEngine, DictNamespace, DictReadBatch, DictReservation
from memkv_core.testing.node_hooks import NodeHooks
from memkv_core.testing.socket_server import SocketServer
from memkv_core.testing.transport_tests import KEY, NAMESPACE, SessionFactory, put_call
from memkv_core.transports.base import Transport
from memkv_core.transports.tcp import TCPTransport
from memkv_core.wire import Status


class TestDictEngine(EngineTests):
    def make_engine(self, path: Path) -> Any:
        return DictEngine(capacity_bytes=8 << 20)

    def reopen(self, engine: Any) -> Any:
        engine.close()
        return engine.reopened()

    def damage(self, engine: Any, namespace: Any, key: bytes) -> None:
        engine.damage(namespace.name, key)


class Loopback(TransportTests):
    """Hooks that look straight into the dicts."""

    def node(self, server: Any) -> LoopbackServer:
        assert isinstance(server, LoopbackServer)
        return server

    def peek(self, server: Any, lane: int, key: bytes) -> bytes | None:
        block = self.node(server).engines[lane].blocks.get((NAMESPACE, key))
        return block.value if block is not None else None

    def plant(self, server: Any, lane: int, key: bytes, value: bytes) -> None:
        from memkv_core.testing.engine_tests import put

        engine = self.node(server).engines[lane]
        assert put(engine, engine.open_namespace(NAMESPACE, b""), {key: value}) == bytes([Status.HIT])


class TestLoopback(Loopback):
    lanes = 3

    def start(self, path: Path) -> Any:
        return LoopbackServer([KEY], lanes=self.lanes)

    def stop(self, server: Any) -> None:
        assert [engine.open_reads for engine in server.engines] == [0] * self.lanes
        assert [engine.open_reservations for engine in server.engines] == [0] * self.lanes

    def address(self, server: Any) -> str:
        return "node:9900"

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        return LoopbackTransport(new_session, {"node:9900": server})

    def freeze(self, server: Any) -> None:
        server.frozen = True

    def thaw(self, server: Any) -> None:
        server.frozen = False

    def kill(self, server: Any) -> None:
        server.down = True

    def revive(self, server: Any) -> None:
        server.down = False


class TestTCP(NodeHooks, Loopback):
    lanes = 2

    def start(self, path: Path) -> Any:
        return SocketServer([KEY], lanes=self.lanes).start()

    def node(self, server: Any) -> LoopbackServer:
        assert isinstance(server, SocketServer)
        return server.node

    def stop(self, server: Any) -> None:
        server.stop()

    def make_transport(self, server: Any, new_session: SessionFactory) -> Transport:
        return TCPTransport(new_session)


# -- the kit finds what is wrong -------------------------------------------------------------------------------------
class SeesUncommitted(DictEngine):
    def abort(self, reservation: DictReservation) -> None:
        self.commit(reservation)


class TrustsTheDigest(DictEngine):
    def commit(self, reservation: DictReservation) -> bytes:
        from memkv_core.digests import digest

        reservation.digests = [
            digest([extent], reservation.digest_kind) if extent is not None else announced
            for extent, announced in zip(reservation.extents, reservation.digests, strict=True)
        ]
        return super().commit(reservation)


class MixesNamespaces(DictEngine):
    def open_namespace(self, name: str, identity: bytes) -> DictNamespace | None:
        return super().open_namespace("one for all", b"")


class ForgetsDeletes(DictEngine):
    def delete(self, namespace: DictNamespace, keys: Sequence[bytes]) -> bytes:
        return self.exists(namespace, keys)


class SwapsValues(DictEngine):
    def read(self, namespace: DictNamespace, keys: Sequence[bytes], capacities: Sequence[int]) -> DictReadBatch:
        return super().read(namespace, list(keys)[::-1], list(capacities)[::-1])


class LosesOnReopen(DictEngine):
    def reopened(self) -> DictEngine:
        return LosesOnReopen(capacity_bytes=self.capacity_bytes)


@pytest.mark.parametrize(
    "engine_class", [SeesUncommitted, TrustsTheDigest, MixesNamespaces, ForgetsDeletes, SwapsValues, LosesOnReopen]
)
def test_a_wrong_engine_fails(engine_class: type[DictEngine], tmp_path: Path) -> None:
    class Tests(TestDictEngine):
        def make_engine(self, path: Path) -> Any:
            return engine_class(capacity_bytes=8 << 20)

    tests = Tests()
    failed = []
    for name in [name for name in dir(EngineTests) if name.startswith("test_")]:
        engine = tests.make_engine(tmp_path)
        given: dict[str, Any] = {"engine": engine, "namespace": engine.open_namespace("model-a", b'{"dtype":"bf16"}')}
        given |= {"size": 100, "kind": 0, "tmp_path": tmp_path}
        function = getattr(tests, name)
        wanted = function.__code__.co_varnames[1 : function.__code__.co_argcount]
        if name == "test_random_histories_agree_with_a_dict":
            continue  # has a test of its own below
        try:
            function(**{parameter: given[parameter] for parameter in wanted})
        except (AssertionError, IndexError, TypeError):
            failed.append(name)
    assert failed
    assert len(failed) < 20, "it is one fault that is found, not everything"


def test_the_model_finds_a_lost_delete() -> None:
    with pytest.raises(AssertionError):
        check_engine(ForgetsDeletes, None)


def test_an_unfilled_hook_says_so(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="is a hook: fill it in"):
        EngineTests().make_engine(tmp_path)
    with pytest.raises(AssertionError, match="is a hook: fill it in"):
        TransportTests().start(tmp_path)


def test_tap_sees_and_alters_what_travels() -> None:
    """One flipped bit in any authenticated part, either way, ends the call without a result."""
    from memkv_core.testing.transport_tests import in_time, new_session
    from memkv_core.transports.base import Route

    server = LoopbackServer([KEY])
    route = Route("node", 0)
    seen: list[tuple[str, bytes]] = []

    def record(direction: str, message: bytes) -> bytes:
        seen.append((direction, message))
        return message

    call = put_call({b"a": b"1"})
    LoopbackTransport(new_session, {"node": server}, tap=record).run([(route, [call])], in_time())
    assert call.done
    assert [direction for direction, _ in seen] == ["to server", "to client"] * 3
    assert all(KEY not in message and KEY.hex().encode() not in message for _, message in seen)
    for position in range(6):
        for at in range(len(seen[position][1])):
            count = iter(range(6))

            def flip(
                direction: str, message: bytes, at: int = at, position: int = position, count: Any = count
            ) -> bytes:
                if next(count) != position:
                    return message
                return message[:at] + bytes([message[at] ^ (1 << at % 8)]) + message[at + 1 :]

            call = put_call({b"a": b"2"})
            LoopbackTransport(new_session, {"node": server}, tap=flip).run([(route, [call])], in_time())
            assert not call.done, f"bit {at} of message {position} was not missed"
            assert call.error is not None
