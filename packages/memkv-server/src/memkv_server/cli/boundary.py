# SPDX-License-Identifier: Apache-2.0
"""Where every error of the command line ends: ``memkv: cause; remedy`` on stderr."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from typing import Final

import typer

from memkv_core.errors import MemKVError
from memkv_core.log import mask_secrets

EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_CODES: Final = {
    0: "It is done, and what was asked about is well. A node that was told to stop, by SIGTERM or SIGINT, has drained",
    1: "The answer is no: a node is unhealthy or does not answer, a check found something, a block is a miss. It is on "
    "stdout, or in a line on stderr",
    EXIT_ERROR: "It could not be done: a wrong option or setting, no license, something in the way. Nothing on stdout, "
    "one line on stderr: the cause, then the remedy",
    EXIT_INTERRUPTED: "Interrupted by Ctrl-C, or a question was answered with no",
}
"""Of every command; the site's page of commands has this table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        from memkv_server.cli.app import app  # here, so that an error while loading it is one line as well

        code = app(args=list(arguments) if arguments is not None else None, prog_name="memkv", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except MemKVError as error:
        return _fail(str(error))
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more can be said to it
            return 0
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's usage errors, whose base class is not public
            return _fail(f"{_lower_first(error.format_message())}; see `memkv --help`")
        if os.environ.get("MEMKV_DEBUG"):
            raise
        return _fail(f"internal error: {type(error).__name__}: {error}; set MEMKV_DEBUG=1 to see where, and report it")


def _reader_has_gone() -> bool:
    """Whether stdout is a pipe whose reader (``| head``) has seen enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _fd, event in poll.poll(0))


def _fail(text: str) -> int:
    line = " ".join(mask_secrets(text).split())
    sys.stderr.write(f"memkv: {line}\n")
    return EXIT_ERROR


def _lower_first(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")
