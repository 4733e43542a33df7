# SPDX-License-Identifier: Apache-2.0
"""Code that the pages show is run: shell and Python on a real cluster, settings by what reads them.

A page's examples share a folder and an environment, as a reader's would. A comment behind an expression says what it
gives. What is shown as a console with its output, or indented, is not run: it wants a GPU, a drive or an hour;
``test_documented.py`` knows its commands and options.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from memkv_core import ClientConfig
from memkv_core.authority import Authority
from memkv_server.config import ServerConfig

ROOT = Path(__file__).parents[2]
# Of an engine that is not installed here: integration-tests/nixl runs it.
ELSEWHERE = {("docs/adapters/dynamo.md", "python")}
LANGUAGES = ("bash", "python", "yaml", "json")


class Reader:
    """Somebody who does what a page says, in one folder and one shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not re.match("MEMKV_|MINIO_|AISTOR_", name)}
        self.environment = {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}
        self.etc = folder / "etc"
        self.etc.mkdir()
        (self.etc / "auth.key").write_text("e5" * 32 + "\n")
        authority = Authority.create(folder / "an-authority", name="docs")
        (self.etc / "minio.license").write_text(authority.issue("docs"))
        # A client's settings, for examples that need some and make none: nothing listens there, nothing has to.
        self.environment |= {
            "MEMKV_SERVERS": "127.0.0.1:9", "MEMKV_AUTH_KEY": "e5" * 32,
            "MEMKV_LICENSE": str(self.etc / "minio.license"), "MEMKV_LICENSE_KEYS": str(authority.public_keys),
        }  # fmt: skip

    def bash(self, example: Example) -> None:
        """Runs it, and goes on with the environment that it left."""
        after = self.folder / "environment"
        script = f"set -euo pipefail\n{example.parsed}\nenv -0 > {after}\n"
        ran = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        pairs = after.read_text().split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)

    def python(self, example: Example) -> None:
        """Runs it in a process; an expression with a comment behind it must give what the comment begins with."""
        source = str(example.parsed)
        lines = source.splitlines()
        for statement in reversed(ast.parse(source).body):
            if isinstance(statement, ast.Expr) and (end := statement.end_lineno) is not None:
                comment = re.search(r"#\s*([\[{(\d\"'TFN][^:]*)", lines[end - 1][statement.end_col_offset :])
                if comment:
                    value = ast.unparse(statement.value)
                    lines[statement.lineno - 1 : end] = [f"assert ({value}) == ({comment[1].strip()})"]
        ran = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, "\n".join(lines) + "\n" + ran.stderr

    def yaml(self, example: Example) -> None:
        """It is yaml; what looks like settings of a client or a node is taken by it."""
        loaded = yaml.safe_load(example.parsed)
        assert loaded
        names = set(loaded) if isinstance(loaded, dict) else set()
        file = self.folder / "example.yaml"
        file.write_text(str(example.parsed).replace("/etc/memkv", str(self.etc)))
        if names and names <= set(ClientConfig.model_fields):
            code = "from memkv_core import ClientConfig; ClientConfig.load()"
            environment = {**self.environment, "MEMKV_CONFIG": str(file)}
            ran = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, ran.stderr
        elif names and names <= set(ServerConfig.model_fields):
            ServerConfig.load(file)

    def json(self, example: Example) -> None:
        """It is JSON."""
        json.loads(str(example.parsed))

    def close(self) -> None:
        """Ends whatever cluster the page left running."""
        for state in self.folder.rglob("memkv-dev"):
            subprocess.run(["memkv", "dev", "down", "--dir", str(state)], env=self.environment, check=False)


def pages() -> Iterator[Path]:
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def examples_of(page: Path) -> list[Example]:
    parsers = [CodeBlockParser(language=language, evaluator=lambda example: None) for language in LANGUAGES]
    return list(Sybil(parsers).parse(page).examples())


def language_of(example: Example) -> str:
    return str(example.document.text[example.region.start :].split("\n", 1)[0]).strip("`").strip()


PAGES = {str(page.relative_to(ROOT)): examples_of(page) for page in pages()}
WITH_EXAMPLES = {name: found for name, found in PAGES.items() if found}


def test_there_are_examples() -> None:
    languages = [language_of(example) for found in PAGES.values() for example in found]
    assert {language: languages.count(language) > 0 for language in LANGUAGES} == dict.fromkeys(LANGUAGES, True)
    assert len(languages) >= 10


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples(page: str, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MEMKV_")]:
        monkeypatch.delenv(name)
    tried = 0
    for example in WITH_EXAMPLES[page]:
        language = language_of(example)
        if (page, language) not in ELSEWHERE:
            run: Any = getattr(reader, language)
            run(example)
            tried += 1
    assert tried > 0, "a page of which nothing is tried belongs to another test"
