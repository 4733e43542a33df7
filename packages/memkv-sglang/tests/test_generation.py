# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from sglang_fakes import DictClient, FakeCluster

from memkv_core import Client, ClientConfig
from memkv_sglang.deadline import Deadline
from memkv_sglang.generation import Generation
from memkv_sglang.limits import GENERATION_REFRESH_S


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(cluster: FakeCluster) -> Client:
    made = type("ClusterClient", (DictClient,), {"cluster": cluster})
    client: Client = made(ClientConfig.load(), identity={"a": 1})
    return client


def test_it_starts_at_0_and_every_process_sees_an_advance(client: Any, clock: Clock) -> None:
    one, other = Generation(client, clock), Generation(client, clock)
    other.refresh(Deadline(1000))
    assert one.mark == other.mark == ""
    assert one.advance(Deadline(1000)) is True
    assert one.mark
    other.refresh(Deadline(1000))
    assert other.mark == ""  # not asked again yet
    clock.now += GENERATION_REFRESH_S
    other.refresh(Deadline(1000))
    assert other.mark == one.mark


def test_it_is_asked_for_once_in_the_interval(client: Any, clock: Clock, cluster: FakeCluster) -> None:
    generation = Generation(client, clock)
    for _ in range(10):
        generation.refresh(Deadline(1000))
    assert [call[0] for call in cluster.calls] == ["get"]


def test_two_ranks_that_clear_agree_on_the_greatest(client: Any, clock: Clock) -> None:
    one, other = Generation(client, clock), Generation(client, clock)
    one.advance(Deadline(1000))
    other.advance(Deadline(1000))
    clock.now += GENERATION_REFRESH_S
    one.refresh(Deadline(1000))
    assert one.mark == other.mark
    assert one.mark != ""


def test_a_copy_that_is_lost_is_written_again(client: Any, clock: Clock, cluster: FakeCluster) -> None:
    one = Generation(client, clock)
    one.advance(Deadline(1000))
    [blocks] = cluster.blocks.values()
    del blocks["generation/0"], blocks["generation/3"]
    clock.now += GENERATION_REFRESH_S
    one.refresh(Deadline(1000))
    assert len(set(blocks.values())) == 1
    assert len(blocks) == 4


def test_a_cluster_that_is_down_leaves_it_as_it_was(client: Any, clock: Clock, cluster: FakeCluster) -> None:
    one = Generation(client, clock)
    one.advance(Deadline(1000))
    mark = one.mark
    cluster.down = True
    clock.now += GENERATION_REFRESH_S
    one.refresh(Deadline(1000))
    assert one.mark == mark
    assert one.advance(Deadline(1000)) is False
    assert one.mark != mark
    cluster.down = False
    clock.now += GENERATION_REFRESH_S
    one.refresh(Deadline(1000))
    fresh = Generation(client, clock)
    fresh.refresh(Deadline(1000))
    assert fresh.mark == one.mark
