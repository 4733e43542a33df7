# SPDX-License-Identifier: Apache-2.0
"""What the package is from outside: its names, its version, and what importing it brings along."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

import memkv_core


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after ``statement``."""
    code = f"{statement}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in ran.stdout.split()}


def test_public_names() -> None:
    assert set(memkv_core.__all__) == {"Client", "ClientConfig", "ClientStats", "Region", "__version__", "errors"}
    for name in memkv_core.__all__:
        assert getattr(memkv_core, name) is not None
    assert dir(memkv_core) == sorted(memkv_core.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = memkv_core.nonsense


def test_one_version_and_our_own_wheel() -> None:
    found = metadata("memkv-core")
    assert found["Version"] == memkv_core.__version__
    authors = [*(found.get_all("Author") or []), *(found.get_all("Author-email") or [])]  # one of them is not there
    assert "The MemKV Authors" in " ".join(authors)
    assert found["License-Expression"] == "Apache-2.0"


def test_an_import_brings_no_test_tools_and_little_else() -> None:
    assert not loaded_by("import memkv_core") & {"pydantic", "jwt", "numpy", "cryptography", "pytest", "hypothesis"}
    everything = loaded_by("import memkv_core.client, memkv_core.config, memkv_core.license, memkv_core.guard")
    assert not everything & {"pytest", "hypothesis", "memkv_server", "torch"}
    kit = loaded_by("import memkv_core.testing.loopback, memkv_core.testing.faults, memkv_core.testing.vectors")
    assert not kit & {"pytest", "hypothesis"}


def test_only_the_kit_imports_pytest_and_nothing_imports_the_server() -> None:
    root = Path(memkv_core.__file__).parent
    sources = sorted(root.rglob("*.py"))
    assert len(sources) > 30
    for path in sources:
        text = path.read_text()
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        assert not re.search(r"^\s*(import|from) memkv_(server|sglang|lmcache|nixl)", text, re.MULTILINE), path
        if root / "testing" not in path.parents:
            assert not re.search(r"^\s*(import|from) (pytest|hypothesis|memkv_core\.testing)", text, re.MULTILINE), path
