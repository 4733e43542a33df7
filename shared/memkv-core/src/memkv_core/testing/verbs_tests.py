# SPDX-License-Identifier: Apache-2.0
"""What every implementation of the verbs seam must do; subclass ``VerbsTests`` and fill in ``open_sides``.

Nothing here depends on a device's speed: the waits are bounds that only a hang reaches.
"""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from memkv_core.transports import verbs
from memkv_core.transports.verbs import Access, Completion, QueuePairState, WorkKind, WorkRequest, WorkStatus
from memkv_core.transports.work import NO_TRANSFERS, TRANSFER, SendQueue, Transfers, plan

KIB = 1024
LONG_S = 60.0
SIZE = 256 * KIB
REMOTE = verbs.ALL_ACCESS


class Side:
    """One end: a domain, a completion queue, an endpoint and a registered buffer."""

    def __init__(self, context: verbs.Context, access: Access, *, send_depth: int = 32, receive_depth: int = 8) -> None:
        self.context = context
        self.domain = context.protection_domain()
        self.queue = context.completion_queue(send_depth + receive_depth)
        self.send_depth, self.receive_depth = send_depth, receive_depth
        self.endpoint = self.domain.endpoint(self.queue, send_depth, receive_depth)
        self.memory = np.zeros(SIZE, np.uint8)
        self.region = self.domain.register(self.memory, access)

    def renew(self) -> None:
        """Another endpoint in the place of the first."""
        self.endpoint.close()
        self.queue.poll(1000)
        self.endpoint = self.domain.endpoint(self.queue, self.send_depth, self.receive_depth)

    def take(self, count: int, seconds: float = LONG_S) -> list[Completion]:
        """At least ``count`` completions, by epoll, as a transport does it."""
        poller = select.epoll()
        poller.register(self.queue.fd, select.EPOLLIN)
        end_s = time.monotonic() + seconds
        taken: list[Completion] = []
        with poller:
            while True:
                self.queue.arm()
                while came := self.queue.poll():
                    taken += came
                if len(taken) >= count:
                    return taken
                assert poller.poll(max(0.0, end_s - time.monotonic())), f"{len(taken)} completions of {count}: {taken}"


class Link:
    """A server's side, which posts, and a client's side, whose memory is written and read."""

    def __init__(self, contexts: tuple[verbs.Context, verbs.Context], access: Access = REMOTE) -> None:
        self.server = Side(contexts[0], Access.LOCAL_WRITE)
        self.client = Side(contexts[1], access)
        self.connect()

    def connect(self) -> None:
        """Pairs the two endpoints as they are now."""
        self.client.endpoint.connect(self.server.endpoint.local)
        self.server.endpoint.connect(self.client.endpoint.local)

    def renew(self) -> None:
        """Both endpoints anew."""
        self.client.renew()
        self.server.renew()
        self.connect()

    def transfers(self, pieces: Sequence[tuple[int, int, int]]) -> Transfers:
        """``(offset at the server, offset at the client, bytes)`` each."""
        lkey, rkey = self.server.region.lkey, self.client.region.rkey
        base, remote = self.server.region.address, self.client.region.address
        return np.array([(base + at, remote + to, size, lkey, rkey) for at, to, size in pieces], TRANSFER)

    def post(
        self, kind: WorkKind, pieces: Sequence[tuple[int, int, int]], wr_id: int = 1, imm: int | None = None
    ) -> None:
        """One chain, of one request for each piece that does not follow the one before."""
        requests = plan(self.transfers(pieces), self.server.endpoint.device)
        self.server.endpoint.post(kind, requests or [WorkRequest(0, 0, ())], wr_id, imm)

    def fill(self) -> None:
        """Other bytes on each side, all of them different from zero."""
        rng = np.random.default_rng(5)
        self.server.memory[:] = rng.integers(1, 256, SIZE, np.uint8)
        self.client.memory[:] = rng.integers(1, 256, SIZE, np.uint8)


