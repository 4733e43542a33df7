# SPDX-License-Identifier: Apache-2.0
"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from memkv_server import __version__
from memkv_server.cli import (
    admin,
    bench,
    blocks,
    config,
    dev,
    doc,
    doctor,
    drive,
    keys,
    license,
    listing,
    net,
    setup,
    simulate,
    start,
    top,
)

app = typer.Typer(
    help="The storage node of MemKV: a durable, shared tier for the KV cache of LLM inference engines.",
    epilog="Try it: memkv dev up --dir ./memkv-dev   (a local cluster with key and license, one command)\n\n"
    "Exit codes: 0 done, 1 the answer is no, 2 an error, 130 interrupted; `memkv doc` has the whole table",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"memkv {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The storage node of MemKV."""


app.command("setup", epilog=setup.EPILOG)(setup.setup)
app.command("start", epilog=start.EPILOG)(start.start)
app.command("keygen", epilog=keys.EPILOG)(keys.keygen)
app.command("top", epilog=top.EPILOG)(top.top)
app.command("doctor", epilog=doctor.EPILOG)(doctor.doctor)
app.command("get", epilog=blocks.GET_EPILOG)(blocks.get)
app.command("put", epilog=blocks.PUT_EPILOG)(blocks.put)
app.command("stat", epilog=blocks.STAT_EPILOG)(blocks.stat)
app.command("ls", epilog=listing.EPILOG)(listing.ls)
app.command("bench", epilog=bench.EPILOG)(bench.bench)
app.command("simulate", epilog=simulate.EPILOG)(simulate.simulate)
app.command("doc", epilog=doc.EPILOG)(doc.doc)
app.add_typer(admin.app, name="admin")
app.add_typer(drive.app, name="drive")
app.add_typer(net.app, name="net")
app.add_typer(config.app, name="config")
app.add_typer(license.app, name="license")
app.add_typer(dev.app, name="dev")
