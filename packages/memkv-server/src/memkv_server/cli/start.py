# SPDX-License-Identifier: Apache-2.0
"""``memkv start``: runs one node in the foreground."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memkv_server import logs
from memkv_server.cli.flags import given
from memkv_server.cli.output import examples
from memkv_server.config import ServerConfig
from memkv_server.keyfile import read_key_file

if TYPE_CHECKING:
    from memkv_core.license import License

EPILOG = examples(
    "memkv start --config /etc/memkv/config.yaml",
    "memkv start --path /srv/memkv --capacity 800GiB --auth-key-file auth.key --license minio.license",
    "memkv start --mode direct --path /dev/nvme0n1 --capacity 100% --memory-max-size 64GiB --auth-key-file auth.key",
    "memkv start --mode memory --capacity 64GiB --address 10.0.0.1:9900 --auth-key-file auth.key",
)


def start(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file (yaml).")] = None,
    address: Annotated[str | None, typer.Option(help="Data address, host:port. Default 0.0.0.0:9900.")] = None,
    admin: Annotated[str | None, typer.Option(help="Admin address, host:port. Default: data port + 1.")] = None,
    socket: Annotated[
        str | None, typer.Option(help="Unix socket for clients on this host: a path, auto or none. Default: auto.")
    ] = None,
    path: Annotated[list[Path] | None, typer.Option(help="Folder or device for the blocks; may be repeated.")] = None,
    mode: Annotated[str | None, typer.Option(help="file, direct or memory.")] = None,
    capacity: Annotated[str | None, typer.Option(help="Hard bound of the node, such as 800GiB, or 100%.")] = None,
    memory_max_size: Annotated[
        str | None, typer.Option(help="RAM pool of mode direct, such as 64GiB. Default: 1GiB.")
    ] = None,
    segment_size: Annotated[str | None, typer.Option(help="Size of a segment, such as 256MiB.")] = None,
    durability: Annotated[
        str | None, typer.Option(help="relaxed, or strict: an acknowledged put survives a loss of power.")
    ] = None,
    lanes: Annotated[int | None, typer.Option(help="Lane processes. Default: one per drive.")] = None,
    auth_key_file: Annotated[Path | None, typer.Option(help="File with the cluster key (64 hex digits).")] = None,
    license: Annotated[str | None, typer.Option(help="License file (or token).")] = None,
    license_keys: Annotated[str | None, typer.Option(help="Public keys of trusted license authorities.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
) -> None:
    """Run one node in the foreground; SIGTERM or Ctrl-C drains it and stops. Flags override the file."""
    from memkv_server.license import load_server_license  # heavy, as the supervisor: not for every command to load

    flags = {
        "network": {
            "address": address,
            "admin_address": admin,
            "socket": socket,
            "auth_key": read_key_file(auth_key_file) if auth_key_file is not None else None,
        },
        "storage": {
            "mode": mode,
            "drives": [{"path": str(folder)} for folder in path] if path else None,
            "capacity": capacity,
            "segment_size": segment_size,
            "durability": durability,
        },
        "memory": {"max_size": memory_max_size},
        "lanes": lanes,
        "license": license,
        "license_keys": license_keys,
        "log": {"level": log_level, "format": log_format},
    }
    settings = ServerConfig.load(config, given(flags)).checked()
    logs.configure(settings.log.level, settings.log.format)
    license_of_node = load_server_license(settings)
    asyncio.run(_run(settings, license_of_node))


async def _run(settings: ServerConfig, license: License) -> None:
    from memkv_server.supervisor import Supervisor

    await Supervisor(settings, license).run()
