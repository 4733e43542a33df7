# SPDX-License-Identifier: Apache-2.0
"""One lane as the supervisor sees it: a process, its control channel, its state and its last status.

::

    STARTING ─ready, status─► SERVING ──drain──► DRAINING ──exit──► STOPPED
        │                  │
        └─failed/exit──────┴──► DOWN ──backoff──► STARTING      (until the node stops)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from memkv_core.errors import StorageError
from memkv_server.control import ControlChannel
from memkv_server.events import event

log = logging.getLogger("memkv.server.lane")

RESTART_DELAY_S_MIN: Final = 0.5
RESTART_DELAY_S_MAX: Final = 30.0
STEADY_S: Final = 60.0  # a lane that served this long starts its backoff anew
STATUS_TIMEOUT_S: Final = 1.0
CALL_TIMEOUT_S: Final = 10.0
STALLED_S: Final = 10.0  # no status for this long while serving: the lane counts as not healthy


class LaneState(str, Enum):
    """Where a lane is in its life; see the diagram above."""

    STARTING = "starting"
    SERVING = "serving"
    DOWN = "down"
    DRAINING = "draining"
    STOPPED = "stopped"


class LaneProcess:
    """Starts a lane, hands it sockets, and starts it again with backoff when it dies.

    ``start_message`` is the first message on the control channel. It carries the keys, which therefore never stand
    in a command line or an environment. Not thread-safe: used by the supervisor's event loop only.
    """

    def __init__(self, index: int, start_message: Mapping[str, Any], cpus: frozenset[int] | None = None) -> None:
        self.index = index
        self.state = LaneState.STARTING
        self.pid: int | None = None
        self.restarts = 0
        self.error: str | None = None
        self.status: dict[str, Any] = {}
        self.settled = asyncio.Event()  # the first start has ended, one way or the other
        self._start_message = start_message
        self._cpus = cpus
        self._channel: ControlChannel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._status_at = 0.0
        self._status_waiters: list[asyncio.Future[None]] = []
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._call_id = 0
        self._delay_s = RESTART_DELAY_S_MIN
        self._failed = False  # the lane itself said why it cannot go on
        self._held = False
        self._stop = asyncio.Event()

    # -- what the supervisor asks -----------------------------------------------------------------------
    @property
    def serving(self) -> bool:
        return self.state is LaneState.SERVING

    @property
    def stalled(self) -> bool:
        return self.serving and time.monotonic() - self._status_at > STALLED_S

    @property
    def status_at_s(self) -> float:
        """When ``status`` came, by the monotonic clock."""
        return self._status_at

    def adopt(self, sock: socket.socket, prefix: bytes) -> bool:
        """Hands a client's socket to the lane. False: the lane cannot take it, the socket is still the caller's."""
        if not self.serving or self._channel is None:
            return False
        return self._channel.send({"op": "adopt", "prefix": prefix.hex()}, sock)

    async def refresh(self, timeout_s: float = STATUS_TIMEOUT_S) -> bool:
        """Asks for a status and waits for it. False when none came in time; ``status`` is then the last known."""
        if not self.serving or self._channel is None:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._status_waiters.append(waiter)
        if len(self._status_waiters) == 1 and not self._ask_status():
            self._answer_waiters()
            return False
        await asyncio.wait([waiter], timeout=timeout_s)
        answered = waiter.done()
        if not answered:  # the next refresh asks anew
            self._status_waiters = [other for other in self._status_waiters if other is not waiter]
        return answered

    async def call(
        self, name: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        """Has the lane do something to its engine, see ``operations``, and returns what it says.

        Raises StorageError with the lane's own words where it refuses, and where it does not serve or answer in time.
        """
        self._call_id = number = self._call_id + 1
        message = {"op": "call", "id": number, "name": name, "arguments": dict(arguments or {})}
        if not self.serving or self._channel is None or not self._channel.send(message):
            raise StorageError(f"lane {self.index} does not serve", remedy="see the node's status for the cause")
        self._calls[number] = waiter = asyncio.get_running_loop().create_future()
        try:
            answer = await asyncio.wait_for(waiter, timeout_s)
        except asyncio.TimeoutError:
            answer = {}
        finally:
            del self._calls[number]
        if "error" in answer:
            raise StorageError(str(answer["error"]))
        if "result" not in answer:
            raise StorageError(f"lane {self.index} does not answer", remedy="see the node's log, and ask again")
        return dict(answer["result"])

    def drain(self) -> None:
        """Asks the lane to finish what is in flight and exit; it is not started again."""
        self._stop.set()
        if self._channel is not None and self.state in (LaneState.SERVING, LaneState.STARTING):
            self.state = LaneState.DRAINING
            self._channel.send({"op": "drain"})

    def hold(self, held: bool) -> None:
        """Has the lane let go of its clients and take no others, or take them again; also once it is started anew."""
        self._held = held
        if self._channel is not None and self.serving:
            self._channel.send({"op": "hold", "held": held})

    def kill(self, signum: signal.Signals) -> None:
        self._stop.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signum)

    # -- its life ---------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Keeps the lane running until ``drain`` or ``kill``; returns when the process is gone for good."""
        while not self._stop.is_set():
            started_at = time.monotonic()
            await self._live_once()
            if self._stop.is_set():
                break
            self.state = LaneState.DOWN
            at_start = not self.settled.is_set()
            self.settled.set()
            if time.monotonic() - started_at > STEADY_S:
                self._delay_s = RESTART_DELAY_S_MIN
            if not at_start:
                self._log_down()
            await self._pause(self._delay_s)
            if at_start and not self._stop.is_set():  # where no lane started, the supervisor says so and ends
                self._log_down()
            self._delay_s = min(self._delay_s * 2, RESTART_DELAY_S_MAX)
            self.restarts += 1
        self.state = LaneState.STOPPED
        self.settled.set()

    def _log_ready(self) -> None:
        engine = self.status.get("engine", {})
        recovery_seconds = round(float(engine.get("recovery_seconds", 0)), 3)
        fields = {"records": engine.get("records", 0), "recovery_seconds": recovery_seconds, "restarts": self.restarts}
        event(log, "lane_ready", "lane ready", lane=self.index, **fields)

    def _log_down(self) -> None:
        words = f"lane {self.index} is down ({self.error}); it is started again within {self._delay_s:.1f} s"
        fields = {"lane": self.index, "cause": self.error, "again_seconds": self._delay_s}
        event(log, "lane_down", words, logging.ERROR, **fields)

    async def _live_once(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.state, self._failed = LaneState.STARTING, False
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "memkv_server.lane", str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # the terminal's Ctrl-C is the supervisor's alone: it drains the lanes
                env={**os.environ, "PYTHONSAFEPATH": "1"},  # nothing is imported from the working directory
            )  # fmt: skip
        except OSError as error:
            ours.close()
            self.error = f"the process could not be started: {error.strerror}"
            return
        finally:
            theirs.close()
        self.pid = self._process.pid
        if self._cpus is not None:
            os.sched_setaffinity(self.pid, self._cpus)
        self._channel = ControlChannel(ours, self._received, self._ended)
        self._channel.send(self._start_message)
        code = await self._process.wait()
        self._channel.close()
        self._ended()
        self._channel, self.pid = None, None
        if not self._said_why():
            self.error = _describe_exit(code)

    def _said_why(self) -> bool:
        return self._failed  # set by _received, while _live_once waits

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except asyncio.TimeoutError:
            return  # nobody asked for a stop: the pause is over

    def _received(self, message: dict[str, Any]) -> None:
        op = message.get("op")
        if op == "ready":
            if self._held and self._channel is not None:
                self._channel.send({"op": "hold", "held": True})
            self._ask_status()  # a lane serves once its drives are known
        elif op == "failed":
            self._failed, self.error = True, str(message.get("error", "it gave no reason"))
        elif op == "status":
            self.status = message
            self._status_at = time.monotonic()
            if self.state is LaneState.STARTING:
                self.state = LaneState.SERVING
                self._log_ready()
                self.settled.set()
            self._answer_waiters()
        elif op == "answer":
            if (caller := self._calls.get(message["id"])) is not None and not caller.done():
                caller.set_result(message)
        else:
            log.error("lane %d sent an unknown control message %r; ignored", self.index, op)

    def _ask_status(self) -> bool:
        return self._channel is not None and self._channel.send({"op": "status"})

    def _answer_waiters(self) -> None:
        waiters, self._status_waiters = self._status_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _ended(self) -> None:
        """The lane's end of the channel is gone: nobody waits for it any longer."""
        self._answer_waiters()
        for caller in self._calls.values():
            if not caller.done():
                caller.set_result({"error": f"lane {self.index} ended before it answered; ask again"})


def _describe_exit(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
