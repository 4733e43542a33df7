# SPDX-License-Identifier: Apache-2.0
"""The versions of LMCache that are tested, and of NIXL beneath it: see ``engines.toml``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NEWEST = Path(sys.prefix) / "lmcache-newest"  # made by prepare.py
NIXL = Path(sys.prefix) / "nixl"  # the same


def engines(engine: str) -> dict[str, Any]:
    """One section of engines.toml (tomllib is not in Python 3.10)."""
    text = (Path(__file__).parents[2] / "engines.toml").read_text()
    section = text.partition(f"[{engine}]")[2].partition("\n[")[0]
    pairs = [line.split("=", 1) for line in section.splitlines() if "=" in line and not line.startswith("#")]
    return {name.strip(): json.loads(value) for name, value in pairs}
