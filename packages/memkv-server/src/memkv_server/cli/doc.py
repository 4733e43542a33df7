# SPDX-License-Identifier: Apache-2.0
"""``memkv doc``: the documentation of this release, from the wheel, for a browser on this machine."""

from __future__ import annotations

import webbrowser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import memkv_server
from memkv_core.errors import ConfigError
from memkv_server.cli.output import examples

EPILOG: Final = examples("memkv doc", "memkv doc --port 8080 --no-open")
SITE: Final = Path(memkv_server.__file__).with_name("site")  # the build of the wheel puts it there


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is read is nobody's business."""

    def list_directory(self, path: Any) -> None:
        """A folder without a page is not there."""
        self.send_error(404)


def site() -> Path:
    """The folder of the pages. ConfigError where this installation has none."""
    if not (SITE / "index.html").is_file():
        raise ConfigError(
            "this installation has no documentation",
            remedy="install a wheel that `nox -s build` made; docs/ has the text",
        )
    return SITE


def serve(folder: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the folder's files, bound and not yet serving. OSError where the port is taken."""
    return ThreadingHTTPServer((host, port), partial(_Handler, directory=str(folder)))


def doc(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to serve it; 0 takes a free port.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser, where there is one.")] = True,
) -> None:
    """Serve the documentation of this release on this machine, until Ctrl-C. Nothing is loaded from elsewhere."""
    with serve(site(), host, port) as server:
        url = f"http://{host}:{server.server_address[1]}/index.html"
        typer.echo(url)
        if open_:
            webbrowser.open(url)
        server.serve_forever()
