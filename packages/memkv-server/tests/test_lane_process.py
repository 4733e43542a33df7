# SPDX-License-Identifier: Apache-2.0
"""Calls to a real lane in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from memkv_core.errors import StorageError
from memkv_server.config import ServerConfig
from memkv_server.lane_process import LaneProcess
from memkv_server.supervisor import start_message

CONFIG = ServerConfig.load(
    None, {"network": {"auth_key": "a1" * 32}, "storage": {"mode": "memory", "capacity": "32MiB"}}
)


def with_lane(body: Callable[[LaneProcess], Awaitable[None]]) -> None:
    async def main() -> None:
        lane = LaneProcess(0, start_message(CONFIG, 0))
        task = asyncio.create_task(lane.run())
        try:
            await asyncio.wait_for(lane.settled.wait(), 30)
            assert lane.serving
            await body(lane)
        finally:
            lane.kill(signal.SIGKILL)
            await asyncio.wait_for(task, 30)

    asyncio.run(main())


def test_a_call_is_answered_by_the_lane_and_calls_do_not_mix() -> None:
    async def body(lane: LaneProcess) -> None:
        calls = [lane.call(f"name{number}") for number in range(10)]
        for number, answer in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
            assert f"knows no operation 'name{number}'" in str(answer)

    with_lane(body)


def test_a_call_to_a_lane_that_dies_ends() -> None:
    async def body(lane: LaneProcess) -> None:
        assert lane.pid is not None
        os.kill(lane.pid, signal.SIGSTOP)  # so that the call is under way when it dies
        call = asyncio.create_task(lane.call("anything", timeout_s=60))
        await asyncio.sleep(0)
        os.kill(lane.pid, signal.SIGKILL)
        with pytest.raises(StorageError, match="lane 0 ended before it answered"):
            await call
        with pytest.raises(StorageError, match="lane 0 does not serve; see the node's status"):
            await lane.call("anything")

    with_lane(body)


def test_a_call_to_a_lane_that_is_stuck_ends() -> None:
    async def body(lane: LaneProcess) -> None:
        assert lane.pid is not None
        os.kill(lane.pid, signal.SIGSTOP)
        with pytest.raises(StorageError, match="lane 0 does not answer"):
            await lane.call("anything", timeout_s=0.05)

    with_lane(body)
