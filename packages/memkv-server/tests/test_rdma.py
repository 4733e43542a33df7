# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with RDMA, and what must not come of it: a real lane and the real transport, over the fake verbs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memkv_core.calls import GetCall, PutCall
from memkv_core.errors import MemKVError, TransportTimeoutError
from memkv_core.places import Places, RegionRequest
from memkv_core.regions import Range
from memkv_core.staging import Staging
from memkv_core.testing.fake_verbs import Fabric, FakeEndpoint, FakeQueue, FakeVerbs
from memkv_core.testing.raw_client import RawClient
from memkv_core.testing.transport_tests import KEY, NAMESPACE, get_call, in_time, new_session, put_call
from memkv_core.transports.base import Route
from memkv_core.transports.placing import PlacedCall
from memkv_core.transports.rail import Rail
from memkv_core.transports.rdma import RdmaPath, RdmaTransport
from memkv_core.transports.verbs import DeviceSpec, WorkStatus
from memkv_core.wire import Status
from memkv_server import guarded_copy, limits
from memkv_server.engine import DriveSet
from memkv_server.rdma import RdmaDevice, RdmaSource
from memkv_server.rdma_mover import RdmaMover
from memkv_server.testing.local_lane import LocalLane

MIB = 1 << 20


class Rig:
    """A lane with an RDMA device, a client with another, and a pool of the client's that is registered."""

    def __init__(self, folder: Path, *, mode: str = "memory", devices: int = 1) -> None:
        self.fabric = Fabric()
        names = [f"dev{number}" for number in range(devices)]
        self.node_verbs, self.client_verbs = FakeVerbs(self.fabric, names), FakeVerbs(self.fabric, names)
        self.names = names
        self.source: RdmaSource | None = None
        self.lane = LocalLane(folder, KEY, rdma=self._open_source, mode=mode)
        self.rails = [Rail(self.client_verbs, DeviceSpec(name)) for name in names]
        for rail in self.rails:
            rail.usable()
        self.transport = RdmaTransport(
            new_session, self.rails, Staging.of_mb(16, 1), choose_rail=lambda server, count: 0, connections=2
        )
        self.pool = np.zeros(64 * MIB, np.uint8)
        self.region = self.transport.register(self.pool.data)
        self.route = Route(self.lane.address, 0)

    def _open_source(self, engine: DriveSet) -> RdmaSource:
        self.source = RdmaSource.open(self.names, engine.fixed_memory(), 8 * MIB, lambda: self.node_verbs)
        return self.source

    @property
    def device(self) -> RdmaDevice:
        assert self.source is not None
        return self.source.devices[0]

    @property
    def movers(self) -> list[RdmaMover]:
        return [mover for mover, _ in self.device._movers.values()]

    def page(self, number: int, size: int = MIB) -> memoryview:
        return self.pool.data[number * MIB : number * MIB + size]

    def put(self, values: dict[bytes, Any], seconds: float = 30.0) -> PutCall:
        call = put_call(values)
        self.transport.run([(self.route, [call])], in_time(seconds))
        return call

    def get(self, targets: dict[bytes, Any], seconds: float = 30.0) -> GetCall:
        call = get_call(targets)
        self.transport.run([(self.route, [call])], in_time(seconds))
        return call

    def plant(self, key: bytes, value: bytes) -> None:
        with RawClient(self.lane.address, KEY, namespace=NAMESPACE) as raw:
            assert raw.put(key, value) in (Status.HIT, Status.PRESENT)

    def peek(self, key: bytes) -> bytes | None:
        with RawClient(self.lane.address, KEY, namespace=NAMESPACE) as raw:
            return raw.get(key)

    def paths(self) -> list[RdmaPath]:
        """Those of the idle connections."""
        flows = [flow for flows in self.transport._pool._idle.values() for flow in flows]
        return [flow.path for flow in flows if isinstance(flow.path, RdmaPath)]

    def moved_bytes(self) -> tuple[int, int]:
        return self.transport.moves.registered_bytes, self.transport.moves.staged_bytes

    def close(self) -> None:
        self.transport.close()
        self.lane.stop()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "store")
    yield rig
    rig.close()


@pytest.fixture
def file_rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "store", mode="file")
    yield rig
    rig.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def filled(rig: Rig, count: int, seed: int = 1) -> dict[bytes, memoryview]:
    """Random blocks in the first pages of the pool, by key."""
    rig.pool[: count * MIB] = np.random.default_rng(seed).integers(0, 256, count * MIB, np.uint8)
    return {b"block %d" % number: rig.page(number) for number in range(count)}


