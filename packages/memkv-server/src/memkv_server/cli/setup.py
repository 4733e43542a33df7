# SPDX-License-Identifier: Apache-2.0
"""``memkv setup``: prepares the folders of a node and writes its settings file to stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from memkv_core.errors import ConfigError
from memkv_server.cli.flags import given
from memkv_server.cli.output import examples, format_bytes, note
from memkv_server.config import ServerConfig
from memkv_server.keyfile import generate_key, read_key_file, write_private

EPILOG = examples(
    "memkv setup --drives /srv/memkv0 --drives /srv/memkv1 --capacity 800GiB > /etc/memkv/config.yaml",
    "memkv setup --drives /srv/memkv0 --capacity 800GiB --dry-run",
    "memkv setup --drives /srv/memkv0 --capacity 800GiB --auth-key-file /etc/memkv/auth.key --idempotent",
)


def setup(
    drives: Annotated[list[Path], typer.Option(help="Folder for the blocks; repeat it, one for each drive.")],
    capacity: Annotated[str | None, typer.Option(help="Hard bound of each drive, such as 800GiB.")] = None,
    segment_size: Annotated[str | None, typer.Option(help="Size of a segment. Default: by the capacity.")] = None,
    address: Annotated[str | None, typer.Option(help="Data address, host:port. Default 0.0.0.0:9900.")] = None,
    admin: Annotated[str | None, typer.Option(help="Admin address, host:port. Default: data port + 1.")] = None,
    auth_key_file: Annotated[
        Path | None, typer.Option(help="File with the cluster key; a new key is made where there is no such file.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="License file.")] = None,
    license_keys: Annotated[str | None, typer.Option(help="Public keys of trusted license authorities.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    idempotent: Annotated[bool, typer.Option("--idempotent", help="Keep stores that are there already.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete stores that are there, with all blocks.")] = False,
) -> None:
    """Prepare the folders of a node and write its settings file to stdout. A folder with other files is refused."""
    from memkv_server import provision  # the engine with it: not for every command to load

    if capacity is None:
        free = format_bytes(min(provision.free_bytes(path) for path in drives))
        raise ConfigError("no capacity", remedy=f"give --capacity, such as 800GiB ({free} are free there)")
    if idempotent and force:
        raise ConfigError("--idempotent and --force contradict each other", remedy="use one of them")
    settings: dict[str, Any] = {
        "network": {
            "address": address or "0.0.0.0:9900",
            "admin_address": admin,
            "auth_key": str(auth_key_file.absolute()) if auth_key_file is not None else None,
        },
        "storage": {
            "mode": "file",
            "drives": [{"path": str(path.absolute()), "capacity": capacity} for path in drives],
            "segment_size": segment_size,
        },
        "license": _absolute(license),
        "license_keys": license_keys,
    }
    settings = given(settings)
    config = _checked(settings, auth_key_file)
    steps = provision.plan(
        [
            (Path(drive["path"]), drive["capacity_bytes"])
            for lane in range(len(drives))
            for drive in config.drives_of(lane)
        ],
        idempotent=idempotent,
        force=force,
    )
    for step in steps:
        note(f"{'would ' if dry_run else ''}{step}")
    _make_key(auth_key_file, dry_run)
    if not dry_run:
        segment = config.storage.segment_size
        provision.carry_out(steps, int(segment) if segment is not None else None)
    typer.echo(yaml.safe_dump(settings, sort_keys=False), nl=False)
    if auth_key_file is None:
        note("no key is in the settings: set MEMKV_AUTH_KEY, or network.auth_key to a file (`memkv keygen --out FILE`)")


def _checked(settings: dict[str, Any], key_file: Path | None) -> ServerConfig:
    """The settings as a node would read them; a key that is still to be made is stood in for."""
    flags = {**settings, "network": {**settings["network"]}}
    if key_file is None or not key_file.exists():
        flags["network"]["auth_key"] = generate_key()
    return ServerConfig.load(None, flags).checked()


def _make_key(path: Path | None, dry_run: bool) -> None:
    if path is None:
        return
    if path.exists():
        read_key_file(path)
    elif dry_run:
        note(f"would make a cluster key in {path}")
    else:
        write_private(path, generate_key() + "\n")
        note(f"made a cluster key in {path}: copy it to every node, and give it to the clients")


def _absolute(license: str | None) -> str | None:
    """A license file by its full path, so that the settings hold wherever a node is started; a token as it is."""
    return str(Path(license).absolute()) if license is not None and Path(license).is_file() else license
