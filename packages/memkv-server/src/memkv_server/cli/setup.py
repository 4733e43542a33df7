# SPDX-License-Identifier: Apache-2.0
"""``memkv setup``: prepares the drives of a node and writes its settings file to stdout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml

from memkv_core.errors import ConfigError
from memkv_server.cli.flags import given
from memkv_server.cli.output import err, examples, format_bytes, note
from memkv_server.config import ServerConfig
from memkv_server.keyfile import generate_key, read_key_file, write_private

EPILOG = examples(
    "memkv setup                                             show the drives of this machine",
    "memkv setup --drives auto > /etc/memkv/config.yaml      take all that are free, NVMe first",
    "memkv setup --drives /dev/nvme{1...4}n1 --auth-key-file /etc/memkv/auth.key --idempotent",
    "memkv setup --drives /srv/memkv0,/srv/memkv1 --capacity 800GiB > /etc/memkv/config.yaml",
    "memkv setup --drives /srv/memkv0 --capacity 800GiB --dry-run",
)
AUTO: Final = "auto"
_RANGE: Final = re.compile(r"\{(\d+)\.\.\.(\d+)\}")
_DRIVES_MAX: Final = 1024


def setup(
    drives: Annotated[
        list[str] | None,
        typer.Option(help="Folders or devices, separated by commas or repeated; 'auto': all that are free."),
    ] = None,
    capacity: Annotated[
        str | None, typer.Option(help="Hard bound of each drive, such as 800GiB. Default: all of a device.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="file or direct. Default: direct where a device is named, else file.")
    ] = None,
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
    force: Annotated[
        bool, typer.Option("--force", help="Delete stores that are there, overwrite what else a device holds.")
    ] = False,
) -> None:
    """Prepare the drives of a node and write its settings file to stdout. What is another's is refused, or mounted."""
    from memkv_server import provision  # the engine with it: not for every command to load
    from memkv_server.drives.image import is_device

    if idempotent and force:
        raise ConfigError("--idempotent and --force contradict each other", remedy="use one of them")
    paths = _chosen(drives)
    if mode is None:
        mode = "direct" if any(is_device(path) for path in paths) else "file"
    if mode not in ("file", "direct"):
        raise ConfigError(f"--mode {mode!r} has no drives", remedy="use file or direct")
    settings: dict[str, Any] = {
        "network": {
            "address": address or "0.0.0.0:9900",
            "admin_address": admin,
            "auth_key": str(auth_key_file.absolute()) if auth_key_file is not None else None,
        },
        "storage": {
            "mode": mode,
            "drives": [{"path": str(path), "capacity": _capacity_of(path, capacity)} for path in paths],
            "segment_size": segment_size,
        },
        "license": _absolute(license),
        "license_keys": license_keys,
    }
    settings = given(settings)
    config = _checked(settings, auth_key_file)
    segment_bytes = int(config.storage.segment_size) if config.storage.segment_size is not None else None
    places = [(drive.path.absolute(), drive.capacity or 0) for drive in config.storage.drives]
    steps = provision.plan(places, mode=mode, segment_bytes=segment_bytes, idempotent=idempotent, force=force)
    for step in steps:
        note(f"{'would ' if dry_run else ''}{step}")
    _make_key(auth_key_file, dry_run)
    if not dry_run:
        provision.carry_out(steps, mode, segment_bytes)
    typer.echo(yaml.safe_dump(settings, sort_keys=False), nl=False)
    if auth_key_file is None:
        note("no key is in the settings: set MEMKV_AUTH_KEY, or network.auth_key to a file (`memkv keygen --out FILE`)")


def expand(drives: Sequence[str]) -> list[Path]:
    """``a,b`` and ``/dev/nvme{1...4}n1`` written out, absolute. Raises ConfigError."""
    texts = [text.strip() for drive in drives for text in drive.split(",") if text.strip()]
    paths: list[Path] = []
    while texts:
        text = texts.pop(0)
        found = _RANGE.search(text)
        if found is None:
            paths.append(Path(text).absolute())
            continue
        first, last = int(found[1]), int(found[2])
        if last < first or last - first >= _DRIVES_MAX:
            raise ConfigError(f"--drives {text}: {found[0]} is no range", remedy="write it as {1...4}")
        texts[:0] = [f"{text[: found.start()]}{number}{text[found.end() :]}" for number in range(first, last + 1)]
    return paths


def _chosen(drives: Sequence[str] | None) -> list[Path]:
    """The drives that are named, or those that ``auto`` finds; without any the machine's are shown."""
    if drives and AUTO not in drives:
        paths = expand(drives)
        if not paths:
            raise ConfigError("--drives names none", remedy="give --drives PATH[,PATH...], or --drives auto")
        return paths
    from memkv_server.cli.drive_view import device_table
    from memkv_server.drives.discovery import discover
    from memkv_server.drives.signature import content_of

    devices = discover(Path("/"), content_of)
    err.print(device_table(devices))
    if drives is None:
        raise ConfigError(
            "no drive is named", remedy="give --drives auto for those marked so, or --drives PATH[,PATH...]"
        )
    if len(drives) > 1:
        raise ConfigError("--drives auto stands beside others", remedy="use auto alone, or name every drive")
    found = [device.path for device in devices if device.is_for_auto]
    if not found:
        raise ConfigError("no drive of this machine is free", remedy="name a folder or device with --drives PATH")
    return found


def _capacity_of(path: Path, capacity: str | None) -> str:
    from memkv_server import provision
    from memkv_server.drives.image import is_device

    if capacity is not None:
        return capacity
    if is_device(path):
        return "100%"
    free = format_bytes(provision.free_bytes(path))
    raise ConfigError(
        f"no capacity for the folder {path}", remedy=f"give --capacity, such as 800GiB ({free} are free there)"
    )


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
