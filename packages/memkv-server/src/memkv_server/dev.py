# SPDX-License-Identifier: Apache-2.0
"""A real cluster on this machine for development: key, license authority, license and N nodes, under one folder.

The nodes are ordinary ones, started in the background on loopback, each with its own folder and ports. Where the
folder holds a cluster already, ``up`` starts what is not running and leaves the rest alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml

from memkv_core.address import Address, parse_address
from memkv_core.errors import ConfigError, LicenseError, StorageError
from memkv_core.limits import SERVERS_MAX
from memkv_server import admin_client, dev_state
from memkv_server.dev_state import DevCluster, DevNode
from memkv_server.keyfile import generate_key, write_private
from memkv_server.ports import bind_pair, lasting_pairs
from memkv_server.processes import is_running, start_ticks, stop

HOST: Final = "127.0.0.1"
PORT_STEP: Final = 10
READY_S: Final = 120.0
STOP_S: Final = 12.0  # a node stops within 10
POLL_S: Final = 0.05
LOG_TAIL_BYTES: Final = 8192

Progress = Callable[[str], None]

_children: list[subprocess.Popen[bytes]] = []  # kept, since Python complains of a Popen dropped while its process runs


def up(
    dir: Path,
    *,
    nodes: int | None = None,
    port: int | None = None,
    capacity: str | None = None,
    mode: str | None = None,
    durability: str | None = None,
    memory_max_size: str | None = None,
    progress: Progress = lambda _text: None,
) -> DevCluster:
    """Brings the cluster of ``dir`` up and returns it once every node is ready. None: as recorded, or the default.

    Raises ConfigError, StorageError, LicenseError, one line, with what the node said where it could not start.
    """
    dir = dir.absolute()
    dev_state.prepare(dir)
    with dev_state.locked(dir):
        cluster = dev_state.load(dir) or DevCluster(dir)
        _settle(cluster, nodes, port, capacity, mode, durability, memory_max_size)
        _make_secrets(cluster, progress)
        cluster.save()
        for index, node in enumerate(cluster.nodes):
            if not node_running(node):
                _start(cluster, index, progress)
                cluster.save()  # after each: a node that runs is known, whatever becomes of the next
        for index in range(len(cluster.nodes)):
            _wait_ready(cluster, index, progress)
        return cluster


def down(dir: Path, progress: Progress = lambda _text: None) -> int:
    """Stops the cluster's nodes, all at once; returns how many were running."""
    cluster = require(dir)
    with dev_state.locked(cluster.dir):
        running = [node for node in cluster.nodes if node_running(node)]
        for node in running:
            progress(f"stopping {node.address}")
            _signal(node, signal.SIGTERM, 0.0)
        deadline = time.monotonic() + STOP_S
        for node in running:
            if not _signal(node, None, deadline - time.monotonic()):
                _signal(node, signal.SIGKILL, 5.0)
        for node in cluster.nodes:
            node.pid = node.ticks = None
        cluster.save()
        return len(running)


def require(dir: Path) -> DevCluster:
    """The cluster of ``dir``. Raises ConfigError where there is none."""
    cluster = dev_state.load(dir)
    if cluster is None:
        raise ConfigError(f"{dir} holds no development cluster", remedy=f"make one with `memkv dev up --dir {dir}`")
    return cluster


def node_running(node: DevNode) -> bool:
    """Whether the node's process, and no other with its pid, runs."""
    return node.pid is not None and node.ticks is not None and is_running(node.pid, node.ticks)


# -- what the cluster is -----------------------------------------------------------------------------------------------
def _settle(
    cluster: DevCluster,
    nodes: int | None,
    port: int | None,
    capacity: str | None,
    mode: str | None,
    durability: str | None,
    memory_max_size: str | None,
) -> None:
    """Applies what was asked for to what is recorded. Raises ConfigError where running nodes stand against it."""
    count = nodes if nodes is not None else len(cluster.nodes) or 1
    if not 1 <= count <= SERVERS_MAX:
        raise ConfigError(f"--nodes {count}", remedy=f"use 1 to {SERVERS_MAX}")
    first_port = port if port is not None else cluster.port
    if not 0 <= first_port <= 65535 - PORT_STEP * count:
        raise ConfigError(f"--port {first_port} leaves no room for {count} nodes", remedy="use a lower port, or 0")
    storage = (
        capacity or cluster.capacity,
        mode or cluster.mode,
        durability or cluster.durability,
        memory_max_size or cluster.memory_max_size,
    )
    wanted = (count, first_port, *storage)
    if memory_max_size is not None and storage[1] != "direct":
        raise ConfigError(
            f"--memory-max-size {memory_max_size}, and mode {storage[1]} has no RAM pool", remedy="add --mode direct"
        )
    before = (cluster.capacity, cluster.mode, cluster.durability, cluster.memory_max_size)
    recorded = (len(cluster.nodes), cluster.port, *before)
    if wanted == recorded:
        return
    if any(node_running(node) for node in cluster.nodes):
        raise ConfigError(
            f"{cluster.dir} holds a running cluster: {recorded[0]} nodes from port {recorded[1]}, {recorded[2]} each, "
            f"mode {recorded[3]}, durability {recorded[4]}",
            remedy=f"leave the flags out, or `memkv dev down --dir {cluster.dir}` first",
        )
    cluster.port = first_port
    cluster.capacity, cluster.mode, cluster.durability, cluster.memory_max_size = storage
    cluster.nodes = _addresses(count, first_port)


