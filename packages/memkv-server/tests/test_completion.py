# SPDX-License-Identifier: Apache-2.0
"""What ``memkv --show-completion`` prints is sourced by the real shells and asked what comes next."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# zsh lets completion functions run in its line editor only: what they would hand to it is printed instead.
ASK = {
    "bash": "source ./script; COMP_WORDS=({words}); COMP_CWORD={last}; _memkv_completion memkv; "
    'echo "${{COMPREPLY[@]}}"',
    "zsh": 'compdef() {{ }}; _arguments() {{ print -r -- "$@" }}; source ./script; words=({words}); '
    "CURRENT={count}; _memkv_completion",
}
NEXT = [
    (["adm"], "admin", "license"),
    (["admin", "s"], "status", "drop"),
    (["g"], "get", "put"),
    (["ls", "--lim"], "--limit", "--prefix"),
]


@pytest.mark.parametrize("shell", ASK)
@pytest.mark.parametrize(
    ("typed", "offered", "other"), NEXT, ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_a_shell_offers_what_comes_next(shell: str, typed: list[str], offered: str, other: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "memkv").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m memkv_server "$@"\n')
    (folder / "memkv").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def run(command: str) -> str:
        done = subprocess.run(
            [program, "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    # The shell is known by the parent process, as it is for a user.
    (tmp_path / "script").write_text(run("memkv --show-completion; true"))
    said = run(ASK[shell].format(words=" ".join(["memkv", *typed]), last=len(typed), count=len(typed) + 1))
    assert offered in said
    assert other not in said
