# SPDX-License-Identifier: Apache-2.0
"""``memkv drive``: looks after the drives of a node, beside it while it runs or on a store that no node has open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from memkv_core.errors import ConfigError
from memkv_server.cli import drive_view
from memkv_server.cli.admin_flags import AsJson, KeyFile, Servers
from memkv_server.cli.output import examples, note, print_json, print_table

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
        from memkv_server.cli.drive_online import list_online

        rows = list_online(server, auth_key_file)
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
    from memkv_server.drives.check import check_store
    from memkv_server.drives.image import open_image
    from memkv_server.drives.repair import repair_store

    results: list[dict[str, Any]] = []
    well = True
    for path in _places(paths, config):
        with open_image(path, writable=repair) as image:
            with drive_view.progress_bar(f"check {path}") as progress:
                check = check_store(image, data=data, progress=progress)
            steps: list[str] = []
            if not as_json:
                drive_view.say_check(check)
            if repair and not check.is_clean:
                for step in repair_store(image, check):
                    note(step)
                    steps.append(step)
                with drive_view.progress_bar(f"check {path} again") as progress:
                    after = check_store(image, data=data, progress=progress)
                if not as_json:
                    drive_view.say_check(after)
                results.append({**check.as_json(), "repaired": steps, "after": after.as_json()})
                well = well and after.is_clean
            else:
                results.append(check.as_json())
                well = well and check.is_clean
    if as_json:
        print_json({"drives": results})
    raise typer.Exit(0 if well else 1)


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
