# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.errors import LocalProtocolError
from memkv_core.testing.fake_verbs import Fabric, FakeVerbs
from memkv_core.testing.verbs_tests import KIB, Link
from memkv_core.transports import verbs
from memkv_core.transports.verbs import Completion, DeviceSpec, WorkKind, WorkRequest, WorkStatus
from memkv_core.transports.work import NO_TRANSFERS, TRANSFER, SendQueue, plan

DEVICE = FakeVerbs(Fabric()).open(DeviceSpec("fake0")).device


def device(sge_max: int, message_bytes_max: int) -> verbs.Device:
    return DEVICE._replace(sge_max=sge_max, message_bytes_max=message_bytes_max)


def planned(pieces: list[tuple[int, int, int, int, int]], sge_max: int = 4, most: int = 1000) -> list[WorkRequest]:
    return plan(np.array(pieces, TRANSFER), device(sge_max, most))


def test_what_follows_in_remote_memory_joins() -> None:
    assert planned([(100, 0, 10, 1, 7), (300, 10, 20, 2, 7)]) == [WorkRequest(0, 7, [(100, 10, 1), (300, 20, 2)])]


def test_what_follows_on_both_sides_is_one_part() -> None:
    assert planned([(100, 0, 10, 1, 7), (110, 10, 20, 1, 7)]) == [WorkRequest(0, 7, [(100, 30, 1)])]
    assert planned([(100, 0, 10, 1, 7), (110, 10, 20, 2, 7)]) == [WorkRequest(0, 7, [(100, 10, 1), (110, 20, 2)])]


def test_another_key_or_a_gap_is_another_request() -> None:
    assert len(planned([(100, 0, 10, 1, 7), (110, 10, 20, 1, 8)])) == 2
    assert len(planned([(100, 0, 10, 1, 7), (110, 11, 20, 1, 7)])) == 2


def test_the_bounds_of_the_device() -> None:
    apart = [(at * 100, at * 10, 10, 1, 7) for at in range(9)]
    assert [len(request.parts) for request in planned(apart, sge_max=4)] == [4, 4, 1]
    assert [len(request.parts) for request in planned(apart, most=30)] == [3, 3, 3]
    assert planned([(5, 0, 2500, 1, 7)]) == [
        WorkRequest(0, 7, [(5, 1000, 1)]),
        WorkRequest(1000, 7, [(1005, 1000, 1)]),
        WorkRequest(2000, 7, [(2005, 500, 1)]),
    ]


def test_nothing_is_planned_for_nothing() -> None:
    assert plan(NO_TRANSFERS, DEVICE) == []
    assert planned([(5, 0, 0, 1, 7)]) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 60), st.integers(1, 2), st.integers(1, 2)),
        max_size=12,
    ),
    st.integers(1, 4),
    st.integers(1, 100),
)
def test_every_byte_goes_where_it_should(pieces: list[tuple[int, int, int, int, int]], sge_max: int, most: int) -> None:
    wanted = [
        ((local + at, lkey), (remote + at, rkey)) for local, remote, size, lkey, rkey in pieces for at in range(size)
    ]
    moved = []
    for request in planned(pieces, sge_max, most):
        assert 1 <= len(request.parts) <= sge_max
        assert 1 <= sum(part[1] for part in request.parts) <= most
        remote = request.remote
        for local, size, lkey in request.parts:
            assert size
            moved += [((local + at, lkey), (remote + at, request.rkey)) for at in range(size)]
            remote += size
    assert moved == wanted


class Sender:
    """A send queue over the fake, its depth 32."""

    def __init__(self) -> None:
        self.fabric = Fabric()
        hosts = FakeVerbs(self.fabric), FakeVerbs(self.fabric)
        self.device = hosts[0].devices["fake0"]
        self.link = Link((hosts[0].open(DeviceSpec("fake0")), hosts[1].open(DeviceSpec("fake0"))))
        self.link.fill()
        self.sends = SendQueue(self.link.server.endpoint)

    def submit(self, token: int, count: int) -> None:
        """``count`` requests."""
        pieces = [(at * KIB, at * 2 * KIB, KIB) for at in range(count)]
        self.sends.submit(token, WorkKind.WRITE, self.link.transfers(pieces))

    def ended(self) -> list[tuple[int, int]]:
        """What has ended until now."""
        finished: list[tuple[int, int]] = []
        while came := self.link.server.queue.poll():
            for completion in came:
                finished += self.sends.completed(completion)
        return finished


@pytest.fixture
def sender() -> Sender:
    return Sender()


def test_what_fits_is_one_posting_call(sender: Sender) -> None:
    sender.submit(1, 32)
    assert sender.ended() == [(1, WorkStatus.SUCCESS)]
    assert (sender.sends.post_calls, sender.sends.work_requests, sender.sends.free) == (1, 32, 32)
    assert sender.sends.idle


def test_what_does_not_fit_waits_in_order(sender: Sender) -> None:
    sender.device.hold_completions()
    for token in range(4):
        sender.submit(token, 20)
    assert (sender.sends.post_calls, sender.sends.free) == (2, 0)
    assert sender.ended() == []
    sender.device.thaw()
    assert sender.ended() == [(token, WorkStatus.SUCCESS) for token in range(4)]
    assert sender.sends.work_requests == 80
    assert sender.sends.free == 32


def test_a_failure_ends_what_waits_as_well(sender: Sender) -> None:
    sender.submit(0, 1)
    sender.device.freeze()
    for token in range(1, 4):
        sender.submit(token, 20)
    sender.device.fail_next(WorkStatus.REM_ACCESS_ERR)
    sender.device.to_fail.appendleft(WorkStatus.SUCCESS)  # the second request fails, the first has not moved
    sender.device.thaw()
    assert sender.ended() == [
        (0, WorkStatus.SUCCESS),
        (1, WorkStatus.REM_ACCESS_ERR),
        (2, WorkStatus.WR_FLUSH_ERR),
        (3, WorkStatus.WR_FLUSH_ERR),
    ]
    assert sender.sends.idle
    with pytest.raises(verbs.VerbsError, match="has failed: REM_ACCESS_ERR"):
        sender.submit(9, 1)


def test_a_failure_in_the_second_half_of_a_long_one(sender: Sender) -> None:
    sender.device.hold_completions()
    sender.submit(1, 40)
    sender.submit(2, 1)
    sender.device.thaw()
    (first,) = sender.link.server.queue.poll()
    sender.device.fail_next(WorkStatus.RETRY_EXC_ERR)
    assert sender.sends.completed(first) == []
    assert sender.ended() == [(1, WorkStatus.RETRY_EXC_ERR), (2, WorkStatus.WR_FLUSH_ERR)]


def test_giving_up_ends_everything_once(sender: Sender) -> None:
    sender.device.freeze()
    for token in range(3):
        sender.submit(token, 20)
    sender.link.server.endpoint.to_error()
    assert sender.sends.fail() == [(token, WorkStatus.WR_FLUSH_ERR) for token in range(3)]
    assert sender.ended() == []
    assert sender.sends.fail() == []


def test_a_completion_says_the_same_of_those_before(sender: Sender) -> None:
    sender.submit(1, 1)
    sender.submit(2, 1)
    last = Completion(1, WorkStatus.SUCCESS, sender.link.server.endpoint.qpn)
    assert sender.sends.completed(last) == [(1, WorkStatus.SUCCESS), (2, WorkStatus.SUCCESS)]


def test_nothing_at_all_is_refused(sender: Sender) -> None:
    with pytest.raises(LocalProtocolError):
        sender.sends.submit(1, WorkKind.WRITE, NO_TRANSFERS)
