# SPDX-License-Identifier: Apache-2.0
"""What the pages say of settings and commands is what the packages have."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from pydantic import BaseModel
from rich.text import Text

from memkv_core import ClientConfig
from memkv_core.metrics import client_table
from memkv_lmcache import options as lmcache_options
from memkv_lmcache.cli import app as lmcache_app
from memkv_nixl.cli import app as nixl_app
from memkv_server import metric_table
from memkv_server.cli.app import app as server_app
from memkv_server.config import ServerConfig
from memkv_server.events import EVENTS
from memkv_sglang.cli import app as sglang_app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS_PAGE = (ROOT / "docs/config.md").read_text()
APPS = {"memkv": server_app, "memkv-sglang": sglang_app, "memkv-lmcache": lmcache_app, "memkv-nixl": nixl_app}
COMMANDS = {name: typer.main.get_command(app) for name, app in APPS.items()}


@pytest.mark.parametrize("name", ClientConfig.model_fields)
def test_client_setting_is_documented(name: str) -> None:
    assert f"| `{name}` | `MEMKV_{name.upper()}` |" in SETTINGS_PAGE


def _dotted(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of a table of sections; a list of sections counts as one setting."""
    for name, field in model.model_fields.items():
        inner = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
        if any(issubclass(each, BaseModel) for each in inner) and not get_args(field.annotation):
            yield from _dotted(next(each for each in inner if issubclass(each, BaseModel)), f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize("name", list(_dotted(ServerConfig)))
def test_node_setting_is_documented(name: str) -> None:
    assert f"`{name}`" in SETTINGS_PAGE


@pytest.mark.parametrize("name", sorted({*lmcache_options.MP, *lmcache_options.IN_PROCESS}))
def test_option_of_lmcache_is_documented(name: str) -> None:
    page = (ROOT / "docs/adapters/vllm.md").read_text()
    before, after = page.split("## 4b.")
    default = {each.name: each.default for each in dataclasses.fields(lmcache_options.Options)}[name]
    row = f"| `{name}` | {f'`{default}`' if default else 'none'} |"
    assert (row in before) == (name in lmcache_options.MP)
    assert (row in after) == (name in lmcache_options.IN_PROCESS)


def _variables(page: Path) -> set[str]:
    return set(re.findall(r"\bMEMKV_[A-Z_]+[A-Z]\b", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_variables_that_a_page_names_exist(page: Path) -> None:
    known = {f"MEMKV_{name.upper()}" for name in ClientConfig.model_fields}
    known |= {"MEMKV_CONFIG", "MEMKV_STAGING"}  # the chain's own, the head of two
    known |= ClientConfig.other_variables
    unknown = {name for name in _variables(page) - known if not name.startswith("MEMKV_SERVER_")}
    assert not unknown


def _commands() -> Iterator[tuple[str, str]]:
    """Every command of ours in a code block or in code in a line: (page, command line)."""
    pattern = re.compile(
        r"(?:^ {4,}|^\$ |^|`|\$\()((?:memkv|memkv-sglang|memkv-lmcache|memkv-nixl) [a-z][^`\n]*)", re.MULTILINE
    )
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        for match in pattern.finditer(text):
            yield str(page.relative_to(ROOT)), re.split(r" +#| [>|&;]|\)", match[1])[0].strip()


@pytest.mark.parametrize(("page", "line"), sorted(set(_commands())))
def test_command_that_a_page_shows_exists(page: str, line: str) -> None:
    _assert_exists(page, line)


def _assert_exists(page: str, line: str) -> None:
    """A command line has a command and options that there are."""
    name, *words = shlex.split(line)
    command: Any = COMMANDS[name]
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        # `a|b` in a page stands for either; the first is looked up here, the others are in the group's help.
        assert words[0] in command.commands, f"{page}: {line!r}: no such command"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    used = {word.split("=")[0] for word in words if word.startswith("-")}
    assert used <= known | {"--help"}, f"{page}: {line!r}"


def _leaves(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something: (its words, it)."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
    for word, each in (inner or {}).items():
        yield from _leaves(f"{words} {word}", each)


LEAVES = dict(pair for name, command in COMMANDS.items() for pair in _leaves(name, command))


@pytest.mark.parametrize("words", LEAVES)
def test_help_of_a_command_says_what_it_does_and_shows_it(words: str) -> None:
    command = LEAVES[words]
    assert command.help
    for parameter in command.params:
        assert parameter.help or getattr(parameter, "hidden", False), f"{words}: {parameter.name} is not explained"
    said = Text.from_markup(command.epilog or "").plain
    assert "Examples:" in said
    assert re.search(rf"(?<![\w-]){words}(?![\w-])", said), f"{words}: no example of itself"
    for line in re.findall(r"(?<![\w./-])memkv(?:-\w+)? [a-z][^|)&>\n]*", said):
        _assert_exists(f"{words} --help", re.split(r" {3,}| #", line)[0].strip().removesuffix('"'))


def test_page_of_metrics_is_what_the_code_makes_of_its_tables() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import reference; print(reference.metrics_page(), end='')"],
        cwd=ROOT / "docs/site", capture_output=True, text=True, check=True,
        env={"PYTHONPATH": os.pathsep.join([str(ROOT / "docs/site"), *sys.path])},
    ).stdout  # fmt: skip
    assert (ROOT / "docs/metrics.md").read_text() == made, "write it anew: nox -s reference"


def test_metrics_that_a_page_names_exist() -> None:
    names = {name for metric in {**metric_table.TABLE, **client_table.TABLE}.values() for name in metric.exposed}
    for page in PAGES:
        for name in re.findall(r"\bmemkv_[a-z_]+_(?:total|bytes|seconds|records|seconds_bucket)\b", page.read_text()):
            assert name in names or name in {metric.removesuffix("_bucket") for metric in names}, f"{page}: {name}"


def test_events_of_the_log_are_documented_as_the_code_has_them() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", page.split("## Logs")[1], re.MULTILINE) == list(EVENTS.items())


def test_pages_show_commands() -> None:
    assert len(list(_commands())) > 10, "the pattern that finds them is broken"


def test_gate_runs_the_sessions_that_the_page_says() -> None:
    page = (ROOT / "docs/testing.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (.*)$", page, re.MULTILINE)
    documented = [name for name, row in rows if "not in `.ci/run`" not in row]
    *_, last = (ROOT / ".ci/run").read_text().splitlines()
    python, module, nox, option, *sessions = shlex.split(last)
    assert (python, module, nox, option) == ("$python", "-m", "nox", "-s")
    assert set(documented) == set(sessions)
    assert {"lint", "typecheck", "tests"} <= set(sessions)
