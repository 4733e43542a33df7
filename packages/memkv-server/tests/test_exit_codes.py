# SPDX-License-Identifier: Apache-2.0
"""Each exit code of the table, as a script gets it from a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memkv_server.cli.boundary import EXIT_CODES

if TYPE_CHECKING:
    from conftest import Cli, StartNode

SHOWN: dict[int, list[list[str]]] = {
    0: [["--version"], ["config", "show"], ["admin", "token", "--auth-key-file", "key"], ["keygen"]],
    1: [
        ["admin", "health", "--server", "127.0.0.1:1"],
        ["admin", "status", "--server", "127.0.0.1:1", "--auth-key-file", "key"],
        ["ls", "--server", "127.0.0.1:1", "--auth-key-file", "key"],
    ],
    2: [["frobnicate"], ["start", "--frob"], ["admin", "health"], ["license", "show"], ["get", ""], ["keygen", "key"]],
}  # fmt: skip


def test_codes_are_those_of_the_table() -> None:
    assert list(EXIT_CODES) == [*SHOWN, 130]


@pytest.mark.parametrize(("code", "arguments"), [(code, each) for code, lines in SHOWN.items() for each in lines])
def test_a_command_that_is_done_says_no_or_fails(cli: Cli, tmp_path: Path, code: int, arguments: list[str]) -> None:
    (tmp_path / "key").write_text("a1" * 32)
    done = cli(*arguments)
    assert done.returncode == code, (done.stdout, done.stderr)
    if code == 2:
        assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_is_told_to_stop_is_0(start_node: StartNode, signum: signal.Signals) -> None:
    assert start_node().stop(signum) == 0


def test_an_interrupted_command_is_130(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "memkv_server", "put", "k", str(fifo)]
    # A shell has what it runs in the background ignore SIGINT, and that is inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    with process, fifo.open("wb"):  # opened once the command has opened its end: it is reading
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, b"Traceback" in said) == (130, False)


def test_a_question_that_is_answered_with_no_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from memkv_server.cli import boundary, keys

    def refuse(*_arguments: Any) -> str:
        raise typer.Abort

    monkeypatch.setattr(keys, "generate_key", refuse)
    assert boundary.main(["keygen"]) == 130
