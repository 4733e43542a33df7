# SPDX-License-Identifier: Apache-2.0
"""Which NIXL versions are tested, and where those that are not installed lie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ENGINES = Path(__file__).parents[2] / "engines.toml"


def engine() -> dict[str, Any]:
    """NIXL's part of ``engines.toml``."""
    if sys.version_info >= (3, 11):
        import tomllib

        described: dict[str, Any] = tomllib.loads(ENGINES.read_text())["nixl"]
        return described
    raise RuntimeError("the tests on NIXL run on Python 3.11 or newer")


def folder_of(version: str) -> Path:
    """The folder of a version that ``prepare.py`` installs; it is put before all others in PYTHONPATH."""
    return Path(sys.prefix) / f"nixl-{version}"
