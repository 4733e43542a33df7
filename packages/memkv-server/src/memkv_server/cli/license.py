# SPDX-License-Identifier: Apache-2.0
"""``memkv license``: run an authority, issue licenses, look at them, verify them as a client or a node would."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from memkv_server.cli.client_settings import client_setting
from memkv_server.cli.output import examples, note, print_json, print_table
from memkv_server.keyfile import write_private

if TYPE_CHECKING:
    from memkv_core.license import License

app = typer.Typer(help="Run a license authority, issue licenses, look at them, verify them.", no_args_is_help=True)

_EXAMPLES: Final = (
    "memkv license authority --dir ./authority --name acme",
    "memkv license issue --authority ./authority --licensee 'Inference team' --days 365 --out minio.license",
    "memkv license show minio.license",
    "memkv license verify minio.license --keys ./authority/license-keys",
)
Given = Annotated[str | None, typer.Argument(help="A license file or token. Default: found as a client finds it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@app.command("authority", epilog=examples(*_EXAMPLES))
def authority(
    dir: Annotated[Path, typer.Option(help="A new folder for the keys.")],
    name: Annotated[str, typer.Option(help="The issuer's name, which stands in every license.")] = "memkv",
) -> None:
    """Make a license authority: key pairs for EdDSA and ES384. Keep DIR/private to yourself."""
    from memkv_core.license import Authority  # cryptography with it: not for every command to load

    made = Authority.create(dir, name=name)
    note(f"made the authority {made.name!r} in {made.directory}")
    note(f"give its public keys to nodes and clients: MEMKV_LICENSE_KEYS={made.public_keys.absolute()}")


@app.command("issue", epilog=examples(*_EXAMPLES))
def issue(
    authority: Annotated[Path, typer.Option(help="The authority's folder.")],
    licensee: Annotated[str, typer.Option(help="Who may use it.")],
    plan: Annotated[str, typer.Option(help="Name of the plan.")] = "standard",
    days: Annotated[int, typer.Option(help="Days it is valid, from now.")] = 365,
    max_servers: Annotated[int | None, typer.Option(help="Servers a client may list. Default: no bound.")] = None,
    algorithm: Annotated[str, typer.Option(help="EdDSA or ES384.")] = "EdDSA",
    out: Annotated[Path | None, typer.Option(help="Write it to this new file instead of stdout.")] = None,
) -> None:
    """Issue a license: a signed token, on stdout or in a file."""
    from memkv_core.license import Authority

    token = Authority.load(authority).issue(
        licensee, plan=plan, days=days, max_servers=max_servers, algorithm=algorithm
    )
    if out is None:
        typer.echo(token)
        return
    write_private(out, token + "\n")
    note(f"wrote a license for {licensee!r}, valid for {days} days, to {out}")


@app.command("show", epilog=examples(*_EXAMPLES))
def show(license: Given = None, as_json: AsJson = False) -> None:
    """Print what a license says of itself. Nothing of it is verified."""
    from memkv_core.license import show_license

    token, source = _token(license)
    said = show_license(token, source)
    if as_json:
        print_json({"source": said.source, "verified": False, "header": said.header, "claims": said.claims})
        return
    table = Table("field", "value", title=f"{said.source} (not verified)")
    for name, value in (*said.header.items(), *said.claims.items()):
        table.add_row(name, _claim(name, value))
    print_table(table)


@app.command("verify", epilog=examples(*_EXAMPLES))
def verify(
    license: Given = None,
    keys: Annotated[str | None, typer.Option(help="Public keys to trust: files or folders, separated by ':'.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a license as a client does: signature, audience, dates. Exit code 2 and the reason where it fails."""
    from memkv_core.license import load_trusted_keys, verify_license

    token, source = _token(license)
    configured, keys_source = (keys, "--keys") if keys is not None else client_setting("license_keys")
    verified = verify_license(token, load_trusted_keys(configured, keys_source), source=source)
    fields = _fields(verified)
    if as_json:
        print_json({"verified": True, **fields})
        return
    table = Table("field", "value", title="verified")
    for name, value in fields.items():
        table.add_row(name, "-" if value is None else str(value))
    print_table(table)


def _token(given: str | None) -> tuple[str, str]:
    from memkv_core.license import find_license, read_license

    if given is not None:
        return read_license(given, "license")
    return find_license(*client_setting("license"))


def _fields(verified: License) -> dict[str, Any]:
    return {
        "plan": verified.plan,
        "licensee": verified.licensee,
        "authority": verified.authority,
        "expires_at": verified.expires_at.isoformat(),
        "max_servers": verified.max_servers,
        "source": verified.source,
    }


def _claim(name: str, value: object) -> str:
    if name in ("iat", "nbf", "exp") and isinstance(value, int | float):
        try:
            return datetime.fromtimestamp(value, timezone.utc).isoformat()
        except (ValueError, OverflowError, OSError):
            return str(value)
    return str(value)
