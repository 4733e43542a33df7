# SPDX-License-Identifier: Apache-2.0
"""The page of all messages is complete, and whoever is told what is wrong is told what to do about it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import memkv_core
import memkv_server
from memkv_core import errors
from memkv_core.errors import MemKVError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))
messages = importlib.import_module("messages")

# Raised through the types below them only.
BASES = {"MemKVError", "TransportError", "ProtocolError", "_OtherWayError"}
# Told by what is filled in, or never seen by anybody but who writes code.
WITHOUT_REMEDY = {
    "is no key for": "between the files of one authority",
    "is no private key": "the same",
    "is not an authority of this version": "the same",
    "holds no license authority": "the remedy is filled in",
    "cannot be read": "the system says why",
    "NIXL ... cannot be imported": "Python says why",
    "digest kind": "an engine that is used wrongly",
    "it was stopped": "by the operator",
    "offset": "a drive's own words",
}


def subclasses(of: type[MemKVError]) -> Iterator[type[MemKVError]]:
    for each in of.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_type_of_error_is_in_a_group() -> None:
    for package in (memkv_core, memkv_server):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not re.search(r"\.testing|__main__|pyverbs|otel|prometheus", module.name):
                importlib.import_module(module.name)
    ours = {
        each.__name__ for each in subclasses(MemKVError) if each.__module__.startswith(("memkv_core", "memkv_server"))
    }
    grouped = {name for _, names in messages.GROUPS.values() for name in names}
    assert ours - grouped - BASES == set(), "docs/site/messages.py does not know them"


def test_every_error_with_words_of_its_own_is_on_the_page() -> None:
    """Against another reading of the sources: the first literal of every error that is raised stands there."""
    page = messages.page()
    assert len(messages.collect()) > 400
    names = {name for name in dir(errors) if name.endswith("Error")}
    checked = 0
    for path in [*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("shared/*/src/**/*.py")]:
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                name = getattr(node.exc.func, "id", "")
                first = node.exc.args[0]
                if name in names - BASES and isinstance(first, ast.Constant) and isinstance(first.value, str):
                    assert " ".join(first.value.split()).replace("|", "\\|") in page, f"{path.name}:{node.lineno}"
                    checked += 1
    assert checked > 50


@pytest.mark.parametrize("kind", ["ConfigError", "LicenseError", "InvalidArgumentError", "StorageError"])
def test_what_an_operator_or_a_caller_did_has_a_remedy(kind: str) -> None:
    found = [each for each in messages.collect() if each.kind == kind]
    assert len(found) > 20
    told = (*WITHOUT_REMEDY,)
    bare = [each for each in found if not each.remedy and not any(words in each.text for words in told)]
    assert bare == []


def test_what_is_explained_is_on_the_page() -> None:
    page = re.sub(r"\s+", " ", messages.page().replace("`", ""))
    explained = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    missing = []
    for message in explained:
        words = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
        if not re.search(".{0,80}".join(words), page):
            missing.append(message)
    # Of the wire's refusals and of texts that are put together.
    assert len(missing) <= 12, missing