class VerbsTests:
    """The hook first; then what is inherited."""

    def open_sides(self) -> tuple[verbs.Verbs, verbs.Context, verbs.Context]:
        """Verbs, and two open contexts of it that reach each other; of one device or of two."""
        raise AssertionError("VerbsTests.open_sides is a hook: fill it in")

    @pytest.fixture(name="contexts")
    def _contexts(self) -> Iterator[tuple[verbs.Context, verbs.Context]]:
        _, server, client = self.open_sides()
        yield server, client
        client.close()
        server.close()

    @pytest.fixture(name="link")
    def _link(self, contexts: tuple[verbs.Context, verbs.Context]) -> Link:
        link = Link(contexts)
        link.fill()
        return link

    # -- devices --------------------------------------------------------------------------------------------------
    def test_a_device_says_what_it_can_do(self, contexts: tuple[verbs.Context, verbs.Context]) -> None:
        for context in contexts:
            device = context.device
            assert context.active()
            assert device.port.state is verbs.PortState.ACTIVE
            assert device.port.mtu in verbs.MTU_BYTES
            assert len(device.gid.value) == 16
            assert device.gid in device.port.gids
            assert any(device.gid.value)
            assert device.sge_max >= 1
            assert device.message_bytes_max >= 1 << 20
            assert 1 <= device.reads_max <= verbs.READS_MAX
            assert min(device.work_max, device.entries_max, device.queue_pairs_max) >= 16

    def test_an_unknown_device_is_told_with_those_that_are_there(self) -> None:
        found, server, client = self.open_sides()
        assert server.device.name in found.device_names()
        with pytest.raises(verbs.DeviceUnavailableError, match=f"no RDMA device nosuch0; .*{server.device.name}"):
            found.open(verbs.DeviceSpec("nosuch0"))
        with pytest.raises(verbs.DeviceUnavailableError, match="no port 77"):
            found.open(verbs.DeviceSpec(server.device.name, 77))
        with pytest.raises(verbs.DeviceUnavailableError, match="no GID at index 200"):
            found.open(verbs.DeviceSpec(server.device.name, 0, 200))
        client.close()
        server.close()
        server.close()

    # -- moving ---------------------------------------------------------------------------------------------------
    def test_a_chain_of_writes_lands_and_completes_once(self, link: Link) -> None:
        before = link.client.memory.copy()
        pieces = [(at * KIB, SIZE // 2 + at * 2 * KIB, KIB) for at in range(16)]
        link.post(WorkKind.WRITE, pieces, wr_id=77)
        assert link.server.take(1) == [Completion(77, WorkStatus.SUCCESS, link.server.endpoint.qpn)]
        for source, target, size in pieces:
            before[target : target + size] = link.server.memory[source : source + size]
        assert np.array_equal(link.client.memory, before)
        assert link.server.queue.poll() == []

    def test_a_chain_of_reads_fetches(self, link: Link) -> None:
        before = link.server.memory.copy()
        pieces = [(at * 2 * KIB, at * KIB, KIB) for at in range(16)]
        link.post(WorkKind.READ, pieces, wr_id=1 << 40)
        assert link.server.take(1) == [Completion(1 << 40, WorkStatus.SUCCESS, link.server.endpoint.qpn)]
        for target, source, size in pieces:
            before[target : target + size] = link.client.memory[source : source + size]
        assert np.array_equal(link.server.memory, before)

    @pytest.mark.parametrize("imm", [0, 1, 0x01020304, 0xFFFFFFFF])
    def test_the_immediate_value_comes_after_the_bytes(self, link: Link, imm: int) -> None:
        link.client.endpoint.post_receives(2, wr_id=9)
        link.post(WorkKind.WRITE, [(0, 0, 64 * KIB), (70 * KIB, 80 * KIB, 100)], imm=imm)
        assert link.client.take(1) == [Completion(9, WorkStatus.SUCCESS, link.client.endpoint.qpn, imm)]
        assert np.array_equal(link.client.memory[: 64 * KIB], link.server.memory[: 64 * KIB])
        assert np.array_equal(
            link.client.memory[80 * KIB : 80 * KIB + 100], link.server.memory[70 * KIB : 70 * KIB + 100]
        )
        assert [completion.status for completion in link.server.take(1)] == [WorkStatus.SUCCESS]

    def test_an_immediate_value_comes_without_a_byte(self, link: Link) -> None:
        before = link.client.memory.copy()
        link.client.endpoint.post_receives(1, wr_id=3)
        link.post(WorkKind.WRITE, [], imm=5)
        assert link.client.take(1) == [Completion(3, WorkStatus.SUCCESS, link.client.endpoint.qpn, 5)]
        assert link.server.take(1)[0].status == WorkStatus.SUCCESS
        assert np.array_equal(link.client.memory, before)

    def test_parts_are_gathered_and_scattered(self, link: Link) -> None:
        count = min(link.server.endpoint.device.sge_max, 16)
        pieces = [(at * 2 * KIB, at * KIB, KIB) for at in range(count)]
        requests = plan(link.transfers(pieces), link.server.endpoint.device)
        assert [len(request.parts) for request in requests] == [count]
        link.server.endpoint.post(WorkKind.WRITE, requests, 1)
        assert link.server.take(1)[0].status == WorkStatus.SUCCESS
        sent = np.concatenate([link.server.memory[at : at + KIB] for at, _, _ in pieces])
        assert np.array_equal(link.client.memory[: count * KIB], sent)
        link.server.memory[:] = 0
        link.server.endpoint.post(WorkKind.READ, requests, 2)
        assert link.server.take(1)[0].status == WorkStatus.SUCCESS
        assert np.array_equal(np.concatenate([link.server.memory[at : at + KIB] for at, _, _ in pieces]), sent)

    def test_more_than_the_depth_goes_on_by_itself(self, link: Link) -> None:
        sends = SendQueue(link.server.endpoint)
        pieces = [(at * KIB, (at * 2 + 1) * KIB, KIB) for at in range(100)]
        sends.submit(4, WorkKind.WRITE, link.transfers(pieces))
        link.client.endpoint.post_receives(1, 0)
        sends.submit(5, WorkKind.WRITE, NO_TRANSFERS, imm=8)
        finished: list[tuple[int, int]] = []
        while not sends.idle:
            for completion in link.server.take(1):
                finished += sends.completed(completion)
        assert finished == [(4, WorkStatus.SUCCESS), (5, WorkStatus.SUCCESS)]
        assert sends.free == link.server.send_depth
        assert (sends.post_calls, sends.work_requests) == (5, 101)
        for source, target, size in pieces:
            assert np.array_equal(
                link.client.memory[target : target + size], link.server.memory[source : source + size]
            )

    # -- completions ----------------------------------------------------------------------------------------------
    def test_the_descriptor_tells_only_where_it_was_asked(self, link: Link) -> None:
        poller = select.poll()
        poller.register(link.client.queue.fd, select.POLLIN)
        link.client.endpoint.post_receives(3, 0)
        link.client.queue.arm()
        assert poller.poll(0) == []
        assert link.client.queue.poll() == []
        for imm in range(2):
            link.post(WorkKind.WRITE, [(0, 0, 8)], imm=imm)
        link.server.take(2)
        assert poller.poll(LONG_S * 1000)
        link.client.queue.arm()  # takes the event
        assert [completion.imm for completion in link.client.queue.poll(1)] == [0]
        assert [completion.imm for completion in link.client.take(1)] == [1]
        assert poller.poll(0) == []
        link.post(WorkKind.WRITE, [(0, 0, 8)], imm=2)
        assert [completion.imm for completion in link.client.take(1)] == [2]

    def test_a_queue_has_room_for_all_work_of_its_endpoints(
        self, contexts: tuple[verbs.Context, verbs.Context]
    ) -> None:
        domain, queue = contexts[0].protection_domain(), contexts[0].completion_queue(64)
        assert queue.free == queue.depth >= 64
        endpoints = []
        while queue.free >= 32:
            endpoints.append(domain.endpoint(queue, 24, 8))
        with pytest.raises(verbs.CapacityError, match="completion queue"):
            domain.endpoint(queue, 24, 8)
        endpoints.pop().close()
        queue.poll()
        assert domain.endpoint(queue, 24, 8).qpn
        with pytest.raises(verbs.CapacityError):
            contexts[0].completion_queue(contexts[0].device.entries_max + 1)

    # -- what goes wrong ------------------------------------------------------------------------------------------
    def expect_failure(self, link: Link, status: WorkStatus, count: int = 1) -> None:
        """The first completion says why, the rest that they were flushed; and then a new pair works."""
        came = link.server.take(count)
        assert [completion.status for completion in came] == [status] + [WorkStatus.WR_FLUSH_ERR] * (count - 1)
        assert link.server.endpoint.state() is QueuePairState.ERR
        link.renew()
        link.post(WorkKind.WRITE, [(0, 0, KIB)])
        assert link.server.take(1)[0].status == WorkStatus.SUCCESS
        assert np.array_equal(link.client.memory[:KIB], link.server.memory[:KIB])

    def test_a_wrong_key_moves_nothing_and_ends_the_chain(self, link: Link) -> None:
        before = link.client.memory.copy()
        transfers = link.transfers([(at * KIB, at * 2 * KIB, KIB) for at in range(4)])
        transfers["rkey"] ^= 1
        link.server.endpoint.post(WorkKind.WRITE, plan(transfers, link.server.endpoint.device), 6)
        came = link.server.take(4)
        assert {completion.wr_id for completion in came} == {6}
        assert [completion.status for completion in came] == [WorkStatus.REM_ACCESS_ERR, *[WorkStatus.WR_FLUSH_ERR] * 3]
        assert np.array_equal(link.client.memory, before)

    @pytest.mark.parametrize("kind", list(WorkKind))
    def test_beyond_the_region(self, link: Link, kind: WorkKind) -> None:
        link.post(kind, [(0, SIZE - KIB, 2 * KIB)])
        self.expect_failure(link, WorkStatus.REM_ACCESS_ERR)

    def test_a_region_that_was_deregistered(self, link: Link) -> None:
        other = np.zeros(64 * KIB, np.uint8)
        region = link.client.domain.register(other, REMOTE)
        request = WorkRequest(region.address, region.rkey, [(link.server.region.address, KIB, link.server.region.lkey)])
        link.server.endpoint.post(WorkKind.WRITE, [request], 1)
        assert link.server.take(1)[0].status == WorkStatus.SUCCESS
        assert np.array_equal(other[:KIB], link.server.memory[:KIB])
        other[:] = 0
        region.close()
        region.close()
        link.server.endpoint.post(WorkKind.WRITE, [request], 2)
        self.expect_failure(link, WorkStatus.REM_ACCESS_ERR)
        assert not other.any()

    @pytest.mark.parametrize(
        ("access", "kind"),
        [
            (Access.LOCAL_WRITE, WorkKind.WRITE),
            (Access.LOCAL_WRITE, WorkKind.READ),
            (Access.REMOTE_READ, WorkKind.WRITE),
        ],
    )
    def test_access_that_was_not_given(self, link: Link, access: Access, kind: WorkKind) -> None:
        other = np.zeros(KIB, np.uint8)
        region = link.client.domain.register(other, access)
        request = WorkRequest(region.address, region.rkey, [(link.server.region.address, KIB, link.server.region.lkey)])
        link.server.endpoint.post(kind, [request], 1)
        self.expect_failure(link, WorkStatus.REM_ACCESS_ERR)
        assert not other.any()

    @pytest.mark.parametrize("kind", list(WorkKind))
    def test_an_endpoint_that_lets_nobody_in(
        self, contexts: tuple[verbs.Context, verbs.Context], kind: WorkKind
    ) -> None:
        """A server's: whatever its regions allow."""
        closed, other = Side(contexts[0], REMOTE), Side(contexts[1], REMOTE)
        closed.endpoint.close()
        closed.queue.poll()
        closed.endpoint = closed.domain.endpoint(closed.queue, 16, 1, Access.LOCAL_WRITE)
        closed.memory[:] = 1
        other.memory[:] = 2
        closed.endpoint.connect(other.endpoint.local)
        other.endpoint.connect(closed.endpoint.local)
        part = (other.region.address, KIB, other.region.lkey)
        other.endpoint.post(kind, [WorkRequest(closed.region.address, closed.region.rkey, [part])], 1)
        assert other.take(1)[0].status in (WorkStatus.REM_INV_REQ_ERR, WorkStatus.REM_ACCESS_ERR)
        assert (closed.memory == 1).all()
        assert (other.memory == 2).all()

    def test_a_region_of_another_domain(self, link: Link) -> None:
        other = np.zeros(KIB, np.uint8)
        domain = link.client.context.protection_domain()
        region = domain.register(other, REMOTE)
        request = WorkRequest(region.address, region.rkey, [(link.server.region.address, KIB, link.server.region.lkey)])
        link.server.endpoint.post(WorkKind.WRITE, [request], 1)
        self.expect_failure(link, WorkStatus.REM_ACCESS_ERR)
        assert not other.any()

    def test_local_memory_that_is_not_registered(self, link: Link) -> None:
        link.post(WorkKind.WRITE, [(SIZE - KIB, 0, 2 * KIB)])
        self.expect_failure(link, WorkStatus.LOC_PROT_ERR)

    def test_work_on_an_endpoint_in_error_is_flushed(self, link: Link) -> None:
        link.server.endpoint.to_error()
        link.server.endpoint.to_error()
        link.post(WorkKind.WRITE, [(0, 0, KIB), (0, 4 * KIB, KIB)], wr_id=5)
        self.expect_failure(link, WorkStatus.WR_FLUSH_ERR, count=2)

    def test_the_fence(self, link: Link) -> None:
        """After the client's ``to_error`` no write of the server's lands."""
        link.client.endpoint.post_receives(2, wr_id=4)
        link.client.endpoint.to_error()
        poison = link.client.memory.copy()
        link.post(WorkKind.WRITE, [(0, at * KIB, 512) for at in range(8)], imm=1)
        came = link.server.take(8)
        assert [completion.status for completion in came] == [WorkStatus.RETRY_EXC_ERR, *[WorkStatus.WR_FLUSH_ERR] * 7]
        assert np.array_equal(link.client.memory, poison)
        assert [(completion.wr_id, completion.status) for completion in link.client.take(2)] == [(4, 5), (4, 5)]

    def test_a_peer_that_is_gone(self, link: Link) -> None:
        link.client.endpoint.close()
        link.client.endpoint.close()
        link.post(WorkKind.WRITE, [(0, 0, KIB)])
        assert link.server.take(1)[0].status == WorkStatus.RETRY_EXC_ERR

    def test_an_immediate_value_that_nobody_waits_for(self, link: Link) -> None:
        link.post(WorkKind.WRITE, [(0, 0, KIB)], imm=1)
        self.expect_failure(link, WorkStatus.RNR_RETRY_EXC_ERR)

    def test_an_endpoint_that_is_not_connected_posts_nothing(
        self, contexts: tuple[verbs.Context, verbs.Context]
    ) -> None:
        side = Side(contexts[0], Access.LOCAL_WRITE)
        assert side.endpoint.state() is QueuePairState.INIT
        part = (side.region.address, KIB, side.region.lkey)
        with pytest.raises(verbs.VerbsError):
            side.endpoint.post(WorkKind.WRITE, [WorkRequest(0, 0, [part])], 1)

    # -- memory ---------------------------------------------------------------------------------------------------
    def test_a_region_holds_its_buffer(self, link: Link) -> None:
        buffer = bytearray(64 * KIB)
        region = link.client.domain.register(buffer, REMOTE)
        with pytest.raises(BufferError):
            buffer.extend(b"more")
        assert region.size_bytes == 64 * KIB
        region.close()
        del region
        gc.collect()
        buffer.extend(b"more")

    def test_memory_that_cannot_be_registered(self, link: Link) -> None:
        for refused in (b"", "text", memoryview(bytearray(64))[::2]):
            with pytest.raises(verbs.RegistrationError):
                link.client.domain.register(refused, REMOTE)
        with pytest.raises(verbs.RegistrationError, match="read-only"):
            link.client.domain.register(bytes(64 * KIB), REMOTE)
