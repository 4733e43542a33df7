# SPDX-License-Identifier: Apache-2.0
"""The client of ``memkv get``, ``put``, ``stat`` and ``ls``: whose blocks, with which identity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from memkv_core.address import parse_address
from memkv_core.auth import admin_token
from memkv_core.errors import ConfigError
from memkv_core.limits import VALUE_BYTES_MAX
from memkv_server.admin_client import admin_of, ask_all
from memkv_server.cli.flags import given

if TYPE_CHECKING:
    from memkv_core import Client, ClientConfig

Key = Annotated[
    str, typer.Argument(help="The key; \\xNN stands for a byte, \\\\ for a backslash, as `memkv ls` prints.")
]
NamespaceOf = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Whose blocks. Default: MEMKV_NAMESPACE, then `default`.")
]
Identity = Annotated[
    str | None,
    typer.Option(
        help="The namespace's identity as JSON, or @FILE with it. Default: what the nodes have recorded of it."
    ),
]
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", "-s", help="Admin address of a node; repeat it. Default: all of MEMKV_SERVERS."),
]
TimeoutMs = Annotated[int | None, typer.Option(help="Deadline of a call, in place of the setting.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]

_FIRST_BYTES: Final = 16 << 20  # of a target; only what is longer needs one of the largest size


def load_config(namespace: str | None, timeout_ms: int | None = None) -> ClientConfig:
    """The settings of this shell, with what the flags say."""
    from memkv_core import ClientConfig  # numpy with it: not for every command to load

    return ClientConfig.load(**given({"namespace": namespace, "timeout_ms": timeout_ms}))


def identity_of(config: ClientConfig, text: str | None, servers: Sequence[str] | None) -> Mapping[str, Any] | None:
    """The identity that a session has to present. ConfigError where it is malformed, or no node can be asked for it."""
    if text is not None:
        return _parsed(Path(text[1:]).read_text() if text.startswith("@") else text)
    if config.namespace is None:
        return None
    nodes = list(servers or (str(admin_of(parse_address(server))) for server in config.servers))
    path = f"/v1/namespaces/{quote(config.namespace, safe='')}"
    replies = ask_all(nodes, path, admin_token(config.auth_key_bytes))
    for reply in replies:
        if reply.code == 200 and reply.body is not None:
            return _parsed(reply.body["identity"]) if reply.body.get("identity") else None
    if not any(reply.code == 404 for reply in replies):
        raise ConfigError(
            f"the identity of namespace {config.namespace!r} is not known: {replies[0].node}: {replies[0].error}",
            remedy="give --identity, or the admin address of a node that answers with --server",
        )
    return None  # nobody has used it yet


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        identity = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--identity is not JSON: {error}", remedy="give an object, or @FILE with one") from None
    if not isinstance(identity, dict):
        raise ConfigError("--identity is no JSON object", remedy='give one, such as \'{"model": "llama-3"}\'')
    return identity


def fetch(client: Client, key: bytes) -> tuple[bytearray, bytes] | str:
    """(value, meta), verified; or the cause of the miss."""
    for capacity in (_FIRST_BYTES, VALUE_BYTES_MAX):
        target = bytearray(capacity)
        before = client.stats().misses
        found = client.get([key], [target], with_meta=True)[0]
        if found is not None:
            size, meta = found
            del target[size:]
            return target, meta
        cause = cause_of_miss(client, before)
        if cause != "too_long":
            break
    return cause


def cause_of_miss(client: Client, before: Mapping[str, int]) -> str:
    """Of the call since ``before``, which missed: the cause that ``ClientStats`` counted, in the singular."""
    after = client.stats().misses
    causes = [cause for cause, count in after.items() if count > before.get(cause, 0)]
    return causes[0] if causes else "absent"