# -- when all is well -------------------------------------------------------------------------------------------------
def test_registered_blocks_are_not_copied_by_the_client(rig: Rig) -> None:
    values = filled(rig, 16)
    assert rig.put(values).statuses == bytes([Status.HIT] * 16)
    targets = {key: rig.page(32 + number) for number, key in enumerate(values)}
    got = rig.get(targets)
    assert got.lengths == [MIB] * 16
    assert all(targets[key] == values[key] for key in values)
    assert rig.moved_bytes() == (32 * MIB, 0)
    assert rig.transport.staging.opened == 0
    assert rig.transport.moves.fallbacks == {}
    assert rig.peek(b"block 3") == bytes(values[b"block 3"])


def test_the_lane_says_whether_rdma_can_be_had(rig: Rig) -> None:
    assert rig.lane.lane.status()["rdma_active"] is True
    rig.node_verbs.devices["dev0"].port_down()
    assert rig.lane.lane.status()["rdma_active"] is False


def test_a_batch_is_one_posting_call(rig: Rig) -> None:
    """The server's memory is registered too (mode memory): a chain for each frame, the last of it signalled."""
    values = filled(rig, 16)
    rig.put(values)
    (mover,) = rig.movers
    assert mover.post_calls == 1
    (path,) = rig.paths()
    before = path.post_calls
    for turn in range(8):
        rig.get({key: rig.page(32 + number) for number, key in enumerate(values)})
        assert mover.post_calls == 2 + turn
    assert path.post_calls == before, "receives are posted many at a time"
    assert rig.device.direct_bytes > 0


def test_no_key_to_the_servers_memory_leaves_it(rig: Rig) -> None:
    rig.put(filled(rig, 1))
    granted = {region.access for region in rig.fabric.regions.values() if region.domain.context.hardware
               is rig.node_verbs.devices["dev0"]}  # fmt: skip
    assert granted == {1}, "LOCAL_WRITE and nothing else"


def test_a_file_store_goes_by_bounce_slots(file_rig: Rig) -> None:
    rig = file_rig
    values = filled(rig, 16)
    assert rig.put(values).statuses == bytes([Status.HIT] * 16)
    targets = {key: rig.page(32 + number) for number, key in enumerate(values)}
    assert rig.get(targets).lengths == [MIB] * 16
    assert all(targets[key] == values[key] for key in values)
    assert rig.moved_bytes() == (32 * MIB, 0)
    (mover,) = rig.movers
    assert mover.post_calls == 2 * 16 * MIB // limits.RDMA_STEP_BYTES
    assert rig.device.bounce.free_count == rig.device.bounce.slot_count


def test_blocks_of_many_parts_in_and_out_of_the_pool(rig: Rig) -> None:
    """One part that is not registered sends a block by the staging, and no other block with it."""
    values = filled(rig, 4)
    scattered = [rig.page(0, 1000), rig.page(2, 5000), rig.page(1, 7)]
    mixed = [rig.page(3, 100), memoryview(b"elsewhere")]
    put = rig.put({b"scattered": scattered, b"mixed": mixed, b"empty": b"", b"whole": values[b"block 3"]})
    assert put.statuses == bytes([Status.HIT] * 4)
    assert rig.moved_bytes() == (6007 + MIB, 109)
    targets = [rig.page(40, 3), rig.page(50, 6000), rig.page(41, 4)]
    elsewhere = bytearray(200)
    got = rig.get({b"scattered": targets, b"mixed": elsewhere, b"missing": rig.page(60), b"empty": bytearray(1)})
    assert got.lengths == [6007, 109, None, 0]
    assert b"".join(map(bytes, targets)) == b"".join(map(bytes, scattered))
    assert bytes(elsewhere[:109]) == bytes(mixed[0]) + b"elsewhere"
    assert not any(rig.page(60)), "a miss writes nothing"


def test_a_value_that_is_there_is_not_moved_again(rig: Rig) -> None:
    values = filled(rig, 4)
    rig.put(values)
    (mover,) = rig.movers
    posted = mover.post_calls
    assert rig.put(values).statuses == bytes([Status.PRESENT] * 4)
    assert mover.post_calls == posted


