# SPDX-License-Identifier: Apache-2.0
"""Pages that are made from the code: metrics, settings, commands.

``docs/metrics.md`` is kept in the repository, where a change of it is seen; a test compares it with the tables, and
``nox -s reference`` writes it. The others are made while the site is built (see ``hooks.py``).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from memkv_core.config import ClientConfig
from memkv_core.metrics import catalogue, client_table
from memkv_lmcache.cli import app as lmcache_app
from memkv_nixl.cli import app as nixl_app
from memkv_server import metric_table, openapi
from memkv_server.cli.app import app as server_app
from memkv_server.cli.boundary import EXIT_CODES
from memkv_server.config import ServerConfig
from memkv_sglang.cli import app as sglang_app

DOCS = Path(__file__).parents[1]
APPS = {"memkv": server_app, "memkv-sglang": sglang_app, "memkv-lmcache": lmcache_app, "memkv-nixl": nixl_app}

_METRICS = """\
# Metrics

Every metric of a node and of a client. Names, labels and units are an interface: within a major version they keep
their meaning; new ones may come. Units are base units (seconds, bytes); a counter ends in `_total`, starts at zero with
its process and never goes back; a histogram has buckets at powers of two.

This page is made from `memkv_server/metric_table.py` and `memkv_core/metrics/client_table.py`. How to collect, look at
and be woken by these numbers is in [Monitoring](monitoring.md).

## Of a node

Served at `GET /v1/metrics` of the admin port. `lane` is the number of a lane of the node, `path` a drive's, `transport`
how a client's bytes come and go, `op` one of put, get, exists, lookup, delete, verify, ping, stat.

{node}
## Of a client

Exported by each process of an engine where `MEMKV_PROMETHEUS_BIND` or `MEMKV_OTEL_ENDPOINT` says so. `rank` is the
process's number within its engine, `namespace` that of its blocks, `op` one of put, get, exists, lookup, delete.

{client}"""


def metrics_page() -> str:
    """``docs/metrics.md``."""
    node = catalogue.markdown(metric_table.SECTIONS)
    return _METRICS.format(node=node, client=catalogue.markdown(client_table.SECTIONS))


# -- settings ---------------------------------------------------------------------------------------------------------
_SETTINGS = """\
# Settings

Every setting, made from `memkv_core/config.py` and `memkv_server/config.py`. What they are for, and which source wins,
is in [Configuration](../config.md).

## Of a client

| Setting | Variable | Default | Accepted |
| --- | --- | --- | --- |
{client}

## Of a node

| Setting | Variable | Default | Accepted |
| --- | --- | --- | --- |
{node}
"""


def settings_page() -> str:
    """Every setting of client and node."""
    client = [_row(name, f"MEMKV_{name.upper()}", field) for name, field in ClientConfig.model_fields.items()]
    node = [
        _row(name, f"MEMKV_SERVER_{name.upper().replace('.', '__')}", field) for name, field in _leaves(ServerConfig)
    ]
    return _SETTINGS.format(client="\n".join(client), node="\n".join(node))


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted name, field) of a table of sections; a list of sections counts as one setting."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _leaves(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _row(name: str, variable: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else _cell(field.default)
    return f"| `{name}` | `{variable}` | {default} | {_escaped(field.description or '')} |"


def _cell(value: Any) -> str:
    return "none" if value is None or value == () else f"`{value}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# -- the admin endpoint -----------------------------------------------------------------------------------------------
_ADMIN = """\
# Admin endpoint

Every node answers HTTP on its admin port, 9901 by default, one above its data port. `memkv admin token` prints the
token that most of it needs, as `Authorization: Bearer TOKEN`. Whatever is refused is `{"error": reason}`: 401 without
the token, 404 for an unknown path, 405 for another method, 400 for what is no HTTP.

This page is made from `memkv_server/openapi.py`. A node serves the same as an OpenAPI 3.1 document at
`GET /v1/openapi.json`; a test has schemathesis try it on a running node.

"""


def admin_page() -> str:
    """Every operation of the admin endpoint."""
    return _ADMIN + "\n".join(map(_endpoint, openapi.OPERATIONS))


def _endpoint(operation: openapi.Operation) -> str:
    lines = [f"## {operation.method} {operation.path}\n", operation.help + (" No token." if operation.open else "")]
    if operation.parameters:
        lines.append("\n| Parameter | Accepted | What it is |\n| --- | --- | --- |")
    for each in operation.parameters:
        bounds = " to ".join(str(each.schema[name]) for name in ("minimum", "maximum") if name in each.schema)
        kind = f"{each.schema['type']} {bounds}".strip()
        lines.append(f"| `{each.name}` | {kind}{', required' if each.required else ''} | {_escaped(each.help)} |")
    answer = operation.result
    fields = ", ".join(f"`{name}`" for name in (answer or {}).get("properties", {}))
    lines.append("\n200: " + ("plain text." if answer is None else f"JSON with {fields}." if fields else "JSON."))
    lines += [f"{status}: {reason}." for status, reason in sorted(operation.refusals.items())]
    return "\n".join(lines) + "\n"


# -- commands ---------------------------------------------------------------------------------------------------------
_COMMANDS = """\
# Commands

Every command and its options, as `--help` says them. `memkv --install-completion` has bash, zsh or fish complete them;
`memkv --show-completion` prints what it would install.

| Exit code | What it means |
| --- | --- |
{exit_codes}

"""


def commands_page() -> str:
    """Every command of every package."""
    commands = {name: typer.main.get_command(app) for name, app in APPS.items()}
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    return _COMMANDS.format(exit_codes=rows) + "\n".join(
        text for name, command in commands.items() for text in _command(name, command, 2)
    )


def _command(name: str, command: Any, level: int) -> Iterator[str]:
    yield f"{'#' * min(level, 4)} {name}\n"
    if command.help:
        yield _escaped(inspect.cleandoc(command.help)) + "\n"
    inner = getattr(command, "commands", {})
    rows = [row for parameter in command.params if (row := _parameter(parameter))]
    if rows:
        yield "| Option | What it does |\n| --- | --- |"
        yield "\n".join(rows) + "\n"
    if command.epilog:
        yield "```text\n" + _plain(command.epilog) + "\n```\n"
    for word, each in sorted(inner.items()):
        if not each.hidden:
            yield from _command(f"{name} {word}", each, level + 1)


def _parameter(parameter: Any) -> str:
    if parameter.name in ("help", "install_completion", "show_completion") or getattr(parameter, "hidden", False):
        return ""
    argument = parameter.param_type_name == "argument"
    names = parameter.name.upper() if argument else ", ".join([*parameter.opts, *parameter.secondary_opts])
    value = "" if argument or getattr(parameter, "is_flag", False) else " VALUE"
    text = _escaped(" ".join((getattr(parameter, "help", "") or "").split()))
    required = " Required." if parameter.required and not argument else ""
    return f"| `{names}{value}` | {text}{required} |"


def _plain(epilog: str) -> str:
    """Examples without the markup of rich."""
    from rich.text import Text

    lines = Text.from_markup(epilog).plain.splitlines()
    return "\n".join(line for line in lines if line.strip())


def main() -> None:
    """Writes what is kept in the repository."""
    (DOCS / "metrics.md").write_text(metrics_page())
    sys.stdout.write("docs/metrics.md is up to date\n")


if __name__ == "__main__":
    main()
