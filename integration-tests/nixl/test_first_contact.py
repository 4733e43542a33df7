# SPDX-License-Identifier: Apache-2.0
"""Transfers that are posted before a server has answered for the first time wait for it together: one that is given
up, or whose time is over, is no verdict on the others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from memkv_rig.cluster import Cluster
from nixl_rig.relay import Relay
from nixl_rig.transfers import Rig, random_blocks, rows, whole

KEYS = Callable[[int], list[str]]


@pytest.fixture
def relay(cluster: Cluster) -> Iterator[Relay]:
    with Relay(cluster.nodes[0]["address"]) as made:
        yield made


def start_write(rig: Rig, name: str) -> tuple[object, str]:
    source = random_blocks(1, 1000)
    _, ids = rig.register([name], 1000)
    rig.register_buffer(source)
    handle = rig.prepare("WRITE", rows(source), whole(ids, 1000))
    state = rig.agent.transfer(handle)
    assert state == "PROC"
    return handle, state


def test_a_transfer_outlives_the_first_contact_of_another_agent(namespace: str, relay: Relay, keys: KEYS) -> None:
    """The first contact of an agent is given half a second; what is posted after it has its own time."""
    with Rig(namespace, servers=relay.address) as first:
        assert relay.accepted.acquire(timeout=10)
        held, _ = start_write(first, keys(1)[0])
        assert relay.accepted.acquire(timeout=10)  # for this write; all that follows waits behind it
        with Rig(namespace, servers=relay.address) as second:  # its first contact is over when it is there
            (name,) = keys(1)
            handle, state = start_write(second, name)
            relay.open()
            first.agent.release_xfer_handle(held)
            assert second.finish(handle, state) == "DONE"
            assert second.exists([name]) == [True]
            second.agent.release_xfer_handle(handle)


def test_a_transfer_outlives_others_that_are_given_up(namespace: str, relay: Relay, keys: KEYS) -> None:
    with Rig(namespace, servers=relay.address) as rig:
        assert relay.accepted.acquire(timeout=10)
        held, _ = start_write(rig, "held")
        assert relay.accepted.acquire(timeout=10)
        given_up = [start_write(rig, f"given up {number}")[0] for number in range(5)]
        (name,) = keys(1)
        handle, state = start_write(rig, name)
        relay.open()
        for one in [*given_up, held]:
            rig.agent.release_xfer_handle(one)
        assert rig.finish(handle, state) == "DONE"
        assert rig.exists(["held", "given up 0", name]) == [False, False, True]
        target = np.zeros((1, 1000), np.uint8)
        rig.read([name], target)
        assert target.any()
        rig.agent.release_xfer_handle(handle)


def test_the_log_says_that_a_deadline_was_spent(namespace: str, relay: Relay) -> None:
    """What NIXL shows is one code for all that a backend may meet; in a process of its own, since lines are limited."""
    script = (
        "import numpy, sys; sys.path[:0] = sys.argv[1:3]; from nixl_rig.transfers import Rig\n"
        "with Rig(sys.argv[3], servers=sys.argv[4], timeout_ms='600') as rig:\n"
        "    rig.write(['a', 'b', 'c'], numpy.zeros((3, 10), numpy.uint8))"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", script, str(here), str(here.parent / "rig"), namespace, relay.address]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "NIXL_ERR_BACKEND" in ran.stderr
    said = [line for line in ran.stderr.splitlines() if f" memkv] server {relay.address}: " in line]
    assert len(said) == 1
    assert "did not answer before the deadline" in said[0]