def test_puts_and_gets_on_one_connection_keep_their_order(rig: Rig) -> None:
    """Two puts may be on their way at once; what follows them sees both, and each is answered in its turn."""
    rig.fabric.delay_s = 0.01  # completions come later than the next frame
    values = filled(rig, 6)
    keys = list(values)
    unknown = put_call({b"unknown": bytes(10)})
    puts = [put_call({key: values[key]}) for key in keys]
    same = [put_call({b"same": rig.page(number, 1000)}) for number in range(3)]
    gets = [get_call({key: rig.page(20 + number)}) for number, key in enumerate(keys)]
    last = get_call({b"same": rig.page(40, 1000)})
    calls: list[Any] = [*puts[:3], gets[0], unknown, *same, *puts[3:], *gets[1:], last]
    rig.transport.run([(rig.route, calls)], in_time())
    assert [call.error for call in calls] == [None] * len(calls)
    assert all(call.statuses == bytes([Status.HIT]) for call in calls)
    assert all(rig.page(20 + number) == values[key] for number, key in enumerate(keys))
    assert rig.page(40, 1000) == rig.page(2, 1000), "the put that was sent last"
    assert rig.transport.moves.fallbacks == {}


def test_a_put_that_is_refused_waits_its_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose places are no good, between others that are under way."""
    rig.put({b"warm": rig.page(0, 10)})
    rig.fabric.delay_s = 0.01
    values = filled(rig, 3)
    puts = [put_call({key: value}) for key, value in values.items()]
    real = PlacedCall.places

    def places(call: PlacedCall) -> Places:
        found = real(call)
        if call.call is puts[1]:
            found.parts["region"] = 4_000_000
        return found

    monkeypatch.setattr(PlacedCall, "places", places)
    rig.transport.run([(rig.route, puts)], in_time())
    assert [(call.error, call.statuses) for call in puts] == [(None, bytes([Status.HIT]))] * 3
    assert rig.transport.moves.fallbacks == {"refused": 1}
    assert all(rig.peek(key) == bytes(value) for key, value in values.items())


def test_bytes_that_change_under_way_are_not_stored(rig: Rig) -> None:
    """The caller breaks his word: what the node reads is not what was announced."""
    rig.put({b"warm": rig.page(1, 10)})
    values = filled(rig, 1)
    call = put_call(values)
    rig.node_verbs.devices["dev0"].freeze()
    thread = threading.Thread(target=rig.transport.run, args=([(rig.route, [call])], in_time()))
    thread.start()
    wait_for(lambda: any(mover.post_calls == 2 for mover in rig.movers))
    rig.pool[0] ^= 1
    rig.node_verbs.devices["dev0"].thaw()
    thread.join()
    assert call.statuses == bytes([Status.BAD_DIGEST])
    assert rig.peek(b"block 0") is None


# -- the fence --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["memory", "file"])
@pytest.mark.parametrize("registered", [True, False])
def test_a_server_that_wakes_too_late_writes_nothing(tmp_path: Path, mode: str, registered: bool) -> None:
    """The device froze in the middle; when it goes on, the page is another's: not one byte of it may change."""
    rig = Rig(tmp_path / "store", mode=mode)
    try:
        rig.plant(b"late", b"\x11" * MIB)
        page = rig.page(5) if registered else memoryview(bytearray(MIB))
        assert rig.get({b"late": page}).lengths == [MIB]  # connected, warm
        rig.node_verbs.devices["dev0"].freeze()
        call = rig.get({b"late": page}, seconds=0.2)
        assert isinstance(call.error, TransportTimeoutError)
        page[:] = b"\x55" * MIB
        slots = rig.transport.staging
        assert slots.free_count == slots.opened
        rig.node_verbs.devices["dev0"].thaw()
        wait_for(lambda: len(rig.movers) == 0 or not rig.transport._suspects)
        assert bytes(page) == b"\x55" * MIB
        again = rig.get({b"late": page})
        assert again.lengths == [MIB]
        assert bytes(page) == b"\x11" * MIB
    finally:
        rig.close()


def test_a_completion_that_is_late_does_not_bring_its_bytes_with_it(rig: Rig) -> None:
    """The bytes are there, and the server is not told: the call is a miss, the page the caller's own again."""
    rig.plant(b"late", b"\x11" * MIB)
    page = rig.page(5)
    rig.get({b"late": page})
    rig.node_verbs.devices["dev0"].hold_completions()
    assert isinstance(rig.get({b"late": page}, seconds=0.2).error, TransportTimeoutError)
    page[:] = b"\x55" * MIB
    rig.node_verbs.devices["dev0"].thaw()
    wait_for(lambda: not rig.transport._suspects)
    assert bytes(page) == b"\x55" * MIB
    assert rig.get({b"late": page}).lengths == [MIB]


