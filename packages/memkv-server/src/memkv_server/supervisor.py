# SPDX-License-Identifier: Apache-2.0
"""The supervisor: one asyncio process that owns the ports, starts the lanes, and never touches a payload byte.

    bind data and admin ports ─► start lanes ─► ready: listen on the data port ─► SIGTERM: drain ─► stop

A node goes on while at least one lane serves: the keys of a lane that is down are misses, the others are served, and
health says ``degraded``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import signal
import socket
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from memkv_core.auth import admin_token
from memkv_core.errors import ConfigError, StorageError
from memkv_core.handshake import LANE_ANY
from memkv_core.license import License
from memkv_core.log import protect
from memkv_server import metrics, node_status
from memkv_server.acceptor import Acceptor
from memkv_server.admin import AdminServer, create_app
from memkv_server.config import ServerConfig
from memkv_server.dashboard.routes import Dashboard
from memkv_server.drain_admin import DrainAdmin
from memkv_server.drive_admin import DriveAdmin
from memkv_server.events import event
from memkv_server.key_admin import KeyAdmin
from memkv_server.lane_process import LaneProcess
from memkv_server.local_socket import AUTO, LocalSocket, socket_path
from memkv_server.namespace_admin import NamespaceAdmin
from memkv_server.ports import bind_error, bind_pair, bound_address

log = logging.getLogger("memkv.server")

HEARTBEAT_S: Final = 2.0
# From SIGTERM to the end: at most 10 s.
DRAIN_S: Final = 8.0  # for what is in flight
TERMINATED_S: Final = 1.0  # for SIGTERM to be obeyed
KILLED_S: Final = 0.5  # for SIGKILL to be obeyed
HURRY_S: Final = 1.0  # after a second signal
LICENSE_WARNING_DAYS: Final = 30
CORES_PER_LANE_TO_PIN: Final = 4


class Supervisor:
    """Runs one node until a signal. ``run`` raises MemKVError where the node cannot start."""

    def __init__(self, config: ServerConfig, license: License) -> None:
        self.config = config
        self.license = license
        self.started_at = time.time()
        self.data_address = config.address
        self.admin_address = config.admin_address
        self.lanes: list[LaneProcess] = []
        self.acceptor: Acceptor | None = None
        self.local: LocalSocket | None = None
        self.listening = False
        self.draining = False
        self.held = False  # drained by an operator, who may have it serve again
        self._signals = 0
        self._signalled = asyncio.Event()
        self._lane_tasks: list[asyncio.Task[None]] = []

    # -- its life ---------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Starts, serves until SIGTERM or SIGINT, drains, and returns when every lane is gone."""
        files = raise_open_files()
        if files < self.config.limits.connections_max:
            log.warning("open files are limited to %d, and with them connections; raise it (ulimit -n)", files)
        data, admin = bind_pair(self.config.address, self.config.admin_address)
        self.data_address, self.admin_address = bound_address(data), bound_address(admin)
        self._bind_local()
        drives = DriveAdmin(self.lanes, lambda lane: node_status.drives_of(lane, self))
        more = [
            *drives.routes(), *NamespaceAdmin(self.lanes).routes(), *KeyAdmin(self.lanes).routes(),
            *DrainAdmin(self).routes(),
        ]  # fmt: skip
        tokens = self._tokens()
        dashboard = Dashboard(self, tokens)
        server = AdminServer(create_app(self, tokens, more, dashboard.routes()), self._tls())
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal)
        admin_task = asyncio.create_task(server.run_on(admin))
        heartbeat = asyncio.create_task(self._heartbeat())
        history = asyncio.create_task(dashboard.watch.keep_history())
        try:
            self._start_lanes()
            if await self._lanes_settled():
                self._listen(data)
                await self._signalled.wait()
            event(log, "node_stopping", "stopping: draining the lanes", lanes=len(self.lanes))
        finally:
            self.draining, self.listening = True, False
            heartbeat.cancel()
            if self.acceptor is not None:
                self.acceptor.close()
            data.close()
            if self.local is not None:
                self.local.close()
            await self._stop_lanes()
            history.cancel()
            await dashboard.watch.close()
            server.should_exit = True
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(admin_task, 1.0)
            admin.close()
        event(log, "node_stopped", "stopped")

    def _bind_local(self) -> None:
        """Binds the Unix socket. Where it was not asked for, a node can do without: its clients use TCP."""
        setting = self.config.network.socket
        path = socket_path(setting, self.data_address.port)
        if path is None:
            return
        try:
            self.local = LocalSocket(path)
        except ConfigError as error:
            self._without_local(error)

    def _without_local(self, error: ConfigError) -> None:
        if self.config.network.socket != AUTO:
            raise error
        log.warning("no shared memory for clients on this host: %s", error)
        if self.local is not None:
            self.local.close()
            self.local = None

    def _listen(self, data: socket.socket) -> None:
        if self.local is not None:
            try:
                self.local.open()
            except ConfigError as error:
                self._without_local(error)
        self.acceptor = Acceptor(data, self._adopt, self.local.sock if self.local is not None else None)
        try:
            self.acceptor.open()
        except OSError as error:
            raise bind_error(self.data_address, "data", error) from error
        self.listening = True
        serving = sum(lane.serving for lane in self.lanes)
        event(
            log, "node_ready", "memkv node ready", address=self.data_address, admin=self.admin_address,
            mode=self.config.storage.mode, lanes=f"{serving}/{len(self.lanes)}",
        )  # fmt: skip
        self._warn_of_license()

    def _start_lanes(self) -> None:
        count = self.config.lane_count
        cpus = lane_cpus(count)
        shm = {"socket": str(self.local.path), "node": secrets.token_hex(16)} if self.local is not None else None
        for index in range(count):
            lane = LaneProcess(index, start_message(self.config, index, shm), cpus[index] if cpus else None)
            self.lanes.append(lane)
            self._lane_tasks.append(asyncio.create_task(lane.run()))

    async def _lanes_settled(self) -> bool:
        """Waits until every lane serves or has failed. False: a signal came first. Raises when none serves."""
        waits = [asyncio.create_task(self._all_settled()), asyncio.create_task(self._signalled.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._signalled.is_set():
            return False
        if not any(lane.serving for lane in self.lanes):
            raise StorageError(str(self.lanes[0].error))
        return True

    async def _all_settled(self) -> bool:
        for lane in self.lanes:
            await lane.settled.wait()
        return True

    async def _stop_lanes(self) -> None:
        for lane in self.lanes:
            lane.drain()
        await self._wait_for_lanes(DRAIN_S, hurried=self._signals > 1)
        for lane in self.lanes:
            lane.kill(signal.SIGTERM)
        await self._wait_for_lanes(TERMINATED_S, hurried=False)
        for lane in self.lanes:
            lane.kill(signal.SIGKILL)
        await self._wait_for_lanes(KILLED_S, hurried=False)
        for task, lane in zip(self._lane_tasks, self.lanes, strict=True):
            if not task.done():  # a drive that does not answer holds it; its folder stays locked until it does
                log.error("lane %d (process %s) does not end: its drive does not answer", lane.index, lane.pid)
                task.cancel()

    async def _wait_for_lanes(self, seconds: float, *, hurried: bool) -> None:
        """Until every lane has gone, the time is up, or a further signal shortens it to HURRY_S."""
        end = time.monotonic() + (HURRY_S if hurried else seconds)
        seen = self._signals
        while (remaining := end - time.monotonic()) > 0:
            _done, pending = await asyncio.wait(self._lane_tasks, timeout=min(0.1, remaining))
            if not pending:
                return
            if self._signals > seen:
                seen = self._signals
                end = min(end, time.monotonic() + HURRY_S)

    def _on_signal(self) -> None:
        self._signals += 1
        self._signalled.set()

    async def _heartbeat(self) -> None:
        """Keeps the lanes' statuses fresh, so that health needs no round trip."""
        while True:
            await asyncio.gather(*(lane.refresh() for lane in self.lanes))
            await asyncio.sleep(HEARTBEAT_S)

    def _adopt(self, sock: socket.socket, prefix: bytes, index: int) -> bool:
        """Hands a client to the lane it names; one that names none, or none there is, to the first that serves."""
        if index < len(self.lanes) and index != LANE_ANY:
            return self.lanes[index].adopt(sock, prefix)
        return any(lane.adopt(sock, prefix) for lane in self.lanes)

    def _warn_of_license(self) -> None:
        left = self.license.expires_at - datetime.now(timezone.utc)
        if left < timedelta(days=LICENSE_WARNING_DAYS):
            words = "the license ends soon: a node that is started after that does not serve"
            ends = self.license.expires_at.isoformat()
            event(log, "license_ending", words, logging.WARNING, expires_at=ends, licensee=self.license.licensee)

    def _tokens(self) -> list[str]:
        tokens = [admin_token(key) for key in self.config.auth_keys]
        for token in tokens:
            protect(token)
        return tokens

    def _tls(self) -> Any:
        network = self.config.network
        return (network.tls_cert, network.tls_key) if network.tls_cert is not None else None

    def hold(self, held: bool) -> None:
        """Lets every client go and takes no other, or takes them again. What is stored stays."""
        if held != self.held:
            words = "drained: clients are let go, none is taken" if held else "clients are taken again"
            event(log, "node_drained" if held else "node_undrained", words)
        self.held = held
        for lane in self.lanes:
            lane.hold(held)

    # -- admin.Node -------------------------------------------------------------------------------------
    def health(self) -> dict[str, Any]:
        return node_status.health(self)

    def not_ready(self) -> str | None:
        if self.draining or self.held:
            return "the node is draining"
        if not self.listening:
            return "the lanes are starting"
        if not any(lane.serving for lane in self.lanes):
            return "no lane is serving"
        return None

    async def status(self) -> dict[str, Any]:
        await asyncio.gather(*(lane.refresh() for lane in self.lanes))
        return node_status.status(self)

    async def metrics(self) -> tuple[bytes, str]:
        return metrics.render(await self.status())


def start_message(config: ServerConfig, lane: int, shm: dict[str, str] | None = None) -> dict[str, Any]:
    """The first control message: all that a lane needs to know, the keys among it.

    ``shm`` is what the lane tells its clients: the path of the Unix socket, and a name for this start of the node.
    """
    segment_size = config.storage.segment_size
    return {
        "op": "start",
        "lane": lane,
        "lane_count": config.lane_count,
        "auth_keys": [key.hex() for key in config.auth_keys],
        "mode": config.storage.mode,
        "drives": config.drives_of(lane),
        "capacity_bytes": config.capacity_of(lane),
        "segment_bytes": int(segment_size) if segment_size is not None else None,
        "durability": config.storage.durability,
        "memory_bytes": config.drive_memory_bytes,
        "namespaces": config.namespace_rules,
        "shm": shm,
        "rdma": {"devices": list(config.rdma.devices), "bounce_bytes": int(config.rdma.bounce_size)},
        "limits": {"connections_max": -(-config.limits.connections_max // config.lane_count)},
        "log": {"level": config.log.level, "format": config.log.format},
    }


def lane_cpus(count: int) -> list[frozenset[int]] | None:
    """A group of cores for each lane, or None: with fewer than four cores a lane, the scheduler does better alone.

    A lane is one thread, and gets a group of neighbouring cores rather than one, so that it keeps its caches and its
    NUMA node while an engine's busy process on one of the cores cannot stop it.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES_PER_LANE_TO_PIN * count:
        return None
    size = len(cores) // count
    return [frozenset(cores[index * size : (index + 1) * size]) for index in range(count)]


def raise_open_files() -> int:
    """Raises the soft limit of open files to the hard one; each connection takes one. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # a container may forbid it: the soft limit stands
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
