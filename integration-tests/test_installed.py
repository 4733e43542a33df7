# SPDX-License-Identifier: Apache-2.0
"""What is loaded is what this repository built.

Packages of the same names on the public index are another vendor's, and installing those instead would go
unnoticed until something behaved differently. pip records where an installed wheel came from (PEP 610): here
that is a file in ``dist/``, with that file's digest, and the modules are loaded from it and nowhere else.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import sysconfig
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

DISTRIBUTIONS = ["memkv-core", "memkv-server", "memkv-sglang", "memkv-lmcache", "memkv-nixl"]


@pytest.fixture(params=DISTRIBUTIONS)
def distribution(request: pytest.FixtureRequest) -> importlib.metadata.Distribution:
    return importlib.metadata.distribution(request.param)


def test_wheel_came_from_dist(distribution: importlib.metadata.Distribution) -> None:
    record = distribution.read_text("direct_url.json")
    assert record is not None, "installed from an index: not ours"
    origin = json.loads(record)
    wheel = Path(unquote(urlparse(origin["url"]).path))
    assert wheel.parent == Path(__file__).parents[1] / "dist"
    assert origin["archive_info"]["hashes"]["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_module_is_loaded_from_the_wheel(distribution: importlib.metadata.Distribution) -> None:
    module = importlib.import_module(distribution.metadata["Name"].replace("-", "_"))
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(sysconfig.get_path("purelib"))
    assert any(Path(str(file.locate())) == Path(module.__file__) for file in distribution.files or [])


def test_all_bear_one_version(distribution: importlib.metadata.Distribution) -> None:
    assert distribution.version == importlib.metadata.version("memkv-core")
    if distribution.metadata["Name"] != "memkv-core":
        assert f"memkv-core=={distribution.version}" in (distribution.requires or [])


def test_author_is_ours(distribution: importlib.metadata.Distribution) -> None:
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
