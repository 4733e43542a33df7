# SPDX-License-Identifier: Apache-2.0
"""``memkv drive``: looks after the drives of a node, beside it while it runs or on a store that no node has open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from memkv_core.errors import ConfigError
from memkv_server.cli import drive_view
from memkv_server.cli.admin_flags import AsJson, KeyFile, Servers
from memkv_server.cli.output import examples, print_json, print_table

app = typer.Typer(help="Look after drives: list, check, repair, scrub, evacuate.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option("--config", "-c", help="The node's settings file, for its drives.")]
_LIST_EXAMPLES: Final = (
    "memkv drive list                                    the drives of all nodes of MEMKV_SERVERS",
    "memkv drive list --server host-a:9901               of one running node",
    "memkv drive list --config /etc/memkv/config.yaml    on this machine, whether a node runs or not",
    "memkv drive list /srv/memkv0 /dev/nvme1n1",
)
_CHECK_EXAMPLES: Final = (
    "memkv drive check /srv/memkv0                       headers, footers and records",
    "memkv drive check --data --config config.yaml       every value against its digest as well, on every drive",
    "memkv drive check --repair /srv/memkv0              mend what is damaged",
)

_SCRUB_EXAMPLES: Final = (
    "memkv drive scrub --server host-a:9901 --rate 200MiB/s    all drives of a running node",
    "memkv drive scrub --server host-a:9901 --stop",
    "memkv drive scrub /srv/memkv0                             offline: as check --data --repair",
)

_EVACUATE_EXAMPLES: Final = (
    "memkv drive evacuate /srv/memkv1 --config /etc/memkv/config.yaml --dry-run",
    "memkv drive evacuate /srv/memkv1 --config /etc/memkv/config.yaml > storage.yaml",
)


@app.command("list", epilog=examples(*_LIST_EXAMPLES))
def list_drives(
    paths: Annotated[list[Path] | None, typer.Argument(help="Folders or devices on this machine.")] = None,
    config: Config = None,
    server: Servers = None,
    auth_key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List drives with mode, state, capacity, use, format version and uuid. Exit code 1 where one is not well."""
    from memkv_server.drives.survey import survey_drive

    if paths or config is not None:
        rows = [survey_drive(path) for path in _places(paths, config)]
    else:
        from memkv_server.cli.drive_online import Nodes

        rows = Nodes(server, auth_key_file).rows()
    if as_json:
        print_json({"drives": rows})
    else:
        print_table(drive_view.drive_table(rows))
        drive_view.say_why(rows)
    raise typer.Exit(0 if all(row["state"] in ("online", "idle", "in use") for row in rows) else 1)


@app.command("check", epilog=examples(*_CHECK_EXAMPLES))
def check_drives(
    paths: Annotated[list[Path] | None, typer.Argument(help="Folders or devices of drives.")] = None,
    config: Config = None,
    data: Annotated[bool, typer.Option("--data", help="Read every value and compare it with its digest.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is damaged; no intact record is lost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check stores that no running node has open. Exit code 1 where damage was found, or is left after --repair."""
    from memkv_server.cli.drive_offline import check_offline

    results = [check_offline(path, data=data, repair=repair, quiet=as_json) for path in _places(paths, config)]
    if as_json:
        print_json({"drives": results})
    raise typer.Exit(0 if all(result.get("after", result)["clean"] for result in results) else 1)


@app.command("scrub", epilog=examples(*_SCRUB_EXAMPLES))
def scrub_drives(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Folders or devices; of a node, all where left out.")
    ] = None,
    config: Config = None,
    server: Servers = None,
    auth_key_file: KeyFile = None,
    rate: Annotated[str | None, typer.Option(help="At most so much is read of a drive, such as 100MiB/s.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the scrub that is running.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read every value of drives, and drop what does not match its digest. Exit code 1 where something did not.

    Beside a running node with --server (or where no drive is named, MEMKV_SERVERS), offline otherwise.
    """
    from memkv_server.cli.drive_online import Nodes, parse_rate

    rate_bytes_s = parse_rate(rate) if rate is not None else None
    if server is None and (paths or config is not None):
        from memkv_server.cli.drive_offline import check_offline

        places = _places(paths, config)
        results = [
            check_offline(path, data=True, repair=True, quiet=as_json, rate_bytes_s=rate_bytes_s) for path in places
        ]
        if as_json:
            print_json({"drives": results})
        raise typer.Exit(0 if all(result["clean"] for result in results) else 1)
    nodes = Nodes(server, auth_key_file)
    rows = nodes.chosen(paths)
    for row in rows:
        row["job"] = nodes.post(row, "stop") if stop else nodes.post(row, "scrub", **_rate(rate_bytes_s))
    if not (stop or detach):
        with drive_view.progress_bar(f"scrub {drive_view.counted(len(rows), 'drive')}") as progress:
            rows = nodes.wait(rows, progress)
    if as_json:
        print_json({"drives": rows})
    else:
        print_table(drive_view.job_table(rows))
        drive_view.say_why([{**row, **row["job"]} for row in rows])
    raise typer.Exit(0 if all(drive_view.job_is_well(row["job"], waited=not (stop or detach)) for row in rows) else 1)


@app.command("evacuate", epilog=examples(*_EVACUATE_EXAMPLES))
def evacuate_drive(
    path: Annotated[Path, typer.Argument(help="The drive that is to leave: its folder or device.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's settings file.")],
    evict: Annotated[
        bool, typer.Option("--evict", help="Where there is too little room, let the oldest blocks of the others go.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move every live record of a drive onto the node's other drives; the node must not be running.

    The storage settings without the drive are printed on stdout. It can be interrupted and run again. Exit code 1
    where records could not be moved.
    """
    from memkv_server.cli.drive_offline import evacuate_offline

    result = evacuate_offline(config, path.absolute(), evict=evict, dry_run=dry_run)
    if as_json:
        print_json(result)
    else:
        import yaml

        typer.echo(yaml.safe_dump(result["settings"], sort_keys=False), nl=False)
    raise typer.Exit(1 if any(result["moved"][name] for name in ("damaged", "too_long")) else 0)


def _rate(rate_bytes_s: int | None) -> dict[str, int]:
    return {"rate": rate_bytes_s} if rate_bytes_s is not None else {}


def _places(paths: Sequence[Path] | None, config: Path | None) -> list[Path]:
    """The drives that are named, or those of the node's settings. Raises ConfigError where there are none."""
    if paths and config is not None:
        raise ConfigError("paths and --config are both given", remedy="name the drives, or the file that does")
    if config is not None:
        from memkv_server.config import ServerConfig

        paths = [drive.path for drive in ServerConfig.load(config).storage.drives]
    if not paths:
        raise ConfigError("no drive is named", remedy="give its path, or --config FILE of the node")
    return [path.absolute() for path in paths]