def test_a_frozen_lane_that_wakes_changes_no_byte(rig: Rig) -> None:
    rig.plant(b"late", b"\x11" * MIB)
    page = rig.page(5)
    rig.get({b"late": page})
    rig.lane.freeze()
    assert isinstance(rig.get({b"late": page}, seconds=0.2).error, TransportTimeoutError)
    page[:] = b"\x55" * MIB
    rig.lane.thaw()
    wait_for(lambda: not rig.transport._suspects)
    assert bytes(page) == b"\x55" * MIB


def test_a_frozen_device_during_a_put_stores_nothing(rig: Rig) -> None:
    values = filled(rig, 2)
    rig.put({b"warm": values[b"block 0"]})
    rig.node_verbs.devices["dev0"].freeze()
    assert isinstance(rig.put(values, seconds=0.2).error, TransportTimeoutError)
    rig.pool[: 2 * MIB] = 0  # the caller's again, and other bytes
    rig.node_verbs.devices["dev0"].thaw()
    wait_for(lambda: not rig.transport._suspects)
    assert rig.peek(b"block 0") is None
    assert rig.put(filled(rig, 2)).statuses == bytes([Status.HIT] * 2)


def test_the_endpoint_is_there_again_before_the_next_call(rig: Rig) -> None:
    rig.plant(b"a", b"1" * 1000)
    rig.get({b"a": rig.page(0)})
    rig.lane.freeze()
    rig.get({b"a": rig.page(0)}, seconds=0.1)
    rig.lane.thaw()
    wait_for(lambda: not rig.transport._suspects)
    assert len(rig.paths()) == 1, "a thread has made it"
    before = rig.moved_bytes()[0]
    assert rig.get({b"a": rig.page(0)}).lengths == [1000]
    assert rig.moved_bytes()[0] == before + 1000


# -- failures, and the way back ---------------------------------------------------------------------------------------
def falls_back(rig: Rig, cause: str = "move failed") -> None:
    """A get in the middle of the failure is a hit all the same, within its call, by TCP."""
    before = rig.moved_bytes(), rig.transport.moves.fallbacks[cause]
    page = rig.page(9)
    page[:] = bytes(MIB)
    got = rig.get({b"block 0": page})
    assert (got.error, got.lengths) == (None, [MIB])
    assert bytes(page) == rig.peek(b"block 0")
    assert (rig.moved_bytes(), rig.transport.moves.fallbacks[cause]) == (before[0], before[1] + 1)


def comes_back(rig: Rig) -> None:
    """It is probed, not given up: later gets go by RDMA again."""
    wait_for(lambda: not rig.transport._suspects)
    before = rig.moved_bytes()[0]
    assert rig.get({b"block 0": rig.page(10)}).lengths == [MIB]
    assert rig.moved_bytes()[0] == before + MIB


@pytest.mark.parametrize(
    "status", [WorkStatus.REM_ACCESS_ERR, WorkStatus.LOC_QP_OP_ERR, WorkStatus.RETRY_EXC_ERR, WorkStatus.GENERAL_ERR]
)
def test_work_that_fails(rig: Rig, status: WorkStatus) -> None:
    rig.put(filled(rig, 1))
    rig.node_verbs.devices["dev0"].fail_next(status)
    falls_back(rig)
    comes_back(rig)


@pytest.mark.parametrize("responder_fails", [True, False])
def test_a_wrong_rkey(rig: Rig, monkeypatch: pytest.MonkeyPatch, responder_fails: bool) -> None:
    rig.fabric.responder_fails = responder_fails
    with monkeypatch.context() as patched:
        real = RdmaPath.region_request

        def wrong(path: RdmaPath, known: Range) -> RegionRequest | None:
            request = real(path, known)
            return None if request is None else request._replace(rkey=request.rkey + 1)

        patched.setattr(RdmaPath, "region_request", wrong)
        rig.plant(b"block 0", bytes(range(256)) * 4096)
        falls_back(rig)
    comes_back(rig)