def _addresses(count: int, port: int) -> list[DevNode]:
    steps = [Address(HOST, port + PORT_STEP * index) for index in range(count)] if port else lasting_pairs(HOST, count)
    return [DevNode(str(data), str(admin_client.admin_of(data))) for data in steps]


def _make_secrets(cluster: DevCluster, progress: Progress) -> None:
    from memkv_core.license import Authority, load_trusted_keys, read_license, verify_license  # for `up` alone

    if not cluster.key_file.exists():
        progress("making a cluster key")
        write_private(cluster.key_file, generate_key() + "\n")
    if not cluster.authority.exists():
        progress("making a license authority")
        Authority.create(cluster.authority, name="memkv-dev")
    try:
        token, source = read_license(str(cluster.license_file), "dev")
        verify_license(token, load_trusted_keys(str(cluster.authority / "license-keys")), source=source)
    except LicenseError:  # none yet, or one that has expired
        progress("issuing a license")
        token = Authority.load(cluster.authority).issue("development cluster", plan="development")
        dev_state.write_file(cluster.license_file, token + "\n")


# -- its nodes ---------------------------------------------------------------------------------------------------------
def _start(cluster: DevCluster, index: int, progress: Progress) -> None:
    node, folder = cluster.nodes[index], cluster.node_dir(index)
    progress(f"starting {node.address}")
    folder.mkdir(mode=0o700, exist_ok=True)
    for held in bind_pair(parse_address(node.address), parse_address(node.admin)):
        held.close()  # they are free: said here, in the caller's terms, rather than in the node's log
    dev_state.write_file(folder / "config.yaml", _node_config(cluster, index))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMKV_")}
    with open(os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "memkv_server", "start", "--config", str(folder / "config.yaml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**environment, "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # it outlives this command and its terminal
        )
    _children.append(process)
    node.pid, node.ticks = process.pid, start_ticks(process.pid)


def _node_config(cluster: DevCluster, index: int) -> str:
    node = cluster.nodes[index]
    storage: dict[str, object] = {
        "mode": cluster.mode,
        "capacity": cluster.capacity,
        "durability": cluster.durability,
    }
    if cluster.mode != "memory":
        storage["drives"] = [{"path": str(cluster.node_dir(index) / "data")}]
    settings: dict[str, object] = {
        "network": {
            "address": node.address,
            "admin_address": node.admin,
            "auth_key": str(cluster.key_file),
            "peers": [each.address for each in cluster.nodes],
        },
        "storage": storage,
        "license": str(cluster.license_file),
        "license_keys": str(cluster.authority / "license-keys"),
    }
    if cluster.mode == "direct" and cluster.memory_max_size is not None:
        settings["memory"] = {"max_size": cluster.memory_max_size}
    return yaml.safe_dump(settings, sort_keys=False)


def _wait_ready(cluster: DevCluster, index: int, progress: Progress) -> None:
    node = cluster.nodes[index]
    log = cluster.node_dir(index) / "log"
    deadline = time.monotonic() + READY_S
    if admin_client.ask(node.admin, "/v1/ready", None, timeout_s=2.0).code != 200:
        progress(f"waiting for {node.address}")
    while node_running(node):
        if admin_client.ask(node.admin, "/v1/ready", None, timeout_s=2.0).code == 200:
            return
        if time.monotonic() > deadline:
            raise StorageError(f"node {node.address} is not ready after {READY_S:.0f} s", remedy=f"see {log}")
        time.sleep(POLL_S)
    raise StorageError(f"node {node.address} did not start: {_last_words(log)}", remedy=f"see {log}")


def _last_words(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix("memkv: ") if lines else "it said nothing"


def _signal(node: DevNode, signum: signal.Signals | None, wait_s: float) -> bool:
    if node.pid is None or node.ticks is None:
        return True
    return stop(node.pid, node.ticks, signum=signum, wait_s=wait_s)
