# SPDX-License-Identifier: Apache-2.0
"""``memkv get``, ``put`` and ``stat``: one block, for somebody who looks for a fault."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from memkv_core.errors import ConfigError, MemKVError
from memkv_core.limits import SLOT_COUNT, VALUE_BYTES_MAX
from memkv_server.cli.block_client import (
    AsJson,
    Identity,
    Key,
    NamespaceOf,
    Servers,
    TimeoutMs,
    cause_of_miss,
    fetch,
    identity_of,
    load_config,
)
from memkv_server.cli.output import examples, format_bytes, note, print_json, print_table
from memkv_server.keytext import checked_key, key_text

if TYPE_CHECKING:
    from memkv_core import Client, ClientConfig

GET_EPILOG: Final = examples(
    "memkv get k1 --namespace llama-3 --output block.bin",
    "memkv get k1 | xxd | head                        of namespace `default`",
    "memkv get 'k\\x00\\x01' -n auto-0d54fa --server host-a:9901",
)
PUT_EPILOG: Final = examples(
    "memkv put k1 block.bin --namespace llama-3",
    "echo hello | memkv put k1                        of namespace `default`",
    "memkv put k1 block.bin --meta layout=v2",
)
STAT_EPILOG: Final = examples(
    "memkv stat k1 --namespace llama-3                the servers that have to hold it",
    "memkv stat k1 -n llama-3 --all --json            every server, wherever it may lie",
)
_META_SHOWN: Final = 60


def get(
    key: Key,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write to. Default: stdout.")] = None,
    namespace: NamespaceOf = None,
    identity: Identity = None,
    server: Servers = None,
    timeout_ms: TimeoutMs = None,
) -> None:
    """Write one block's bytes, verified, to a file or to stdout. Exit code 1 for a miss, whose cause is said.

    Reads as an engine does, through MEMKV_TRANSPORT.
    """
    wanted = checked_key(key)
    with _client(load_config(namespace, timeout_ms), identity, server) as client:
        found = fetch(client, wanted)
        if isinstance(found, str):
            note(f"memkv: {key}: a miss, {found}, in namespace {client.namespace}")
            raise typer.Exit(1)
    value, _meta = found
    if output is not None:
        output.write_bytes(value)
        note(f"{len(value)} bytes to {output}")
        return
    if sys.stdout.isatty() and not value.isascii():
        raise ConfigError("the block is binary, and stdout is a terminal", remedy="give --output FILE, or pipe it")
    sys.stdout.buffer.write(value)


def put(
    key: Key,
    file: Annotated[Path, typer.Argument(help="File to read, `-` for stdin.")] = Path("-"),
    meta: Annotated[str | None, typer.Option(help="Kept beside the block; escapes as in a key.")] = None,
    namespace: NamespaceOf = None,
    identity: Identity = None,
    server: Servers = None,
    timeout_ms: TimeoutMs = None,
) -> None:
    """Store one block from a file or stdin. Exit code 1 where no server took it; the cause is said.

    Other bytes under the same key are replaced. In the namespace of a running engine they would be its blocks.
    """
    from memkv_server.keytext import parse_key

    wanted = checked_key(key)
    value = _read(file)
    metas = [parse_key(meta)] if meta is not None else None
    with _client(load_config(namespace, timeout_ms), identity, server) as client:
        before = client.stats().misses
        if not client.put([wanted], [value], meta=metas)[0]:
            note(f"memkv: {key}: not stored, {cause_of_miss(client, before)}, in namespace {client.namespace}")
            raise typer.Exit(1)
        note(f"{len(value)} bytes under {key} in namespace {client.namespace}")


@dataclass(frozen=True, slots=True)
class Copy:
    """What one server has of a key. ``rank``: 1 for the server that is asked first, None where it is not to be."""

    server: str
    rank: int | None
    state: str  # present, or the cause of the miss
    size: int | None = None
    meta: str | None = None


def stat(
    key: Key,
    all_servers: Annotated[bool, typer.Option("--all", help="Ask servers as well that are not to hold it.")] = False,
    namespace: NamespaceOf = None,
    identity: Identity = None,
    server: Servers = None,
    timeout_ms: TimeoutMs = None,
    as_json: AsJson = False,
) -> None:
    """Where a key belongs, and what each of its servers has: size, meta, or the cause of the miss.

    The block is read and verified. Exit code 1 where none of the servers that are to hold it has it.
    """
    from memkv_core.router import Router, key_hash, namespace_seed

    wanted = checked_key(key)
    config = load_config(namespace, timeout_ms)
    with _client(config, identity, server) as client:
        name, presented = client.namespace, client.identity
        hashed = key_hash(wanted, namespace_seed(name))
        placed = [client.servers[at] for at in Router(config.servers, replicas=config.replicas).servers_of(hashed)]
        asked = [*placed, *(each for each in client.servers if all_servers and each not in placed)]
    copies = [_copy(config, identity, server, each, placed, wanted) for each in asked]
    body = {
        "key": key_text(wanted),
        "namespace": name,
        "identity": presented.decode(),
        "slot": hashed % SLOT_COUNT,
        "servers": [asdict(each) for each in copies],
    }
    if as_json:
        print_json(body)
    else:
        note(f"namespace {name}, slot {body['slot']} of {SLOT_COUNT}")
        print_table(_table(copies))
    raise typer.Exit(0 if any(each.state == "present" and each.rank for each in copies) else 1)


def _copy(
    config: ClientConfig, identity: str | None, servers: Servers, server: str, placed: list[str], key: bytes
) -> Copy:
    rank = placed.index(server) + 1 if server in placed else None
    try:
        with _client(config.model_copy(update={"servers": (server,), "replicas": 1}), identity, servers) as client:
            found = fetch(client, key)
    except MemKVError as error:
        return Copy(server, rank, str(error))
    if isinstance(found, str):
        return Copy(server, rank, found)
    value, meta = found
    return Copy(server, rank, "present", len(value), key_text(meta))


def _client(config: ClientConfig, identity: str | None, servers: list[str] | None) -> Client:
    from memkv_core import Client  # numpy with it: not for every command to load

    return Client(config, identity=identity_of(config, identity, servers))


def _read(file: Path) -> bytes:
    """All of a file or stdin. ConfigError beyond what a block may have."""
    if str(file) == "-":
        value = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    else:
        with file.open("rb") as opened:
            value = opened.read(VALUE_BYTES_MAX + 1)
    if len(value) > VALUE_BYTES_MAX:
        raise ConfigError(f"{file}: more than {VALUE_BYTES_MAX} bytes", remedy="a block cannot be longer: split it")
    return value


def _table(copies: list[Copy]) -> Table:
    table = Table("server", "rank", "state", "size", "meta")
    for each in copies:
        size = format_bytes(each.size) if each.size is not None else "-"
        table.add_row(
            each.server,
            str(each.rank or "-"),
            f"[{'green' if each.state == 'present' else 'red'}]{escape(each.state)}[/]",
            f"{size} ({each.size})" if each.size is not None else size,
            escape((each.meta or "-")[:_META_SHOWN]),
        )
    return table
