# SPDX-License-Identifier: Apache-2.0
"""The nodes: do they answer on both ports, are they well, of this version, and of one time with this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from memkv_core import Client, ClientConfig
from memkv_core.auth import admin_token
from memkv_core.errors import MemKVError
from memkv_core.limits import BREAKER_FAILURES, LICENSE_LEEWAY_S
from memkv_server import __version__
from memkv_server.admin_client import Reply, admin_of, ask_all
from memkv_server.cli.output import format_bytes
from memkv_server.doctor.finding import Finding, of_error

TIMEOUT_MS: Final = 2000
SLOW_EXISTS_MS: Final = 20.0
_ROUNDS: Final = 20
_CLOCK_S: Final = LICENSE_LEEWAY_S / 2  # what both ends together may be off
_KEY: Final = b"memkv-doctor-%d"


def examine_cluster(config: ClientConfig) -> Iterator[Finding]:
    """All about the nodes that the settings name."""
    yield from _data_ports(config)
    nodes = [str(admin_of(address)) for address in config.addresses]
    asked_at_s = time.time()
    replies = ask_all(nodes, "/v1/status", admin_token(config.auth_key_bytes))
    for reply in replies:
        yield from of_node(reply, asked_at_s)
    yield from of_versions(replies)


def _data_ports(config: ClientConfig) -> Iterator[Finding]:
    """The way that blocks take: session, license and breaker included."""
    try:
        client = Client(config, identity={"check": "memkv-doctor"})
    except MemKVError as error:
        yield of_error("data port", error)
        return
    with client:
        # Enough keys that each server is asked for some, whatever the placement.
        keys = [_KEY % index for index in range(64 * len(client.servers))]
        for _ in range(BREAKER_FAILURES):  # a breaker opens at the third failure in a row, or at a spent deadline
            client.exists(keys, timeout_ms=TIMEOUT_MS)
        down = client.servers_down()
        for server in client.servers:
            if server in down:
                remedy = f"look whether the node runs and port {server.rpartition(':')[2]} is open from here"
                yield Finding("data port", "fail", f"{server}: {down[server]}", remedy)
            else:
                yield Finding("data port", "ok", f"{server} answers, session opened")
        if not down:
            yield _latency(client)


def _latency(client: Client) -> Finding:
    durations_ms = []
    for _ in range(_ROUNDS):
        started_s = time.perf_counter()
        client.exists([_KEY % 0], timeout_ms=TIMEOUT_MS)
        durations_ms.append((time.perf_counter() - started_s) * 1000)
    durations_ms.sort()
    text = (
        f"exists of one key: median {durations_ms[_ROUNDS // 2]:.2f} ms, worst of {_ROUNDS} {durations_ms[-1]:.2f} ms"
    )
    if durations_ms[_ROUNDS // 2] > SLOW_EXISTS_MS:
        return Finding("data port", "warn", text, "look for a slow network or a busy node: `memkv admin status`")
    return Finding("data port", "ok", text)


def of_node(reply: Reply, asked_at_s: float) -> Iterator[Finding]:
    """What one node's answer to /v1/status says. ``asked_at_s`` is this machine's time then."""
    body = reply.body
    if reply.error or body is None or "health" not in body:
        remedy = "the admin port is the data port plus one: open it from here, or look whether the key is the node's"
        yield Finding("node", "fail", f"{reply.node}: {reply.error or 'no MemKV node'}", remedy)
        return
    yield from _health(reply.node, body)
    if reply.date_s is not None and abs(reply.date_s - asked_at_s) > _CLOCK_S:
        text = f"{reply.node}: its clock is {reply.date_s - asked_at_s:+.0f} s from this machine's"
        yield Finding("clock", "warn", text, "run NTP on both: licenses and expiry are judged by the clock")


def _health(node: str, body: dict[str, Any]) -> Iterator[Finding]:
    well, storage = body["health"], body["storage"]
    text = (
        f"{node} is {well['status']}: {well['lanes']['serving']}/{well['lanes']['total']} lanes, "
        f"{well['drives_online']}/{well['drives_total']} drives, "
        f"{format_bytes(storage['used_bytes'])} of {format_bytes(storage['capacity_bytes'])}"
    )
    if well["status"] != "healthy":
        remedy = "`memkv drive list` and the node's log say why"
        yield Finding("node", "fail" if well["status"] == "unhealthy" else "warn", text, remedy)
    elif body.get("draining"):
        yield Finding("node", "warn", f"{text}, draining", "`memkv admin drain --undo` puts it back")
    else:
        yield Finding("node", "ok", text)
    if storage.get("corrupt_records"):
        text = f"{node}: {storage['corrupt_records']} records failed their checksum since it started"
        yield Finding("node", "warn", text, "`memkv drive scrub` finds the drive; replace it")


def of_versions(replies: Sequence[Reply]) -> Iterator[Finding]:
    """Whether the nodes and this client are one release: only that combination is tested."""
    versions = {reply.body["version"] for reply in replies if reply.body and "version" in reply.body}
    if versions == {__version__}:
        yield Finding("version", "ok", f"{__version__} everywhere")
    elif versions:
        text = f"this client is {__version__}, the nodes are {', '.join(sorted(versions))}"
        yield Finding("version", "warn", text, "upgrade the servers first, then the clients, to one release")
