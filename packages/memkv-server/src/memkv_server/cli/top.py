# SPDX-License-Identifier: Apache-2.0
"""``memkv top``: the cluster as it works, on one screen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from memkv_core.auth import admin_token
from memkv_server.admin_client import Reply, ask_all
from memkv_server.cli.admin_flags import AsJson, KeyFile, Servers, cluster_key, nodes_of
from memkv_server.cli.output import examples, format_bytes, format_seconds, print_json
from memkv_server.rates import Activity, Rates, counters, rates, together

EPILOG = examples(
    "memkv top                          all nodes of MEMKV_SERVERS, every two seconds, until Ctrl-C",
    "memkv top --once --json            one look, for a script",
)

_NONE: Final = "-"
_OPERATIONS: Final = ("get", "put", "exists", "lookup", "delete")
_COLOURS: Final = {"healthy": "green", "degraded": "yellow"}


@dataclass
class Seen:
    """One node as it was last seen, and what it did since the look before."""

    reply: Reply
    at_s: float
    counted: Mapping[tuple[int, str], Mapping[str, Any]] = field(default_factory=dict)
    rates: Rates = field(default_factory=lambda: Rates(0.0, {}))

    @property
    def body(self) -> dict[str, Any] | None:
        body = self.reply.body
        return None if self.reply.error or body is None or "storage" not in body else body


def top(
    server: Servers = None,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print once, end.")] = False,
    auth_key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what every node does: hits, throughput, latency, space and what is evicted, live.

    With --once, exit code 1 where a node does not answer. --json implies --once.
    """
    nodes, token = nodes_of(server), admin_token(cluster_key(auth_key_file))
    seen = look(nodes, token, {})
    if once or as_json:
        time.sleep(interval)
        seen = look(nodes, token, seen)
        if as_json:
            print_json(_as_json(seen))
        else:
            Console(highlight=False).print(screen(list(seen.values())))
        raise typer.Exit(0 if all(each.body for each in seen.values()) else 1)
    console = Console(highlight=False)
    with Live(screen(list(seen.values())), console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            seen = look(nodes, token, seen)
            live.update(screen(list(seen.values())), refresh=True)


def look(nodes: Sequence[str], token: str, before: Mapping[str, Seen]) -> dict[str, Seen]:
    """Asks all nodes, and compares with the last look at each."""
    found = {}
    for node, reply in zip(nodes, ask_all(nodes, "/v1/status", token)):
        now = found[node] = Seen(reply, time.monotonic())
        if now.body is None:
            continue
        now.counted = counters(now.body)
        last = before.get(node)
        if last is not None and last.body is not None:
            now.rates = rates(last.counted, now.counted, now.at_s - last.at_s)
    return found


def screen(seen: Sequence[Seen]) -> Group:
    """What is shown."""
    return Group(_summary(seen), _nodes(seen), _operations(together(each.rates for each in seen)), _namespaces(seen))


def _summary(seen: Sequence[Seen]) -> Panel:
    bodies = [each.body for each in seen if each.body is not None]
    used, capacity = (sum(body["storage"][name] for body in bodies) for name in ("used_bytes", "capacity_bytes"))
    done = together(each.rates for each in seen)
    grid = Table.grid(padding=(0, 3))
    grid.add_row(
        f"[bold]{len(bodies)}/{len(seen)}[/] nodes",
        f"hit ratio [bold]{_share(done.hit_ratio)}[/]",
        f"out [bold]{format_bytes(done.of('get').bytes)}/s[/]",
        f"in [bold]{format_bytes(done.of('put').bytes)}/s[/]",
        f"{format_bytes(used)} of {format_bytes(capacity)}",
        ProgressBar(total=max(capacity, 1), completed=used, width=24),
    )
    return Panel(grid, title="MemKV", title_align="left", expand=False)


def _nodes(seen: Sequence[Seen]) -> Table:
    columns = ("node", "health", "up", "lanes", "conns", "hits", "out/s", "in/s", "p50", "p99", "full", "evicted")
    table = Table(*columns, expand=False, caption="p50 and p99 of gets, as the node sees them")
    for each in seen:
        body = each.body
        if body is None:
            table.add_row(each.reply.node, f"[red]{each.reply.error or 'no MemKV node'}[/]")
            continue
        well, storage, got = body["health"], body["storage"], each.rates.of("get")
        status = "draining" if body["draining"] else well["status"]
        table.add_row(
            each.reply.node,
            f"[{_COLOURS.get(status, 'red')}]{status}[/]",
            format_seconds(body["uptime_seconds"]),
            f"{well['lanes']['serving']}/{well['lanes']['total']}",
            f"{body['connections']:,}",
            _share(each.rates.hit_ratio),
            format_bytes(got.bytes),
            format_bytes(each.rates.of("put").bytes),
            _latency(got, 0.5),
            _latency(got, 0.99),
            _share(storage["used_bytes"] / storage["capacity_bytes"] if storage["capacity_bytes"] else None),
            format_bytes(storage["evicted_bytes"]),
        )
    return table


def _operations(done: Rates) -> Table:
    table = Table("operation", "requests/s", "keys/s", "hits", "bytes/s", "p50", "p99", expand=False)
    for name in _OPERATIONS:
        activity = done.of(name)
        table.add_row(
            name,
            f"{activity.requests:,.0f}",
            f"{activity.keys:,.0f}",
            _share(activity.hits / activity.keys if activity.keys else None),
            format_bytes(activity.bytes) if activity.bytes else _NONE,
            _latency(activity, 0.5),
            _latency(activity, 0.99),
        )
    return table


def _namespaces(seen: Sequence[Seen], count: int = 8) -> Table:
    """The largest ones, summed over the nodes."""
    table = Table("namespace", "records", "bytes", "hits", "misses", expand=False)
    merged: dict[str, dict[str, int]] = {}
    for each in seen:
        for namespace in (each.body or {}).get("namespaces", ()):
            sums = merged.setdefault(namespace["name"], dict.fromkeys(("records", "bytes", "hits", "misses"), 0))
            for name in sums:
                sums[name] += namespace[name]
    for name, sums in sorted(merged.items(), key=lambda item: -item[1]["bytes"])[:count]:
        numbers = (f"{sums['records']:,}", format_bytes(sums["bytes"]), f"{sums['hits']:,}", f"{sums['misses']:,}")
        table.add_row(name, *numbers)
    return table


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _latency(activity: Activity, share: float) -> str:
    seconds = activity.quantile_s(share)
    if seconds is None:
        return _NONE
    return f"{seconds * 1e6:.0f} us" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"


def _as_json(seen: Mapping[str, Seen]) -> dict[str, Any]:
    def described(done: Rates) -> dict[str, Any]:
        operations = {
            name: {
                **{key: value for key, value in asdict(activity).items() if key != "buckets"},
                "p50_seconds": activity.quantile_s(0.5),
                "p99_seconds": activity.quantile_s(0.99),
            }
            for name, activity in done.operations.items()
        }
        return {"seconds": done.seconds, "hit_ratio": done.hit_ratio, "per_second": operations}

    nodes = [
        {"node": node, "error": each.reply.error, "health": (each.body or {}).get("health"), **described(each.rates)}
        for node, each in seen.items()
    ]
    return {"cluster": described(together(each.rates for each in seen.values())), "nodes": nodes}
