# SPDX-License-Identifier: Apache-2.0
"""A drive's state falls step by step, and never rises."""

from __future__ import annotations

from memkv_server.engine.health import DriveHealth, DriveState
from memkv_server.engine.limits import READ_ERRORS_OFFLINE, READ_ERRORS_READ_ONLY


def test_a_single_bad_spot_is_no_failure() -> None:
    health = DriveHealth()
    health.read_failed("spot")
    assert (health.state, health.failure, health.read_errors) == (DriveState.ONLINE, None, 1)


def test_reads_that_fail_take_it_down_in_two_steps() -> None:
    health = DriveHealth()
    states = []
    for number in range(READ_ERRORS_OFFLINE + 3):
        health.read_failed(f"error {number}")
        states.append(health.state)
    assert states.index(DriveState.READ_ONLY) == READ_ERRORS_READ_ONLY - 1
    assert states.index(DriveState.OFFLINE) == READ_ERRORS_OFFLINE - 1
    assert health.failure == f"error {READ_ERRORS_OFFLINE - 1}", "the reason of the state it is in"


def test_a_write_that_fails_is_the_last_one() -> None:
    health = DriveHealth()
    health.write_failed("no space left")
    assert (health.state, health.failure) == (DriveState.READ_ONLY, "no space left")
    for _ in range(READ_ERRORS_READ_ONLY):
        health.read_failed("and it does not read")
    assert (health.state, health.failure) == (DriveState.READ_ONLY, "no space left")
    for _ in range(READ_ERRORS_OFFLINE):
        health.read_failed("gone")
    health.write_failed("still no space")
    assert (health.state, health.failure) == (DriveState.OFFLINE, "gone")