def test_a_region_that_was_given_back(rig: Rig) -> None:
    """Its memory goes by the staging from then on, and the server cannot reach it."""
    rig.put(filled(rig, 1))
    rkeys = {region.rkey for region in rig.rails[0]._regions.values()}
    rig.region.close()
    assert rkeys.isdisjoint(rig.fabric.regions)
    assert rig.get({b"block 0": rig.page(9)}).lengths == [MIB]
    assert rig.moved_bytes() == (MIB, MIB)


def test_a_region_that_is_deregistered_under_way(rig: Rig) -> None:
    """The device takes it away while the server still has its key."""
    rig.put(filled(rig, 1))
    (number,) = rig.rails[0]._regions
    rig.rails[0]._regions[number].close()
    falls_back(rig)


def test_a_link_that_goes_down_and_up(rig: Rig) -> None:
    rig.put(filled(rig, 1))
    for devices in (rig.client_verbs, rig.node_verbs):
        devices.devices["dev0"].port_down()
        falls_back(rig)
        falls_back(rig, "no path")
        devices.devices["dev0"].port_up()
        comes_back(rig)


@pytest.mark.parametrize("way", ["copy_from_file", "copy_to_file"])
def test_a_drive_that_does_not_give_its_pages(file_rig: Rig, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """No slot is lost, nothing wrong is stored or given back; the call goes on by TCP."""
    rig = file_rig
    rig.put(filled(rig, 1))
    with monkeypatch.context() as patched:
        patched.setattr(guarded_copy, way, lambda *_: False)
        if way == "copy_from_file":
            falls_back(rig)
        else:
            assert rig.put({b"other": rig.page(3)}).statuses == bytes([Status.HIT])
            assert rig.transport.moves.fallbacks == {"move failed": 1}
    comes_back(rig)
    assert rig.device.bounce.free_count == rig.device.bounce.slot_count


def test_a_put_falls_back_as_well(rig: Rig) -> None:
    values = filled(rig, 3)
    rig.put({b"warm": b"x" * 100})
    rig.node_verbs.devices["dev0"].fail_next(WorkStatus.REM_ACCESS_ERR)
    assert rig.put(values).statuses == bytes([Status.HIT] * 3)
    assert rig.peek(b"block 2") == bytes(values[b"block 2"])
    assert rig.transport.moves.fallbacks["move failed"] == 1


def test_a_server_that_restarts(file_rig: Rig) -> None:
    rig = file_rig
    rig.put(filled(rig, 1))
    rig.lane.stop()
    call = rig.get({b"block 0": rig.page(9)})
    assert isinstance(call.error, MemKVError)
    rig.lane.start()
    got = rig.get({b"block 0": rig.page(9)})
    assert (got.error, got.lengths) == (None, [MIB])
    comes_back(rig)


def test_a_client_that_is_gone_leaves_nothing_behind(rig: Rig) -> None:
    values = filled(rig, 4)
    rig.put(values)
    rig.node_verbs.devices["dev0"].freeze()
    assert rig.get({key: rig.page(20 + at) for at, key in enumerate(values)}, seconds=0.1).error is not None
    rig.transport.close()
    wait_for(lambda: rig.device.endpoint_count == 0)
    rig.node_verbs.devices["dev0"].thaw()
    assert rig.device._clients == {}
    assert not rig.fabric.endpoints


def test_no_endpoint_is_left(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the server's bound a session goes on over TCP."""
    monkeypatch.setattr(limits, "RDMA_ENDPOINTS_PER_CLIENT_MAX", 0)
    values = filled(rig, 1)
    assert rig.put(values).statuses == bytes([Status.HIT])
    assert rig.moved_bytes() == (0, 0)
    assert rig.transport.moves.fallbacks == {"no path": 1}
    monkeypatch.undo()
    comes_back(rig)


def test_staging_that_is_used_up(rig: Rig) -> None:
    """More at once than the staging holds: the rest goes inline, none waits for ever."""
    big = bytes(17 * MIB)
    assert rig.put({b"big": big}).statuses == bytes([Status.HIT])
    assert rig.transport.moves.fallbacks == {"staging": 1}
    target = bytearray(17 * MIB)
    assert rig.get({b"big": target}).lengths == [17 * MIB]
    assert rig.transport.moves.fallbacks == {"staging": 2}


def test_a_client_that_is_closed_in_the_middle(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its devices are closed when nobody uses them any more: a library may crash where one does."""
    used_after_close: list[str] = []
    for kind, names in ((FakeQueue, ("poll", "arm")), (FakeEndpoint, ("connect", "post_receives", "to_error"))):
        for name in names:
            real = getattr(kind, name)

            def checked(self: Any, *arguments: Any, real: Any = real, name: str = name) -> Any:
                if self._closed:
                    used_after_close.append(name)
                return real(self, *arguments)

            monkeypatch.setattr(kind, name, checked)
    values = filled(rig, 4)
    rig.put(values)
    rig.fabric.delay_s = 0.001
    for turn in range(15):
        rail = Rail(rig.client_verbs, DeviceSpec("dev0"))
        transport = RdmaTransport(new_session, [rail], Staging.of_mb(16, 1), choose_rail=lambda server, count: 0)
        transport.register(rig.pool.data)
        errors: list[object] = []

        def work(number: int, transport: RdmaTransport = transport, errors: list[object] = errors) -> None:
            while not errors:
                call = get_call({key: rig.page(16 + 4 * number + at) for at, key in enumerate(values)})
                transport.run([(rig.route, [call])], in_time())
                if call.error is not None:
                    errors.append(call.error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        if turn % 3 == 0:
            transport._suspect(rig.route.server)  # the prober is at work as well
        time.sleep(0.002 * turn)
        transport.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert rail.wait_closed(30)
    assert used_after_close == []
    assert rig.client_verbs.devices["dev0"].endpoints == [path.endpoint for path in rig.paths()]


# -- several devices --------------------------------------------------------------------------------------------------
def test_another_device_stands_in(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "store", devices=2)
    try:
        rig.client_verbs.devices["dev0"].port_down()
        rig.put(filled(rig, 1))
        (path,) = rig.paths()
        assert path.rail.name == "dev1"
        assert rig.moved_bytes() == (MIB, 0)
        assert rig.rails[0].problem == "RDMA device dev0 is not active"
    finally:
        rig.close()


def test_a_device_that_is_not_there_at_the_start(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "store")
    try:
        rig.client_verbs.devices["dev0"].port_down()
        late = Rail(rig.client_verbs, DeviceSpec("dev0"))
        transport = RdmaTransport(new_session, [late], Staging.of_mb(16, 1), choose_rail=lambda server, count: 0)
        transport.register(rig.pool.data)
        call = put_call(filled(rig, 1))
        transport.run([(rig.route, [call])], in_time())
        assert (call.statuses, transport.moves.registered_bytes) == (bytes([Status.HIT]), 0)
        rig.client_verbs.devices["dev0"].port_up()
        wait_for(lambda: not transport._suspects)
        got = get_call({b"block 0": rig.page(9)})
        transport.run([(rig.route, [got])], in_time())
        assert transport.moves.registered_bytes == MIB, "what was registered before is known to it"
        transport.close()
    finally:
        rig.close()


def test_what_the_node_says_of_a_device_it_cannot_use(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "memkv.server.rdma"):
        node = FakeVerbs(Fabric(), ["up", "down"])
        node.devices["down"].port_down()
        source = RdmaSource.open(["gone", "down", "up"], [], MIB, lambda: node)
    assert [device.name for device in source.devices] == ["up"]
    assert source.offer()[0]["device"] == "up"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0] == "rdma: gone is not used: no RDMA device gone; this host has down, up"
    assert lines[1].startswith("rdma: down is not used: RDMA device down is not active: port 1 is DOWN")
    assert lines[2].startswith("rdma device=up port=1 gid=")
    source.close()


def test_a_child_of_a_fork_finds_its_own_way_back(rig: Rig) -> None:
    """It inherits a suspect and no thread to probe it; its devices and its registrations are its own."""
    rig.put(filled(rig, 1))
    rig.transport._suspect(rig.route.server)
    suspects = rig.transport._suspects
    suspects.close()  # this process's prober ends, and probes nothing
    wait_for(lambda: suspects.prober is None or not suspects.prober.is_alive())
    suspects._closed.clear()
    rig.transport.after_fork()
    assert rig.transport.regions.ranges == {}
    assert rig.get({b"block 0": rig.page(9)}).lengths == [MIB]
    wait_for(lambda: not rig.transport._suspects)
    before = rig.moved_bytes()
    assert rig.get({b"block 0": rig.page(9)}).lengths == [MIB]
    assert rig.moved_bytes() == (before[0], before[1] + MIB), "what the parent has registered goes by staging"
    rig.region.close()  # the parent's
