# SPDX-License-Identifier: Apache-2.0
"""How ``memkv drive`` shows what it has found: tables that fit a terminal of 80 columns, and progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memkv_server.cli.output import err, format_bytes
from memkv_server.drives.check import StoreCheck
from memkv_server.drives.discovery import BlockDevice, Use

FINDINGS_SHOWN: Final = 20
_COLOURS: Final = {
    "online": "green", "idle": "green", "in use": "cyan", "read-only": "yellow", "evacuating": "yellow",
    "starting": "yellow",
}  # fmt: skip


def drive_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a drive; the node's column only where there are several."""
    nodes = {row.get("node") for row in rows}
    table = Table(box=None, pad_edge=False, header_style="bold")
    if len(nodes) > 1:
        table.add_column("node", overflow="fold")
    table.add_column("path", overflow="fold", min_width=12)
    for name in ("mode", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("capacity", "used", "segments", "fmt"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("uuid", no_wrap=True)
    for row in rows:
        cells = [escape(str(row.get("node")))] if len(nodes) > 1 else []
        table.add_row(*cells, *_cells(row))
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    state, segments, uuid = str(row["state"]), row.get("segments"), row.get("uuid")
    return [
        escape(str(row.get("path") or "-")),
        row.get("mode") or "-",
        f"[{_COLOURS.get(state, 'red')}]{state}[/]",
        _size(row.get("capacity_bytes")),
        _size(row.get("used_bytes")),
        f"{segments['used']}/{segments['total']}" if segments else "-",
        str(row.get("format_version") or "-"),
        uuid[:8] if uuid else "-",
    ]


def _size(count: int | None) -> str:
    return "-" if count is None else format_bytes(count)


def device_table(devices: Sequence[BlockDevice]) -> Table:
    """The devices of this machine, those first that are to be preferred."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("device", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("size", no_wrap=True, justify="right")
    table.add_column("model", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("state", no_wrap=True)
    table.add_column("because", overflow="fold", ratio=2)
    table.add_column("auto", no_wrap=True)
    colours = {Use.FREE: "green", Use.OURS: "cyan"}
    for device in devices:
        colour = colours.get(device.use, "yellow")
        table.add_row(
            str(device.path), device.kind.value, format_bytes(device.size_bytes), escape(device.model) or "-",
            f"[{colour}]{device.use.value}[/]", escape(device.reason), "yes" if device.is_for_auto else "-",
        )  # fmt: skip
    return table


def job_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each drive that work is done on."""
    nodes = {row.get("node") for row in rows}
    table = Table(box=None, pad_edge=False, header_style="bold")
    if len(nodes) > 1:
        table.add_column("node", overflow="fold")
    table.add_column("path", overflow="fold", min_width=12)
    table.add_column("job", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("done", "records", "damaged", "unreadable"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        job = row["job"]
        colour = "green" if job["state"] in ("done", "running") else "red"
        cells = [escape(str(row.get("node")))] if len(nodes) > 1 else []
        damaged = job.get("damaged_records", 0) + job.get("damaged_footers", 0)
        table.add_row(
            *cells, escape(str(row["path"])), job["name"], f"[{colour}]{job['state']}[/]",
            f"{format_bytes(job['bytes'])}/{format_bytes(job['bytes_total'])}", f"{job['records']:,}",
            f"{damaged:,}", f"{job.get('unreadable_records', 0):,}",
        )  # fmt: skip
    return table


def job_is_well(job: Mapping[str, Any], *, waited: bool) -> bool:
    """Whether it found nothing, and has ended well where it was waited for."""
    found = sum(job.get(name, 0) for name in ("damaged_records", "unreadable_records", "damaged_footers"))
    return not found and (job["state"] == "done" or not waited)


def say_why(rows: Sequence[Mapping[str, Any]]) -> None:
    """Below the table: what is the matter with a drive, and who has it open."""
    for row in rows:
        for reason in (row.get("failure"), f"open in {row['holder']}" if row.get("holder") else None):
            if reason:
                path = str(row.get("path"))
                typer.echo(reason if path in reason else f"{path}: {reason}")


def say_check(check: StoreCheck) -> None:
    """The findings of one store, then one line about all of it."""
    for finding in check.findings.kept[:FINDINGS_SHOWN]:
        typer.echo(str(finding))
    if check.findings.count > FINDINGS_SHOWN:
        typer.echo(f"... and {check.findings.count - FINDINGS_SHOWN} more (--json has the first ones in full)")
    typer.echo(f"{check.path}: {_verdict(check)}")


def _verdict(check: StoreCheck) -> str:
    geometry = check.geometry
    if geometry is None:
        return "damaged beyond repair"
    what = (
        f"{counted(check.live_records, 'record')} ({format_bytes(check.live_bytes)}) "
        f"in {len(check.segments)} of {geometry.segment_count} segments"
    )
    if check.is_clean:
        return f"clean, {what}" + ("" if check.with_data else "; values were not read (--data does)")
    kinds = ", ".join(f"{damage.value} {count:,}" for damage, count in check.findings.counts.items())
    return f"DAMAGED ({kinds}), {counted(check.lost_records, 'record')} lost; well are {what}"


def counted(count: int, what: str) -> str:
    """``1 record``, ``1,234 records``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while the block runs, where that is a terminal; takes what is done, and of how many bytes."""
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[size]}"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=err, disable=not err.is_terminal, expand=True) as progress:
        task = progress.add_task(escape(title), total=None, size="")

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, size=f"{format_bytes(done)}/{format_bytes(total)}")

        yield update
